"""Writing the small files of a run so that a fault leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Iterator

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
