"""RePaint: fill in the unknown part of an image."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Callable, Iterator, Sequence

from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.sampling.samplers.ddpm import ancestral_step


def repaint_path(steps: Sequence[int], jump_length: int, resamplings: int) -> list[int]:
    """``steps`` with jumps back (arXiv:2201.09865, appendix B): every ``jump_length`` transitions, that stretch is walked
    ``resamplings`` times, so that the filled-in part can adapt to the known one. ``resamplings`` 1 is ``steps``."""
    rising = list(steps)[::-1]
    at = len(rising) - 1
    jump_length = max(min(jump_length, at - 1), 1)  # with few steps, one stretch of nearly all of them
    left = {k: resamplings - 1 for k in range(1, at - jump_length + 1, jump_length)}
    path = [rising[at]]
    while at > 0:
        at -= 1
        path.append(rising[at])
        if left.get(at, 0) > 0:
            left[at] -= 1
            path.extend(rising[at + 1:at + jump_length + 1])
            at += jump_length
    return path


def sample_repaint(denoise: Callable, x: Any, steps: Sequence[int], schedule: NoiseSchedule, noise: Callable, *,
                   known: Any, mask: Any, variance: str = "fixed_small") -> Iterator[Any]:
    """DDPM whose known pixels are the noised image (RePaint, arXiv:2201.09865, algorithm 1).

    ``steps`` is a `repaint_path`, ``known`` (B, C, H, W) the image in [-1, 1], ``mask`` 1 where it is known and 0 elsewhere.
    """
    for i, (t, s) in enumerate(zip(steps, steps[1:])):
        if s > t:  # a jump back: the forward process
            kept = schedule.alpha_cumprod(s) / schedule.alpha_cumprod(t)
            x = math.sqrt(kept) * x + math.sqrt(1 - kept) * noise(2 * i)
        else:
            x = ancestral_step(denoise(x, t), x, t, s, schedule, partial(noise, 2 * i), variance)
            alpha, sigma = schedule.alpha_sigma(s)
            noised = alpha * known + sigma * noise(2 * i + 1) if sigma > 0 else known
            x = mask * noised + (1 - mask) * x
        yield x
