"""Weights of the training loss as a function of the signal-to-noise ratio: one function each, named in `ddpm_ms.parts`.

A weight is called as ``weight(snr, config)`` with float64 ``snr`` (timesteps,) and the `DiffusionConfig`, and returns what to
multiply the error of the objective by at every step. Most are defined on the error of x0, and `on_x0` translates them: an error d
of x0 is an error d sqrt(SNR) of the noise and d sqrt(SNR + 1) of v, so that training minimises the same thing whatever the
objective is. "snr" makes that the error of the noise, DDPM's simple loss. "p2" multiplies whatever error the objective has, as
its paper and code do, and "none" leaves each objective its own error.
"""

from __future__ import annotations

import functools
from typing import Callable

import numpy as np

from ddpm_ms.config import DiffusionConfig
from ddpm_ms.errors import InputError
from ddpm_ms.parts import LOSS_WEIGHTS

Weight = Callable[[np.ndarray, DiffusionConfig], np.ndarray]


def create_loss_weight(config: DiffusionConfig, snr: np.ndarray) -> np.ndarray:
    """The weight of every step that ``config`` names, to multiply the squared (or other) error of its objective.

    Args:
        config: names the weight, its parameters and the objective.
        snr: alphas_cumprod / (1 - alphas_cumprod).

    Raises:
        InputError: the parameters do not fit the weight, or the weight does not fit ``snr``.
    """
    name, gamma = config.loss_weight, config.p2_loss_weight_gamma
    if name != "p2" and gamma is not None:
        raise InputError(f"p2_loss_weight_gamma is {gamma:g} with loss_weight {name}, allowed: null, or loss_weight p2")
    weight = LOSS_WEIGHTS[name](snr, config)
    if np.shape(weight) != snr.shape:
        raise InputError(f"loss_weight {name} has the shape {np.shape(weight)}, allowed: {snr.shape}, a weight for each step")
    if weight[-1] == 0:
        raise InputError(f"loss_weight is {name!r} where the last step has no signal (rescale_betas_zero_snr, or too few "
                         "timesteps for the schedule): that step would never be trained, allowed: one that is above 0 there, "
                         "such as none or truncated_snr")
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


def on_x0(weight: Weight) -> Weight:
    """Turns a weight of the squared error of x0 into one of the objective's own error."""
    @functools.wraps(weight)
    def of_objective(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
        return weight(snr, config) / {"pred_x0": np.ones_like(snr), "pred_noise": snr, "pred_v": snr + 1}[config.objective]

    return of_objective


def none(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """1 on the objective's own error."""
    return np.ones_like(snr)


def p2(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """(k + SNR)^-gamma on the objective's own error (P2 weighting, arXiv:2204.00227, equation 8).

    With k = 1 and gamma = 1 it is exactly 1 - alphas_cumprod. The paper trains with it unnormalised.
    """
    k, gamma = config.p2_loss_weight_k, 1.0 if config.p2_loss_weight_gamma is None else config.p2_loss_weight_gamma
    if gamma == 0:
        raise InputError("p2_loss_weight_gamma is 0, allowed with loss_weight p2: above 0 (the paper: 0.5 or 1)")
    if k == 0 and not (snr > 0).all():
        raise InputError("p2_loss_weight_k is 0 where the signal-to-noise ratio is 0, allowed: above 0")
    return (k + snr) ** -gamma


@on_x0
def snr(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """SNR on the error of x0, which is 1 on that of the noise (DDPM, arXiv:2006.11239, equation 14)."""
    return snr


@on_x0
def min_snr(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """min(SNR, gamma) on the error of x0 (Min-SNR, arXiv:2303.09556, section 3.4)."""
    return np.minimum(snr, config.min_snr_gamma)


@on_x0
def soft_min_snr(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """SNR gamma / (SNR + gamma) on the error of x0: Min-SNR without its corner (arXiv:2401.11605, section 3.4)."""
    return snr * config.min_snr_gamma / (snr + config.min_snr_gamma)


@on_x0
def truncated_snr(snr: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """max(SNR, 1) on the error of x0: the larger of the errors of x0 and of the noise (arXiv:2202.00512, section 4)."""
    return np.maximum(snr, 1)
