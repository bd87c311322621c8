"""UniPC: a multistep predictor whose result is corrected by the next evaluation, which is needed anyway."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterator, NamedTuple, Sequence

from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.sampling.samplers.order import converges


class _Step(NamedTuple):
    """What the corrector must know of the transition that has just been made."""

    exact: Any  # the part that needs no estimate beyond x0 at its beginning
    weight: float  # of the differences of x0
    h: float
    h_last: float
    x_start: Any  # x0 at its beginning
    before: Any  # difference of x0 to the evaluation before, per unit of h; None in the first step


@converges(order=3)
def sample_unipc(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable) -> Iterator[Any]:
    """UniPC of order 2 on x0, with B(h) = exp(h) - 1 (arXiv:2302.04867, algorithms 5 and 7 and equation 12, "bh2").

    The corrector adds an order to the predictor's two (theorem 3.1). One evaluation a step. Steps of infinite length are of
    first order and are not corrected.
    """
    step = None
    for t, s in zip(steps, steps[1:]):
        x_start = denoise(x, t).pred_x_start
        if step is not None and math.isfinite(step.h):
            x = _corrected(step, x_start)
        (_, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        h = schedule.half_log_snr(s) - schedule.half_log_snr(t)
        weight = -alpha_s * math.expm1(-h)
        before = None
        if step is not None and math.isfinite(h) and math.isfinite(step.h):
            before = (h / step.h) * (x_start - step.x_start)
        step = _Step(sigma_s / sigma_t * x + weight * x_start, weight, h, step.h if step else math.inf, x_start, before)
        x = step.exact if before is None else step.exact + 0.5 * weight * before
        yield x


def _corrected(step: _Step, x_start: Any) -> Any:
    """The transition again, now that x0 at its end is known."""
    after = x_start - step.x_start
    if step.before is None:
        return step.exact + 0.5 * step.weight * after
    # Weights of the two differences that make the step exact for x0 linear and quadratic in the half-log-SNR.
    ratio, minus_h = -step.h_last / step.h, -step.h
    scale = math.expm1(minus_h)
    first = scale / minus_h - 1
    linear, quadratic = first / scale, 2 * (first / minus_h - 0.5) / scale
    of_before = (linear - quadratic) / (1 - ratio)
    return step.exact + step.weight * (of_before * step.before + (linear - of_before) * after)
