"""Heun's method on the probability-flow ODE."""

from __future__ import annotations

from typing import Any, Callable, Iterator, Sequence

from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.sampling.samplers.order import converges


@converges(order=2)
def sample_heun(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable) -> Iterator[Any]:
    """Euler's step, then again with the mean of the slopes at both ends (arXiv:2206.00364, algorithm 1, no churn); order 2.

    Two evaluations a step, one for the step to the clean image (where there is no slope) and for one from pure noise.
    """
    for t, s in zip(steps, steps[1:]):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        prediction = denoise(x, t)
        euler = alpha_s * prediction.pred_x_start + sigma_s * prediction.pred_noise
        if sigma_s > 0 and alpha_t > 0:
            slope = (prediction.pred_noise + denoise(euler, s).pred_noise) * 0.5
            x = alpha_s / alpha_t * x + (sigma_s - alpha_s * sigma_t / alpha_t) * slope
        else:
            x = euler
        yield x
