"""What training measures: collected per step, written per interval to metrics.jsonl."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

QUARTERS = 4


class Metrics:
    """The run's measurements.

    Args:
        path: metrics.jsonl; one JSON object per line.
        timesteps: T, to split losses by quarter of t.
    """

    def __init__(self, path: Path, timesteps: int) -> None:
        self._path, self._timesteps = path, timesteps
        self.rows: list[dict[str, Any]] = []
        self._reset()

    def rewind(self, step: int, to_file: bool = True) -> None:
        """Read the rows back, dropping those after ``step``: a resumed run writes them again. One rank does so in the file."""
        if not self._path.is_file():
            return
        rows, lines = [], self._path.read_text(encoding="utf-8").splitlines()
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:  # a line cut off by a kill
                continue
        self.rows = [row for row in rows if row["step"] <= step]
        if len(self.rows) == len(lines) or not to_file:
            return
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        os.replace(partial, self._path)

    def add(self, losses: np.ndarray, t: np.ndarray, weights: np.ndarray | None, grad_norm: float) -> None:
        """One optimizer step: losses, noise levels and weights (None for ones) of its images, each (B,)."""
        self._losses.append(losses)
        self._t.append(t)
        self._weights.append(np.ones_like(losses) if weights is None else weights)
        self._norms.append(grad_norm)
        self._timed += losses.size

    def write(self, step: int, to_file: bool, **values: Any) -> dict[str, Any]:
        """End the interval at ``step``: append one row (one rank does so to the file too) and return it."""
        losses, t, weights = (np.concatenate(rows) for rows in (self._losses, self._t, self._weights))
        seconds = time.perf_counter() - self._since
        row = {"step": step, "loss": float(np.average(losses, weights=weights))}
        for quarter in range(QUARTERS):
            chosen = t * QUARTERS // self._timesteps == quarter
            mean = float(np.average(losses[chosen], weights=weights[chosen])) if chosen.any() else None
            row[f"loss_q{quarter + 1}"] = mean
        row.update(grad_norm=float(np.mean(self._norms)), images_per_second=self._timed / seconds, **values)
        self.rows.append(row)
        if to_file:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        self._reset()
        return row

    def pause(self) -> float:
        """The clock's reading, to give to `resume`: what happens between does not count as training time."""
        return time.perf_counter()

    def resume(self, paused_at: float) -> None:
        """Go on measuring time."""
        self._since += time.perf_counter() - paused_at

    def restart_clock(self) -> None:
        """Leave what came before, the compilation, out of the speed."""
        self._since, self._timed = time.perf_counter(), 0

    def _reset(self) -> None:
        self._losses: list[np.ndarray] = []
        self._t: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self._norms: list[float] = []
        self.restart_clock()
