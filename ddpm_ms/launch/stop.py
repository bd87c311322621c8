"""Signals to the launcher: the first asks, the next kills."""

from __future__ import annotations

import signal
import time
from typing import Any

from ddpm_ms.launch.members import Members
from ddpm_ms.runtime.signals import SAME_REQUEST_SECONDS, SIGNALS


class Stop:
    """Within the block, signals are noted; `pass_on` hands them to the ranks.

    The first lets every rank save and end. A second one, or ``seconds`` after the first, kills. What comes within
    `SAME_REQUEST_SECONDS` of the first is still the first.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.signals: list[int] = []
        self._asked = 0.0
        self.killed = ""  # why
        self._deadline: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def _receive(self, number: int, frame: Any) -> None:
        if not self.signals:
            self._asked = time.monotonic()
        elif time.monotonic() - self._asked <= SAME_REQUEST_SECONDS:
            return
        self.signals.append(number)

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pass_on(self, members: Members) -> None:
        """Tell the ranks, those included that have come since. Not the scheduler: without it no rank could finish its step."""
        if not self.signals:
            return
        for member in members.ranks:
            member.send(signal.SIGTERM)
        self._deadline = self._deadline or time.monotonic() + self.seconds
        if len(self.signals) > 1:
            self.killed = f"{signal.Signals(self.signals[1]).name}, the second signal"
        elif time.monotonic() > self._deadline:
            self.killed = f"not ended {self.seconds:g} seconds after {signal.Signals(self.signals[0]).name}"
        if self.killed:
            members.send(signal.SIGKILL)
