"""How a run shows its progress: a bar where somebody looks, lines where a file does."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, Iterator

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger("ddpm_ms")


class Progress:
    """The bar, or the lines, of one process.

    Args:
        total_steps: of the run.
        log_every: optimizer steps between two lines.
        active: whether this rank shows anything.
    """

    def __init__(self, total_steps: int, log_every: int, active: bool) -> None:
        self._total_steps, self._log_every, self._active = total_steps, log_every, active
        self._bar = tqdm(disable=True)

    @contextlib.contextmanager
    def shown(self, step: int) -> Iterator[None]:
        """Within the block the bar is there, from ``step`` on, and log lines do not break it."""
        self._bar = tqdm(total=self._total_steps, initial=step, unit="step", disable=not self._active or not sys.stderr.isatty())
        with self._bar, logging_redirect_tqdm():
            yield

    def advance(self) -> None:
        """One step was done."""
        self._bar.update()

    def show(self, row: dict[str, Any]) -> None:
        """Say what a row of metrics.jsonl says."""
        self._bar.set_postfix(loss=f"{row['loss']:.4f}")
        if not self._active:
            return
        step, total = row["step"], self._total_steps
        if "validation_loss" in row:
            log.info("step %d/%d  validation loss %.5f", step, total, row["validation_loss"])
        if "epoch" in row:
            log.info("epoch %d: mean loss %.4f", row["epoch"], row["epoch_loss"])
        if self._bar.disable and ("epoch" not in row or step % self._log_every == 0):
            log.info("step %d/%d  loss %.4f  grad norm %.3f  lr %.2e  %.1f images/s", step, total, row["loss"], row["grad_norm"],
                     row["lr"], row["images_per_second"])
