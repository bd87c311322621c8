"""Which steps of the process a sampler visits: one explicit falling list, used by every sampler."""

from __future__ import annotations

import numpy as np

from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.errors import check_range
from ddpm_ms.parts import SPACINGS

KARRAS_RHO = 7
MAX_SIGMA = 80.0  # sigma / alpha above which no image shows (arXiv:2206.00364, table 1); cosine schedules go far beyond


def linspace(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Evenly over -1 .. T-1 without the -1: the noisiest step is always visited."""
    return np.linspace(-1, len(schedule) - 1, steps + 1)[1:]


def leading(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Multiples of T // steps from 0: as in DDIM's code; the noisiest steps may be left out."""
    return np.arange(steps) * (len(schedule) // steps)


def trailing(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Every T / steps counted back from T - 1 (arXiv:2305.08891, table 2)."""
    return np.round(len(schedule) - np.arange(steps)[::-1] * (len(schedule) / steps)) - 1


def both_ends(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Evenly over 0 .. T-1, both of them visited, to the nearest step: what diffusers calls linspace, and guided-diffusion's
    ``timestep_respacing``, whose sum of strides can fall on the other side of a half (not with 25, 50, 100, 250 of 1000)."""
    return np.round(np.linspace(0, len(schedule) - 1, steps))


def quadratic(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Proportional to i^2, denser near the clean end (DDIM, arXiv:2010.02502, appendix D.2), up to T - 1."""
    last = len(schedule) - 1
    return np.linspace(0, np.sqrt(last), steps) ** 2 if steps > 1 else np.array([float(last)])


def karras(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """The steps whose sigma / alpha is nearest to even spacing in its 7th root (arXiv:2206.00364, equation 5)."""
    sigma = np.exp(-_half_log_snr(schedule))
    roots = np.linspace(sigma[0] ** (1 / KARRAS_RHO), sigma[-1] ** (1 / KARRAS_RHO), steps)
    return _nearest(schedule, -KARRAS_RHO * np.log(roots))


def log_snr(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """The steps nearest to even spacing in the logarithm of the signal-to-noise ratio (arXiv:2211.01095, section 5)."""
    time = _half_log_snr(schedule)
    return _nearest(schedule, np.linspace(time[0], time[-1], steps))


def sampling_steps(schedule: NoiseSchedule, steps: int, spacing: str = "linspace") -> list[int]:
    """The ``steps`` distinct steps to visit, noisiest first, and then -1, the clean image.

    Args:
        schedule: the process, T steps long.
        steps: 1 to T, the number of network evaluations of a first-order sampler.
        spacing: a name in `ddpm_ms.parts.SPACINGS`.

    Raises:
        InputError: ``steps`` or ``spacing`` is not allowed.
    """
    SPACINGS.check("spacing", spacing)
    check_range("steps", steps, 1, len(schedule))
    # The 1e-9 keeps 41.999999999 from becoming 41 after rounding errors of the even division.
    visited = np.floor(SPACINGS[spacing](schedule, steps) + 1e-9).astype(int)
    return [*_distinct(visited)[::-1].tolist(), -1]


def _half_log_snr(schedule: NoiseSchedule) -> np.ndarray:
    """log(alpha / sigma) of every step in which an image shows, and of the first in any case."""
    shows = schedule.snr >= MAX_SIGMA**-2
    shows[0] = True
    return np.log(schedule.snr[shows]) / 2


def _nearest(schedule: NoiseSchedule, wanted: np.ndarray) -> np.ndarray:
    """Rising steps nearest to the ``wanted`` half-log-SNRs; the last one is T - 1, however little is left there."""
    nearest = np.abs(_half_log_snr(schedule)[None, :] - wanted[:, None]).argmin(1)
    nearest[-1] = len(schedule) - 1
    return nearest


def _distinct(rising: np.ndarray) -> np.ndarray:
    """Move equal neighbours (crowded ends of uneven spacings) apart, so that n steps asked for are n steps visited."""
    out = rising.copy()
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + 1)
    out[-1] = rising[-1]
    for i in range(len(out) - 1, 0, -1):  # what was pushed past the end comes back down
        out[i - 1] = min(out[i - 1], out[i] - 1)
    return out
