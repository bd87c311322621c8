"""DDPM's ancestral sampler."""

from __future__ import annotations

import math
from typing import Callable, Sequence

from mindspore import Tensor

from ddpm_ms.diffusion.schedules import NoiseSchedule


def sample_ddpm(denoise: Callable, x: Tensor, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable,
                variance: str = "fixed_small", eta: float = 0.0) -> Tensor:
    """Draw x_{t-1} from q(x_{t-1} | x_t, x0 = the network's estimate) (arXiv:2006.11239, algorithm 2).

    Works on any falling list of steps: the transition t -> s has beta = 1 - abar_t / abar_s (Improved DDPM,
    arXiv:2102.09672, section 4).

    Args:
        denoise: (x, t) -> (eps, x0).
        x: (B, C, H, W), pure noise.
        steps: visited steps, noisiest first.
        schedule: the process.
        noise: i -> standard normal (B, C, H, W) for the i-th transition.
        variance: "fixed_small" (the posterior's) or "fixed_large" (beta).
        eta: not used; DDPM is always stochastic.
    """
    for i, t in enumerate(steps):
        s = steps[i + 1] if i + 1 < len(steps) else -1
        _, x_start = denoise(x, t)
        if s < 0:
            return x_start
        abar_t, abar_s = schedule.alpha_cumprod(t), schedule.alpha_cumprod(s)
        alpha, beta = abar_t / abar_s, 1 - abar_t / abar_s
        posterior = beta * (1 - abar_s) / (1 - abar_t)
        sigma = math.sqrt(posterior if variance == "fixed_small" else beta)
        mean_x0 = math.sqrt(abar_s) * beta / (1 - abar_t)
        mean_xt = math.sqrt(alpha) * (1 - abar_s) / (1 - abar_t)
        x = mean_x0 * x_start + mean_xt * x + sigma * noise(i)
    return x
