"""Weights of the training loss as a function of the signal-to-noise ratio, float64 arrays of shape (timesteps,).

A weight is one of two kinds. "p2" multiplies whatever error the objective has, as its paper and code do. The others are
defined on the error of x0, and `create_loss_weight` translates them: an error d of x0 is an error d sqrt(SNR) of the noise
and d sqrt(SNR + 1) of v, so that training minimises the same thing whatever the objective is. "snr" makes that the error of
the noise, DDPM's simple loss. "none" leaves each objective its own error.
"""

from __future__ import annotations

from typing import Callable

import numpy as np

from ddpm_ms.config import DiffusionConfig
from ddpm_ms.errors import InputError


def create_loss_weight(config: DiffusionConfig, snr: np.ndarray) -> np.ndarray:
    """The weight of every step that ``config`` names, to multiply the squared (or other) error of its objective.

    Args:
        config: names the weight, its parameters and the objective.
        snr: alphas_cumprod / (1 - alphas_cumprod).

    Raises:
        InputError: the parameters do not fit the weight, or the weight does not fit ``snr``.
    """
    name, gamma = config.loss_weight, config.p2_loss_weight_gamma
    if name == "p2" and gamma == 0:
        raise InputError("p2_loss_weight_gamma is 0, allowed with loss_weight p2: above 0 (the paper: 0.5 or 1)")
    if name != "p2" and gamma is not None:
        raise InputError(f"p2_loss_weight_gamma is {gamma:g} with loss_weight {name}, allowed: null, or loss_weight p2")
    if name in WEIGHTS_OF_X0:
        weight = WEIGHTS_OF_X0[name](snr, config) / _error_of_x0(config.objective, snr)
    else:
        weight = OTHER_WEIGHTS[name](snr, config)
    if weight[-1] == 0:
        raise InputError(f"loss_weight is {name!r} where the last step has no signal (rescale_betas_zero_snr): that step would "
                         "never be trained, allowed: none, p2, truncated_snr")
    return weight / weight.mean() if config.normalize_loss_weight else weight


def weight_name(loss_weight: str | None, p2_gamma: float | None, min_snr: bool) -> str:
    """The one weight that the keywords of scripts ask for."""
    asked = {name for name, on in (("p2", p2_gamma), ("min_snr", min_snr)) if on}
    if loss_weight is not None:
        asked.add(loss_weight)
    if len(asked) > 1:
        raise InputError(f"loss weights are {', '.join(sorted(asked))} (loss_weight, p2_loss_weight_gamma, "
                         "min_snr_loss_weight), allowed: one of them")
    return asked.pop() if asked else "none" if p2_gamma == 0 else "snr"


def _error_of_x0(objective: str, snr: np.ndarray) -> np.ndarray:
    """The squared error of ``objective`` that a squared error of 1 of x0 stands for."""
    return {"pred_x0": np.ones_like(snr), "pred_noise": snr, "pred_v": snr + 1}[objective]


def no_weight(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """1 on the objective's own error."""
    return np.ones_like(snr)


def p2_weight(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """(k + SNR)^-gamma on the objective's own error (P2 weighting, arXiv:2204.00227, equation 8).

    With k = 1 and gamma = 1 it is exactly 1 - alphas_cumprod. The paper trains with it unnormalised.
    """
    k, gamma = config.p2_loss_weight_k, 1.0 if config.p2_loss_weight_gamma is None else config.p2_loss_weight_gamma
    if k == 0 and not (snr > 0).all():
        raise InputError("p2_loss_weight_k is 0 where the signal-to-noise ratio is 0, allowed: above 0")
    return (k + snr) ** -gamma


def snr_weight(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """SNR on the error of x0, which is 1 on that of the noise (DDPM, arXiv:2006.11239, equation 14)."""
    return snr


def min_snr_weight(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """min(SNR, gamma) on the error of x0 (Min-SNR, arXiv:2303.09556, section 3.4)."""
    return np.minimum(snr, config.min_snr_gamma)


def soft_min_snr_weight(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """SNR gamma / (SNR + gamma) on the error of x0: Min-SNR without its corner (arXiv:2401.11605, section 3.4)."""
    return snr * config.min_snr_gamma / (snr + config.min_snr_gamma)


def truncated_snr_weight(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """max(SNR, 1) on the error of x0: the larger of the errors of x0 and of the noise (arXiv:2202.00512, section 4)."""
    return np.maximum(snr, 1)


Weight = Callable[[np.ndarray, DiffusionConfig], np.ndarray]
WEIGHTS_OF_X0: dict[str, Weight] = {"snr": snr_weight, "min_snr": min_snr_weight, "soft_min_snr": soft_min_snr_weight,
                                    "truncated_snr": truncated_snr_weight}
OTHER_WEIGHTS: dict[str, Weight] = {"none": no_weight, "p2": p2_weight}
