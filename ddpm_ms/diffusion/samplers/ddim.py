"""The DDIM sampler."""

from __future__ import annotations

import math
from typing import Callable, Sequence

from mindspore import Tensor

from ddpm_ms.diffusion.schedules import NoiseSchedule


def sample_ddim(denoise: Callable, x: Tensor, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable,
                variance: str = "fixed_small", eta: float = 0.0) -> Tensor:
    """Move from t to the next visited step s along x_s = sqrt(abar_s) x0 + sqrt(1 - abar_s - sigma^2) eps + sigma z
    (arXiv:2010.02502, equation 12).

    Args:
        denoise: (x, t) -> (eps, x0).
        x: (B, C, H, W), pure noise.
        steps: visited steps, noisiest first.
        schedule: the process.
        noise: i -> standard normal (B, C, H, W) for the i-th transition; not called when ``eta`` is 0.
        variance: not used; ``eta`` says how much noise there is.
        eta: 0 is deterministic, 1 has the variance of DDPM's fixed_small.
    """
    for i, t in enumerate(steps):
        s = steps[i + 1] if i + 1 < len(steps) else -1
        eps, x_start = denoise(x, t)
        if s < 0:
            return x_start
        abar_t, abar_s = schedule.alpha_cumprod(t), schedule.alpha_cumprod(s)
        sigma = eta * math.sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
        x = math.sqrt(abar_s) * x_start + math.sqrt(max(1 - abar_s - sigma**2, 0.0)) * eps
        if sigma > 0:
            x = x + sigma * noise(i)
    return x
