"""DDPM's ancestral sampler."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Callable, Iterator, Sequence

from ddpm_ms.diffusion.schedules import NoiseSchedule


def sample_ddpm(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable, *,
                variance: str = "fixed_small") -> Iterator[Any]:
    """Draw x_s from q(x_s | x_t, x0 = the network's estimate) (arXiv:2006.11239, algorithm 2).

    ``variance`` is "fixed_small" (the posterior's), "fixed_large" (beta) or "learned" (between the two, as the network says).
    The last transition to the clean image adds no noise.
    """
    for i, (t, s) in enumerate(zip(steps, steps[1:])):
        x = ancestral_step(denoise(x, t), x, t, s, schedule, partial(noise, i), variance)
        yield x


def ancestral_step(prediction: Any, x: Any, t: int, s: int, schedule: NoiseSchedule, noise: Callable, variance: str) -> Any:
    """One transition t -> s, which need not be neighbours: its beta is 1 - abar_t / abar_s (arXiv:2102.09672, section 4)."""
    abar_t, abar_s = schedule.alpha_cumprod(t), schedule.alpha_cumprod(s)
    alpha, beta = abar_t / abar_s, 1 - abar_t / abar_s
    mean_x0 = math.sqrt(abar_s) * beta / (1 - abar_t)
    mean_xt = math.sqrt(alpha) * (1 - abar_s) / (1 - abar_t)
    mean = mean_x0 * prediction.pred_x_start + mean_xt * x
    if s < 0:
        return mean
    posterior = beta * (1 - abar_s) / (1 - abar_t)
    if variance == "learned":
        # exp of the interpolated logarithm (arXiv:2102.09672, equation 15), as a power: the fraction is a tensor.
        sigma = math.sqrt(posterior) * (beta / posterior) ** (prediction.variance_fraction / 2)
    else:
        sigma = math.sqrt(posterior if variance == "fixed_small" else beta)
    return mean + sigma * noise()
