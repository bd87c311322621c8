"""Before there are many: one process finds what every rank would find."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Sequence

from ddpm_ms.launch.stop import Stop

POLL_SECONDS = 0.05


def rehearse(command: Sequence[str], stop: Stop) -> int:
    """Run ``command`` without its standard output; returns its status, or that of the signal that ended it."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if stop.signals:
                process.kill()
            time.sleep(POLL_SECONDS)
    if stop.signals:
        return 128 + stop.signals[0]
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def device_trial(device: str) -> list[str]:
    """The command that fails, with one line, unless ``device`` starts and computes."""
    return [sys.executable, "-m", "ddpm_ms.launch.rehearsal", device]


def main(device: str) -> int:
    """Start ``device``: 0, or 2 with what is missing on standard error."""
    from ddpm_ms import runtime
    from ddpm_ms.config import RuntimeConfig, replace
    from ddpm_ms.errors import InputError

    try:
        runtime.setup(replace(RuntimeConfig(), device=device))
    except InputError as error:
        print(f"ddpm-ms: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
