"""Beside every rank: starts its command, tells the launcher how it ends, and ends it when the launcher asks or is gone.

msrun starts this file, once per rank and once for its scheduler: ``python3 rank.py SOCKET COMMAND ...``. It needs the standard
library alone. To the launcher go lines of JSON: the name ("rank 3", "scheduler"), the process number, and the status, negative
for a signal. From the launcher come bytes, each the number of a signal for the command.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any


def main(address: str, *command: str) -> int:
    """Run ``command`` to its end; returns its status as a shell would, 128 + signal."""
    with socket.socket(socket.AF_UNIX) as launcher:
        launcher.connect(address)  # fails, and nothing is started, if the launcher has gone
        tell(launcher, name=name_of(os.environ))
        # A session of its own, so that its children can be found and ended with it.
        process = subprocess.Popen(command, start_new_session=True)
        for number in (signal.SIGTERM, signal.SIGINT):  # somebody signals everything that is called python
            signal.signal(number, lambda number, frame: send(number, process.pid))
        tell(launcher, pid=process.pid)
        threading.Thread(target=obey, args=(launcher, process.pid), daemon=True).start()
        # Without reaping it: until then no other process can get its number.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        send(signal.SIGKILL, process.pid)
        status = process.wait()
        tell(launcher, status=status)
    return status if status >= 0 else 128 - status


def name_of(environment: Any) -> str:
    """What msrun's variables make of this process."""
    return "scheduler" if environment.get("MS_ROLE") == "MS_SCHED" else f"rank {environment.get('RANK_ID', '?')}"


def tell(launcher: socket.socket, **message: Any) -> None:
    """Send ``message``; a launcher that has gone needs none."""
    with contextlib.suppress(OSError):
        launcher.sendall(json.dumps(message).encode() + b"\n")


def obey(launcher: socket.socket, pid: int) -> None:
    """Deliver the signals that the launcher sends; without a launcher, kill."""
    with contextlib.suppress(OSError):
        while number := launcher.recv(1):
            send(number[0], pid)
    send(signal.SIGKILL, pid)


def send(number: int, pid: int) -> None:
    """Signal a process; SIGKILL goes to its children, too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
