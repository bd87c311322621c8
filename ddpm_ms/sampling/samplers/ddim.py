"""The DDIM sampler, and the same steps walked the other way."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterator, Sequence

from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.sampling.samplers.order import converges


@converges(order=1)
def sample_ddim(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable, *,
                eta: float = 0.0) -> Iterator[Any]:
    """Move from t to s along x_s = sqrt(abar_s) x0 + sqrt(1 - abar_s - sigma^2) eps + sigma z (arXiv:2010.02502, equation 12).

    ``eta`` 0 is deterministic, 1 has the variance of DDPM's fixed_small.
    """
    for i, (t, s) in enumerate(zip(steps, steps[1:])):
        prediction = denoise(x, t)
        abar_t, abar_s = schedule.alpha_cumprod(t), schedule.alpha_cumprod(s)
        sigma = eta * math.sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
        x = (math.sqrt(abar_s) * prediction.pred_x_start
             + math.sqrt(max(1 - abar_s - sigma**2, 0.0)) * prediction.pred_noise)
        if sigma > 0:
            x = x + sigma * noise(i)
        yield x


def ddim_inversion(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule) -> Iterator[Any]:
    """Walk an image up to the noise that DDIM (eta 0) makes it from (arXiv:2010.02502, sections 4.3 and 5.4).

    ``steps`` rise, from -1. The step s -> t needs the noise at t, which is not known yet; the noise that the network sees at t
    in the image of s stands for it. The error falls with the number of steps.
    """
    for s, t in zip(steps, steps[1:]):
        prediction = denoise(x, t)
        (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule.alpha_sigma(s), schedule.alpha_sigma(t)
        x = alpha_t / alpha_s * x + (sigma_t - alpha_t * sigma_s / alpha_s) * prediction.pred_noise
        yield x
