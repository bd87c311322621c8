"""How a run shows its progress: a bar where somebody looks, lines where a file or a notebook does; and how long it will take."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from typing import Any, Iterator

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ddpm_ms.progress import SHORT, duration, on_console

log = logging.getLogger("ddpm_ms")

FIRST_STEPS, FIRST_SECONDS = 10, 60  # after so many steps, or after so long, it is said how long the run will take
WORTH_A_STOP = 600  # seconds; who is told of more is told that the run can be stopped
LONG_ON_A_CPU = 4 * 3600  # seconds
IN_BAR = "in_bar"  # attribute of a line that the bar says too


class Progress:
    """The bar, or the lines, of one process.

    Args:
        total_steps: of the run.
        log_every: optimizer steps between two lines.
        device: on which it is trained.
        active: whether this rank shows anything.
    """

    def __init__(self, total_steps: int, log_every: int, device: str, active: bool) -> None:
        self._total_steps, self._log_every, self._device, self._active = total_steps, log_every, device, active
        self._bar = tqdm(disable=True)
        self._begin(0)

    def _begin(self, step: int) -> None:
        self._step, self._estimated, self._epoch_told = step, False, step
        self._timed: tuple[int, float] | None = None  # step and time at which the clock started

    @contextlib.contextmanager
    def shown(self, step: int) -> Iterator[None]:
        """Within the block the bar is there, from ``step`` on, and log lines do not break it."""
        self._begin(step)
        self._bar = tqdm(total=self._total_steps, initial=step, unit="step", disable=not self._active or not sys.stderr.isatty())
        with self._bar, logging_redirect_tqdm(on_console()), _spared(not self._bar.disable):
            yield

    def advance(self) -> None:
        """One step was done."""
        self._bar.update()
        self._step += 1
        if self._timed is None:  # the first step compiles
            self._timed = self._step, time.monotonic()
        elif self._active and not self._estimated:
            self._estimate(self._step - self._timed[0], time.monotonic() - self._timed[1])

    def _estimate(self, steps: int, seconds: float) -> None:
        """Say once how long the run will take, as soon as that can be told."""
        if steps < FIRST_STEPS and seconds < FIRST_SECONDS:
            return
        self._estimated, left = True, self.seconds_left
        if left is None or left < SHORT:
            return
        hint = "; Ctrl-C stops and saves, and the same again resumes" if left > WORTH_A_STOP else ""
        if self._device == "CPU" and left > LONG_ON_A_CPU:
            hint = "; for a CPU there is a smaller recipe, configs/folder_cpu.yaml"
        log.info("about %s on this %s for the %s steps to go%s", duration(left), self._device,
                 f"{self._total_steps - self._step:,}", hint)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the pace so far, with what comes between steps; None before the second step of a start."""
        if self._timed is None or self._step == self._timed[0]:
            return None
        first, since = self._timed
        return (time.monotonic() - since) / (self._step - first) * (self._total_steps - self._step)

    def show(self, row: dict[str, Any]) -> None:
        """Say what a row of metrics.jsonl says."""
        self._bar.set_postfix(loss=f"{row['loss']:.4f}")
        if not self._active:
            return
        step, total = row["step"], self._total_steps
        if "validation_loss" in row:
            log.info("step %d/%d  validation loss %.5f", step, total, row["validation_loss"])
        if "epoch" in row and (step - self._epoch_told >= self._log_every or step == total):  # small data would have one a second
            self._epoch_told = step
            log.info("epoch %d: mean loss %.4f", row["epoch"], row["epoch_loss"])
        if "epoch" not in row or step % self._log_every == 0:
            speed, left = row["images_per_second"], self.seconds_left
            log.info("step %d/%d  loss %.4f  grad norm %.3f  lr %.2e%s%s", step, total, row["loss"], row["grad_norm"], row["lr"],
                     "" if speed is None else f"  {speed:.1f} images/s",
                     f"  {duration(left)} left" if left and step < total else "", extra={IN_BAR: True})


    def show_measured(self, row: dict[str, Any]) -> None:
        """Say what was measured of drawn images."""
        if self._active:
            numbers = [f"{name} {value:.6g}" for name, value in row.items()
                       if name not in ("step", "time", "evaluated") and value is not None]
            log.info("step %d/%d  %s  (%s)", row["step"], self._total_steps, "  ".join(numbers) or "nothing measured",
                     row["evaluated"])


@contextlib.contextmanager
def _spared(active: bool) -> Iterator[None]:
    """Within the block the terminal, where the bar says it, gets no line for every row; files do."""
    handlers = [handler for logger in (log, logging.root) for handler in logger.handlers
                if active and not isinstance(handler, logging.FileHandler)]

    def said(record: logging.LogRecord) -> bool:
        return not hasattr(record, IN_BAR)

    for handler in handlers:
        handler.addFilter(said)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(said)
