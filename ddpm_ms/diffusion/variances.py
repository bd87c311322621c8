"""The variance of the reverse process: fixed, or learned as a fraction of the way between the two fixed ones.

The fraction runs from 0 (fixed_small, the posterior's variance) to 1 (fixed_large, beta) on a logarithmic scale
(arXiv:2102.09672, equation 15), and is stated in this range everywhere but in the network's own output.
"""

from __future__ import annotations

from typing import Any, get_args

from mindspore import ops

from ddpm_ms.config import Variance
from ddpm_ms.errors import InputError, check_choice


def split_variance(output: Any) -> tuple[Any, Any]:
    """(prediction, variance fraction) from an output (B, 2C, H, W), whose second half is -1 .. 1 for a fraction of 0 .. 1."""
    prediction, spread = ops.Split(1, 2)(output)
    return prediction, (spread + 1.0) * 0.5


def variance_of(variance: str | None, learned_variance: bool) -> str:
    """The variance that a process has whose recipe says ``variance``: by default learned where the network learns it, else small.

    Raises:
        InputError: see `check_variance`.
    """
    return check_variance(variance or ("learned" if learned_variance else "fixed_small"), learned_variance)


def check_variance(variance: str, learned_variance: bool) -> str:
    """Return ``variance`` if a network that learns it, or does not, can have it.

    Raises:
        InputError: it cannot.
    """
    check_choice("variance", variance, get_args(Variance))
    if variance == "learned" and not learned_variance:
        raise InputError("variance is 'learned', allowed with a network of learned_variance=False: fixed_small, fixed_large")
    return variance
