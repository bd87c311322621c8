"""One run directory, one process that trains in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Iterator

from ddpm_ms.errors import InputError
from ddpm_ms.runtime import Runtime, ranks

log = logging.getLogger("ddpm_ms")

NAME = ".lock"
_held: set[str] = set()  # by this process, within which the system's lock does not tell two runs apart


@contextlib.contextmanager
def alone(folder: Path, runtime: Runtime) -> Iterator[None]:
    """Within the block nobody else trains in ``folder``, which is made if it is not there.

    The lock is the operating system's, on a small file that says who has it. It goes with the process, however that ends: the
    file stays, and means nothing without the lock. `fcntl.lockf` holds between machines, too, on a file system that they share
    over NFS; where the file system has no locks, a warning says so.

    Args:
        folder: the run directory.
        runtime: rank 0 takes the lock; what keeps it from that is raised by every rank.

    Raises:
        InputError: somebody has the lock, or the folder cannot be written.
    """
    lock = _Lock(folder)
    ranks.on_rank_0(lock.acquire, runtime)
    try:
        yield
    finally:
        lock.release()


class _Lock:
    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, str(Path(folder, NAME).resolve())
        self._descriptor: int | None = None

    def acquire(self) -> None:
        # First, because closing a file gives up every lock that the process has on it.
        if self._path in _held:
            raise InputError(f"run directory {self._folder} is trained by this process already, allowed: another one")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"run directory {self._folder} cannot be written: {error.strerror or error}") from None
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _said(descriptor)
            os.close(descriptor)
            raise InputError(f"run directory {self._folder} is trained by {holder}, allowed: this one when that has ended, or "
                             "another --run-dir") from None
        except OSError as error:
            os.close(descriptor)
            log.warning("run directory %s cannot be locked (%s): do not start it twice", self._folder, error.strerror or error)
            return
        _held.add(self._path)
        self._descriptor = descriptor
        _say(descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self._path)


def _say(descriptor: int) -> None:
    told = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(told).encode() + b"\n", 0)


def _said(descriptor: int) -> str:
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(told['pid'])} on {told['host']} since {told['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # it has the lock, and has not written yet
        return "another process"
