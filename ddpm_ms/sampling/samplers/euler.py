"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

from typing import Any, Callable, Iterator, Sequence

from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.sampling.samplers.order import converges


@converges(order=1)
def sample_euler(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable) -> Iterator[Any]:
    """dx/dsigma = eps in the coordinates x / alpha, sigma / alpha (arXiv:2206.00364, equation 4); order 1.

    The same step as DDIM with eta 0.
    """
    for t, s in zip(steps, steps[1:]):
        alpha_s, sigma_s = schedule.alpha_sigma(s)
        prediction = denoise(x, t)
        x = alpha_s * prediction.pred_x_start + sigma_s * prediction.pred_noise
        yield x
