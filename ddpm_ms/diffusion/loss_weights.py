"""Weights of the training loss as a function of the noise level, float64 arrays of shape (timesteps,)."""

from __future__ import annotations

import numpy as np

from ddpm_ms.errors import InputError, check_range


def p2_weight(snr: np.ndarray, gamma: float, k: float) -> np.ndarray:
    """(k + SNR)^-gamma (P2 weighting, arXiv:2204.00227, equation 8); gamma 0 is no weighting.

    With k = 1 and gamma = 1 it is exactly 1 - alphas_cumprod. It multiplies the objective's own error, unnormalised, as
    in the paper.
    """
    check_range("p2_loss_weight_gamma", gamma, 0)
    check_range("p2_loss_weight_k", k, 0)
    if k == 0 and gamma > 0 and not (snr > 0).all():
        raise InputError("p2_loss_weight_k is 0 where the signal-to-noise ratio is 0, allowed: above 0")
    return (k + snr) ** -gamma
