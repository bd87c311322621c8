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


def min_snr_weight(snr: np.ndarray, gamma: float, objective: str) -> np.ndarray:
    """min(SNR, gamma) on the error of x0, expressed for each objective's own error (Min-SNR, arXiv:2303.09556, section 3.4).

    The error of the noise is SNR times that of x0, the error of v is SNR + 1 times it.
    """
    check_range("min_snr_gamma", gamma, 1e-9)
    per_x0_error = {"pred_x0": np.ones_like(snr), "pred_noise": snr, "pred_v": snr + 1}[objective]
    return np.minimum(snr, gamma) / per_x0_error
