"""The learning rate as a pure function of the optimizer step."""

from __future__ import annotations

import math
from typing import Sequence

from ddpm_ms.visual.runs import Phase


def learning_rate(step: int, base: float, schedule: str, warmup_steps: int, total_steps: int) -> float:
    """Rate of step ``step`` (from 0): a linear rise over ``warmup_steps``, then "constant", or "cosine" down to 0."""
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    if schedule == "constant":
        return base
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return base * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def base_rate(step: int, phases: Sequence[Phase], train_lr: float) -> float:
    """The base of step ``step`` (from 0) in a run whose ``phases`` led to ``train_lr``: before each of them its old one."""
    return next((phase.old for phase in phases if step < phase.step), train_lr)
