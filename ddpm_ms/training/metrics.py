"""What training measures: collected per step, written per interval to metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import Any, Iterator, Mapping

import numpy as np

from ddpm_ms.runtime import Runtime, ranks
from ddpm_ms.training.files import append_json, write_whole
from ddpm_ms.visual.runs import measurements, metrics_rows

log = logging.getLogger("ddpm_ms")

QUARTERS = 4


class Metrics:
    """The run's measurements.

    Args:
        path: metrics.jsonl; one JSON object per line.
        timesteps: T, to split losses by quarter of t.
        runtime: rank 0 writes the file; what is measured is over all ranks.
    """

    def __init__(self, path: Path, timesteps: int, runtime: Runtime) -> None:
        self._path, self._timesteps, self._runtime = path, timesteps, runtime
        self.rows: list[dict[str, Any]] = []
        self.measured: list[dict[str, Any]] = []  # rows of `measure`
        self.last_loss: float | None = None  # the last that was finite, mean over this rank's images of a step
        self._reset()

    def rewind(self, step: int) -> None:
        """Read the rows back, dropping those after ``step``: a resumed run writes them again."""
        if not self._path.is_file():
            return
        text = self._path.read_text(encoding="utf-8", errors="replace")
        self.rows, self.measured = ([row for row in found if row["step"] <= step] for found in (
            metrics_rows(text), measurements(text)))
        rows = sorted([*self.rows, *self.measured], key=lambda row: row["step"])  # of one step, what it measured comes last
        if len(rows) < len(text.splitlines()) or not text.endswith("\n"):
            write_whole(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def add(self, losses: np.ndarray, t: np.ndarray, weights: np.ndarray | None, grad_norm: float) -> None:
        """One optimizer step: losses, noise levels and weights (None for ones) of its images, each (B,)."""
        self._losses.append(losses)
        self._t.append(t)
        self._weights.append(np.ones_like(losses) if weights is None else weights)
        self._norms.append(grad_norm)
        self._timed += losses.size
        self.last_loss = float(losses.mean())

    @property
    def pending(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._losses)

    def write(self, step: int, ended: int | None, epoch_loss: list[float], **values: Any) -> dict[str, Any]:
        """End the interval at ``step``: append one row, over all ranks, which all must ask for, and return it.

        ``epoch_loss`` is the sum of losses and the number of images of the epoch so far. This interval's are added; if the
        epoch number ``ended`` is over, the row has its mean and they begin at zero again.
        """
        losses, t, weights = (ranks.gather(np.concatenate(rows), self._runtime)
                              for rows in (self._losses, self._t, self._weights))
        seconds = time.perf_counter() - self._since
        row: dict[str, Any] = {"step": step, "time": round(time.time(), 3), "loss": float(np.average(losses, weights=weights))}
        for quarter in range(QUARTERS):
            chosen = t * QUARTERS // self._timesteps == quarter
            mean = float(np.average(losses[chosen], weights=weights[chosen])) if chosen.any() else None
            row[f"loss_q{quarter + 1}"] = mean
        epoch_loss[:] = epoch_loss[0] + row["loss"] * losses.size, epoch_loss[1] + losses.size
        if ended is not None:
            row.update(epoch=ended, epoch_loss=epoch_loss[0] / epoch_loss[1])
            epoch_loss[:] = 0.0, 0.0
        speed = self._timed * self._runtime.world / seconds if self._timed else None  # the first step of a start is not timed
        row.update(grad_norm=float(np.mean(self._norms)), images_per_second=speed, **values)
        self.rows.append(row)
        if self._runtime.rank == 0:
            self._append(row)
        self._reset()
        return row

    def measure(self, step: int, scores: Mapping[str, float | None], evaluated: str) -> dict[str, Any]:
        """Append a row about images drawn after ``step``, metric by metric, and return it; ``evaluated`` says what they are of.
        Rank 0 alone knows the scores."""
        row = {"step": step, "time": round(time.time(), 3), **scores, "evaluated": evaluated}
        self.measured.append(row)
        if self._runtime.rank == 0:
            self._append(row)
        return row

    def _append(self, row: dict[str, Any]) -> None:
        try:
            append_json(self._path, row)
        except OSError as error:
            log.warning("%s: a row could not be written (%s)", self._path, error.strerror or error)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within the block does not count as training time."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def restart_clock(self) -> None:
        """Leave what came before, the compilation, out of the speed."""
        self._since, self._timed = time.perf_counter(), 0

    def _reset(self) -> None:
        self._losses: list[np.ndarray] = []
        self._t: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self._norms: list[float] = []
        self.restart_clock()
