"""Writing the small files of a run so that a fault leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any, Iterator

log = logging.getLogger("ddpm_ms")


def write_whole(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, under its own name only when complete."""
    partial = path.with_name(f".partial_{path.name}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def append_json(path: Path, value: dict[str, Any]) -> None:
    """Append ``value`` as a line of its own: whole or, when that raises `OSError`, not at all; not into half a line that a kill
    left behind."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab+") as file:
            file.seek(max(size - 1, 0))
            torn = file.read(1) not in (b"", b"\n")
            file.write(f"{chr(10) * torn}{json.dumps(value)}\n".encode())
    except OSError:
        with contextlib.suppress(OSError):  # half a line would spoil the next one
            os.truncate(path, size)
        raise


@contextlib.contextmanager
def log_to(path: Path, active: bool) -> Iterator[None]:
    """Within the block the package's log lines are appended to ``path`` as well."""
    if not active:
        yield
        return
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # what a full disk did not take
            handler.close()


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk costs lines of the log, not the run; the terminal has them."""
