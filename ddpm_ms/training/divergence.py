"""What is said when no gradient of a step is finite."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from ddpm_ms.errors import TrainingError


def divergence(step: int, attempt: int, losses: np.ndarray, loss_scale: float, last_loss: float | None,
               images: str) -> TrainingError:
    """The error that ends a run in step ``step`` (from 1), whose images had these ``losses``."""
    return TrainingError(
        f"step {step}: the gradient is not finite after {attempt} attempt(s), loss {float(losses.mean())}, loss scale "
        f"{loss_scale:g}, last finite loss {last_loss}, images {images}. No weight was changed and nothing was saved; lower "
        "train_lr or raise lr_warmup_steps")


def suspects(dataset: Any, losses: np.ndarray, first: int, seed: int) -> str:
    """Which images of the data set have a loss that is not finite, or all, if every loss is.

    Args:
        dataset: see `ddpm_ms.data`.
        losses: of the images of one step, in their order.
        first: position of the first of them in the stream of the data set.
        seed: of the run.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    positions: Sequence[int] = [first + int(k) for k in (bad if len(bad) else range(len(losses)))]
    if hasattr(dataset, "indices"):
        positions = dataset.indices(positions, seed)
    more = f" and {len(positions) - 8} more" if len(positions) > 8 else ""
    return ", ".join(map(str, positions[:8])) + more
