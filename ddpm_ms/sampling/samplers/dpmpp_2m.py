"""DPM-Solver++ of second order with one evaluation a step, as an ODE and as an SDE solver."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterator, Sequence

from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.sampling.samplers.order import converges


@converges(order=2)
def sample_dpmpp_2m(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable) -> Iterator[Any]:
    """DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2), deterministic, order 2."""
    return _multistep(denoise, x, steps, schedule, noise, stochastic=0)


def sample_dpmpp_2m_sde(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule,
                        noise: Callable) -> Iterator[Any]:
    """SDE-DPM-Solver++(2M) (arXiv:2211.01095v2, appendix E; its midpoint form), stochastic."""
    return _multistep(denoise, x, steps, schedule, noise, stochastic=1)


def _multistep(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable,
               stochastic: int) -> Iterator[Any]:
    """Integrate exactly in half-log-SNR, with x0 extrapolated from the last two evaluations.

    A step of infinite length (to the clean image, or from pure noise) is of first order: x0 cannot be extrapolated there.
    """
    last, h_last = None, math.inf
    for i, (t, s) in enumerate(zip(steps, steps[1:])):
        x_start = denoise(x, t).pred_x_start
        (_, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        h = schedule.half_log_snr(s) - schedule.half_log_snr(t)
        extrapolated = x_start
        if last is not None and math.isfinite(h) and math.isfinite(h_last):
            extrapolated = x_start + h / h_last / 2 * (x_start - last)
        decay = math.exp(-h)
        x = sigma_s / sigma_t * decay**stochastic * x + alpha_s * (1 - decay ** (1 + stochastic)) * extrapolated
        if stochastic and sigma_s > 0:
            x = x + sigma_s * math.sqrt(1 - decay**2) * noise(i)
        last, h_last = x_start, h
        yield x
