"""Weights of the training loss as a function of the signal-to-noise ratio, float64 arrays of shape (timesteps,).

A weight is one of two kinds. "p2" multiplies whatever error the objective has, as its paper and code do. The others are
defined on the error of x0, and `create_loss_weight` translates them: an error d of x0 is an error d sqrt(SNR) of the noise
and d sqrt(SNR + 1) of v, so that training minimises the same thing whatever the objective is. "snr" makes that the error of
the noise, DDPM's simple loss. "none" leaves each objective its own error.
"""

from __future__ import annotations

import numpy as np

from ddpm_ms.errors import InputError, check_choice, check_range

LOSS_WEIGHTS = ("snr", "none", "p2", "min_snr", "soft_min_snr", "truncated_snr")


def create_loss_weight(name: str, snr: np.ndarray, objective: str, *, p2_gamma: float | None = None, p2_k: float = 1.0,
                       min_snr_gamma: float = 5.0, normalize: bool = False) -> np.ndarray:
    """The named weight of every step, to multiply the squared (or other) error of ``objective``.

    Args:
        name: one of `LOSS_WEIGHTS`.
        snr: alphas_cumprod / (1 - alphas_cumprod).
        objective: "pred_noise", "pred_x0" or "pred_v".
        p2_gamma, p2_k: of `p2_weight`.
        min_snr_gamma: of `min_snr_weight` and `soft_min_snr_weight`.
        normalize: divide by the mean over all steps, so that a change of weight is no change of learning rate.

    Raises:
        InputError: a name or a number is not allowed.
    """
    check_choice("loss_weight", name, LOSS_WEIGHTS)
    if name == "none":
        weight = np.ones_like(snr)
    elif name == "p2":
        weight = p2_weight(snr, 1.0 if p2_gamma is None else p2_gamma, p2_k)
    else:
        on_x0 = {"snr": lambda: snr, "min_snr": lambda: min_snr_weight(snr, min_snr_gamma),
                 "soft_min_snr": lambda: soft_min_snr_weight(snr, min_snr_gamma),
                 "truncated_snr": lambda: truncated_snr_weight(snr)}[name]()
        weight = on_x0 / {"pred_x0": 1.0, "pred_noise": snr, "pred_v": snr + 1}[objective]
    return weight / weight.mean() if normalize else weight


def weight_name(loss_weight: str | None, p2_gamma: float | None, min_snr: bool) -> str:
    """The one weight that the keywords ask for."""
    asked = {name for name, on in (("p2", p2_gamma), ("min_snr", min_snr)) if on}
    if loss_weight is not None:
        asked.add(loss_weight)
    if asked == {"p2"} and p2_gamma == 0:
        raise InputError("p2_loss_weight_gamma is 0, allowed with loss_weight p2: above 0 (the paper: 0.5 or 1)")
    if len(asked) > 1:
        raise InputError(f"loss weights are {', '.join(sorted(asked))} (loss_weight, p2_loss_weight_gamma, "
                         "min_snr_loss_weight), allowed: one of them")
    return asked.pop() if asked else "none" if p2_gamma == 0 else "snr"


def p2_weight(snr: np.ndarray, gamma: float, k: float) -> np.ndarray:
    """(k + SNR)^-gamma on the objective's own error (P2 weighting, arXiv:2204.00227, equation 8); gamma 0 is no weighting.

    With k = 1 and gamma = 1 it is exactly 1 - alphas_cumprod. The paper trains with it unnormalised.
    """
    check_range("p2_loss_weight_gamma", gamma, 0)
    check_range("p2_loss_weight_k", k, 0)
    if k == 0 and gamma > 0 and not (snr > 0).all():
        raise InputError("p2_loss_weight_k is 0 where the signal-to-noise ratio is 0, allowed: above 0")
    return (k + snr) ** -gamma


def min_snr_weight(snr: np.ndarray, gamma: float) -> np.ndarray:
    """min(SNR, gamma) on the error of x0 (Min-SNR, arXiv:2303.09556, section 3.4)."""
    check_range("min_snr_gamma", gamma, 1e-9)
    return np.minimum(snr, gamma)


def soft_min_snr_weight(snr: np.ndarray, gamma: float) -> np.ndarray:
    """SNR gamma / (SNR + gamma) on the error of x0: Min-SNR without its corner (arXiv:2401.11605, section 3.4)."""
    check_range("min_snr_gamma", gamma, 1e-9)
    return snr * gamma / (snr + gamma)


def truncated_snr_weight(snr: np.ndarray) -> np.ndarray:
    """max(SNR, 1) on the error of x0: the larger of the errors of x0 and of the noise (arXiv:2202.00512, section 4)."""
    return np.maximum(snr, 1)
