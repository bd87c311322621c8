"""Progressive distillation: which steps a student takes, and what its teacher's two steps amount to in one of them."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ddpm_ms.diffusion.schedules import NoiseSchedule


def student_grid(schedule: NoiseSchedule, teacher_steps: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each t of the process, arrays (T,): the student's step at or above it, the step halfway from there to the student's
    next, and the share of the teacher's second step in the student's x0.

    With r = signal / noise, x / noise is r x0 + a noise that no DDIM step changes, so what a step adds to it is x0 times the
    growth of r: over both steps, the mean of the two x0 weighted by the growth of each. The share is
    (r_s - r_s') / (r_s - r_t); where s is the clean image, r_s is infinite and the share 1.

    Args:
        schedule: T steps long.
        teacher_steps: an even number of falling steps and then -1, the clean image; the student takes every second one.
    """
    rising = list(teacher_steps)[::-1]
    begin, half, end = np.array(rising[2::2]), np.array(rising[1::2]), np.array(rising[:-1:2])
    which = np.searchsorted(begin, np.arange(len(schedule)))
    ratio_begin, ratio_half = np.sqrt(schedule.snr[begin]), np.sqrt(schedule.snr[half])
    ratio_end = np.append(np.inf, np.sqrt(schedule.snr[end[1:]]))
    # 1 - (r_s' - r_t) / (r_s - r_t): the same number, and no infinity over infinity.
    share = 1 - (ratio_half - ratio_begin) / (ratio_end - ratio_begin)
    return begin[which], half[which], share[which]
