"""What is said while something takes its time: a bar where somebody looks, lines where a file or a notebook does."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from typing import Any, Iterable, Iterator, TypeVar

log = logging.getLogger("ddpm_ms")

SHORT = 2  # seconds: what is over sooner gets no line
EVERY = 30  # seconds between two lines

Item = TypeVar("Item")


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Within the block the package's lines are there, also in a script or a notebook that has not set up logging: on stderr, as
    the command line shows them. Who has set it up keeps what that is: a level of the logger "ddpm_ms", and every handler."""
    unset, handler = log.level == logging.NOTSET, None
    if unset and not log.isEnabledFor(logging.INFO):
        log.setLevel(logging.INFO)
    if not log.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    try:
        yield
    finally:
        if handler is not None:
            log.removeHandler(handler)
        if unset:
            log.setLevel(logging.NOTSET)


def on_console() -> list[logging.Logger]:
    """The loggers that write to the terminal: the root's, as the command line sets it up, or that of `heard`."""
    return [logger for logger in (log, logging.root)
            if any(getattr(handler, "stream", None) in (sys.stdout, sys.stderr) for handler in logger.handlers)]


@contextlib.contextmanager
def progress(total: int | None = None, unit: str = "step", active: bool = True, what: str = "") -> Iterator[Any]:
    """Within the block somebody sees how far something has come, and how long the rest takes.

    Args:
        total: how many steps; where that is found out later, the attribute ``total`` takes it.
        unit: what a step is called, singular.
        active: whether this rank shows anything.
        what: is going on.

    Yields:
        Something with ``update(n=1)``, to be called after each step.
    """
    if active and not sys.stderr.isatty():
        with heard():
            yield _Lines(total, unit, what)
        return
    from tqdm import tqdm  # takes its time

    with tqdm(total=total, unit=unit, desc=what or None, disable=not active, leave=False) as bar:
        yield bar


def watched(items: Iterable[Item], total: int, unit: str, what: str) -> Iterator[Item]:
    """``items``, with `progress` from one to the next."""
    with progress(total, unit, what=what) as bar:
        for item in items:
            yield item
            bar.update()


class _Lines:
    """What `progress` yields where nobody looks: after `SHORT` a line of the log, and then one every now and then."""

    def __init__(self, total: int | None, unit: str, what: str) -> None:
        self.total, self._unit, self._what = total, unit, what
        self._done, self._due = 0, time.monotonic() + SHORT
        self._first: tuple[int, float] | None = None  # steps done and the time after the first update, which may have compiled

    def update(self, n: int = 1) -> None:
        """``n`` steps were done."""
        self._done += n
        now = time.monotonic()
        if self._first is None and self._done:
            self._first = self._done, now
        steps, since = self._first or (0, now)
        if self.total and steps < self._done < self.total and now >= self._due:
            self._due = now + EVERY
            log.info("%s%d of %d %ss, about %s left", f"{self._what}: " if self._what else "", self._done, self.total, self._unit,
                     duration((now - since) / (self._done - steps) * (self.total - self._done)))


def duration(seconds: float) -> str:
    """``"12.3 s"``, ``"4 min 05 s"``, ``"2 h 03 min"`` or ``"3 days 4 h"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
