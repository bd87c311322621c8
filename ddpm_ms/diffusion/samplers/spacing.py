"""Which steps of the process a sampler visits: one explicit falling list, used by every sampler."""

from __future__ import annotations

import numpy as np

from ddpm_ms.errors import check_choice, check_range


def linspace(timesteps: int, steps: int) -> np.ndarray:
    """Evenly over -1 .. T-1 without the -1: the noisiest step is always visited."""
    return np.linspace(-1, timesteps - 1, steps + 1)[1:]


def leading(timesteps: int, steps: int) -> np.ndarray:
    """Multiples of T // steps from 0: as in DDIM's code; the noisiest steps may be left out."""
    return np.arange(steps) * (timesteps // steps)


def trailing(timesteps: int, steps: int) -> np.ndarray:
    """Every T / steps counted back from T - 1 (arXiv:2305.08891, table 2)."""
    return np.round(timesteps - np.arange(steps)[::-1] * (timesteps / steps)) - 1


def quadratic(timesteps: int, steps: int) -> np.ndarray:
    """Proportional to i^2, denser near the clean end (DDIM, arXiv:2010.02502, appendix D.2), up to T - 1."""
    return np.linspace(0, np.sqrt(timesteps - 1), steps) ** 2 if steps > 1 else np.array([timesteps - 1.0])


SPACINGS = {"linspace": linspace, "leading": leading, "trailing": trailing, "quadratic": quadratic}


def sampling_steps(timesteps: int, steps: int, spacing: str = "linspace") -> list[int]:
    """The ``steps`` distinct steps to visit, noisiest first.

    Args:
        timesteps: T, the length of the process.
        steps: 1 to T, the number of network evaluations of a first-order sampler.
        spacing: a key of `SPACINGS`.

    Raises:
        InputError: ``steps`` or ``spacing`` is not allowed.
    """
    check_choice("spacing", spacing, SPACINGS)
    check_range("steps", steps, 1, timesteps)
    # The 1e-9 keeps 41.999999999 from becoming 41 after rounding errors of the even division.
    visited = np.floor(SPACINGS[spacing](timesteps, steps) + 1e-9).astype(int)
    return _distinct(visited)[::-1].tolist()


def _distinct(rising: np.ndarray) -> np.ndarray:
    """Move equal neighbours (crowded ends of uneven spacings) up, so that n steps asked for are n steps visited."""
    out = rising.copy()
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + 1)
    for i in range(len(out) - 1, 0, -1):  # what was pushed past the end comes back down
        out[i - 1] = min(out[i - 1], out[i] - 1) if out[i] <= rising[-1] else out[i - 1]
    return out
