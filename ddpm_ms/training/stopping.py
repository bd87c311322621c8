"""Stopping on request: SIGTERM and SIGINT end training after the step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from ddpm_ms.runtime.signals import SAME_REQUEST_SECONDS, SIGNALS


class StopRequest:
    """Within the block, the first signal sets ``requested``; a second one leaves the process at once.

    Leaving at once loses the steps since the last checkpoint and nothing else: a checkpoint gets its name when it is
    complete. Only the main thread can receive signals; elsewhere the block does nothing.
    """

    def __init__(self) -> None:
        self.requested: str | None = None  # the signal's name
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if self.requested is None:
            self.requested, self._since = signal.Signals(number).name, time.monotonic()
            # Not through logging: the signal may have come in the middle of a log line.
            os.write(2, b"\nasked to stop: ending after this step, which is saved; a second signal leaves at once\n")
        elif time.monotonic() - self._since > SAME_REQUEST_SECONDS:
            os._exit(128 + number)
