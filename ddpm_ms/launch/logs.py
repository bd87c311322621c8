"""The logs of ranks: cleared before a job, shown live, and quoted after a failure."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ddpm_ms.errors import InputError
from ddpm_ms.launch.job import Job

TAIL_BYTES = 65536  # of a log, enough for its last lines
MINDSPORE_INFO, MINDSPORE_LINES = b"[INFO]", (b"[INFO]", b"[WARNING]")
WAITING = b"waiting for "  # begins a line of a rank that says nothing more until it has what it waits for
WAIT_SECONDS = 10.0  # after which that line is shown again


def prepare_logs(job: Job) -> None:
    """Make the directory, without the logs of an earlier job. Nodes may share it, so that each removes its own ranks' alone.

    Raises:
        InputError: it cannot be written.
    """
    try:
        _clear(job)
    except OSError as error:
        raise InputError(f"log directory {job.logs} cannot be written: {error.strerror or error}") from None


def _clear(job: Job) -> None:
    job.logs.mkdir(parents=True, exist_ok=True)
    old = [job.log_of(f"rank {job.first_rank + number}") for number in range(job.ranks)]
    if job.nodes == 1:
        old += job.logs.glob("worker_*.log")
    if job.node_rank == 0:
        old.append(job.log_of("scheduler"))
    for path in old:
        path.unlink(missing_ok=True)
    job.msrun_log.touch()


class LiveLog:
    """Copies the whole lines that are added to ``path``, but for MindSpore's [INFO], to a file descriptor.

    A last line that begins with "waiting for" is shown every ten seconds, with the time that has passed.
    """

    def __init__(self, path: Path, descriptor: int = 1) -> None:
        self.path = path
        self.descriptor = descriptor
        self.closed = False  # nobody reads any more
        self._position = 0
        self._partial = b""
        self._last, self._came, self._shown = b"", 0.0, 0.0

    def copy(self, last: bool = False) -> None:
        """Copy what is new; ``last``: the last line, too, even if it has no end."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return
        self._position += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        lines = [line + b"\n" for line in lines]
        if last and self._partial:
            lines.append(self._partial + b"\n")
        lines = [line for line in lines if not line.startswith(MINDSPORE_INFO)]
        if lines:
            self._last, self._came = lines[-1], time.monotonic()
            self._shown = self._came
        self._write(b"".join(lines))

    def remind(self) -> None:
        """Show what is waited for, if the time has come."""
        now = time.monotonic()
        if self._last.startswith(WAITING) and now - self._shown >= WAIT_SECONDS:
            self._shown = now
            self._write(b"%s (%d s)\n" % (self._last.rstrip(), now - self._came))

    def _write(self, data: bytes) -> None:
        while data and not self.closed:
            try:
                data = data[os.write(self.descriptor, data):]
            except BrokenPipeError:  # the job goes on
                self.closed = True


def last_lines(path: Path, count: int = 5) -> str:
    """The end of a log, without MindSpore's own lines; nothing where there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return ""
    said = [line for line in lines if not line.startswith(MINDSPORE_LINES)]
    return b"\n".join(said[-count:]).decode(errors="replace")
