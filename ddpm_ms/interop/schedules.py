"""Which schedule of ours has the betas of a file."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.errors import InputError

_NAMES = ("linear", "scaled_linear", "quadratic", "cosine", "sigmoid")


def schedule_with(betas: Sequence[float] | np.ndarray, rtol: float) -> dict[str, Any]:
    """The keys of ``diffusion`` that give these ``betas``, up to a relative error: the name of a schedule, or all of them."""
    betas = np.asarray(betas, np.float64)
    for name in _NAMES:
        try:
            if np.allclose(create_schedule(name, len(betas)).betas, betas, rtol=rtol, atol=0):
                return {"beta_schedule": name}
        except InputError:  # too few steps for it
            continue
    return {"betas": betas.tolist()}
