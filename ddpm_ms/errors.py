"""The one error class for mistakes a user can make, and the checks that raise it."""

from __future__ import annotations

import contextlib
import difflib
from typing import Iterable, Iterator

LONGEST_LINE = 2000  # of a message, in characters


class InputError(ValueError):
    """A value that the user gave is wrong.

    Its text is one line that names the value and what is allowed. The command line prints that line and exits with
    status 2; in Python it is an ordinary ``ValueError``. What comes from a file may hold anything: line breaks and what
    else would move a terminal's cursor are shown as escapes, and a line of thousands of characters is cut.
    """

    def __init__(self, text: str) -> None:
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:LONGEST_LINE + 1])
        super().__init__(text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}...")


class TrainingError(RuntimeError):
    """Training cannot go on: the loss diverged, or no checkpoint can be written. One line; the command line prints it and exits
    with status 1."""


class EvaluationError(RuntimeError):
    """An evaluation ran and its result is below what is asked of it; the command line exits with status 1."""


@contextlib.contextmanager
def needed(package: str, what: str) -> Iterator[None]:
    """Around the import of an optional ``package``: if it is missing, `InputError` says that ``what``, and how to get it."""
    try:
        yield
    except ModuleNotFoundError:
        raise InputError(f"{what}, but {package} is not installed: pip install {package}") from None


def shown(value: object) -> str:
    """``repr(value)``, cut where it is long, whatever a file may hold."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def did_you_mean(name: str, allowed: Iterable[str], prefix: str = "") -> str:
    """``", did you mean 'x'?"`` for the nearest allowed name, behind ``prefix``, or an empty string when none is near."""
    near = difflib.get_close_matches(shown(name).strip("'"), [str(a) for a in allowed], n=1, cutoff=0.5)
    return f", did you mean '{prefix}{near[0]}'?" if near else ""


def check_choice(what: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``allowed``, else raise `InputError` naming all of them."""
    allowed = list(allowed)
    if value not in allowed:
        names = ", ".join(str(a) for a in allowed)
        raise InputError(f"{what} is {shown(value)}, allowed: {names}{did_you_mean(value, allowed)}")
    return value


def check_range(what: str, value: float, low: float | None = None, high: float | None = None) -> float:
    """Return ``value`` if ``low <= value <= high``, else raise `InputError` naming the bounds."""
    # `not (a <= b)` instead of `a > b`: a NaN must be refused too.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        if high is None:
            allowed = f"at least {low}"
        elif low is None:
            allowed = f"at most {high}"
        else:
            allowed = f"{low} to {high}"
        raise InputError(f"{what} is {shown(value)}, allowed: {allowed}")
    return value
