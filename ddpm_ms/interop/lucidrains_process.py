"""The process that denoising-diffusion-pytorch keeps beside its network, in keys of a recipe."""

from __future__ import annotations

import re
from typing import Any, Mapping

import numpy as np

from ddpm_ms.diffusion.schedules import NoiseSchedule, create_schedule
from ddpm_ms.errors import InputError
from ddpm_ms.interop.schedules import schedule_with


def process_of(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The section ``diffusion`` that has the betas and the weights of the loss in a state dict of ``GaussianDiffusion``, or of an
    ``EMA`` around it; what it does not have is not in the section.

    Raises:
        InputError: the betas are none.
    """
    buffers = {name.split(".")[-1]: array for name, array in state.items()
               if re.fullmatch(r"((ema|online)_model\.)?(betas|loss_weight)", name)}
    if "betas" not in buffers:
        return {}
    betas = np.asarray(buffers["betas"], np.float64)
    if betas.ndim != 1 or not 1 <= len(betas) <= 10**6:
        raise InputError(f"the betas have the shape {betas.shape}, allowed: one dimension, 1 to 1000000")
    found: dict[str, Any] = {"timesteps": len(betas), **schedule_with(betas, rtol=1e-5)}  # it keeps them in float32
    if "loss_weight" in buffers and np.shape(buffers["loss_weight"]) == betas.shape:
        name = found.get("beta_schedule")
        snr = create_schedule(name, len(betas)).snr if name else NoiseSchedule(betas).snr
        found.update(_objective(np.asarray(buffers["loss_weight"], np.float64), snr))
    return found


def _objective(weight: np.ndarray, snr: np.ndarray) -> dict[str, Any]:
    """Their weight is min(SNR, gamma) over 1, SNR or SNR + 1, which tells what is predicted; without min-SNR gamma is none."""
    fits = []
    for objective, divisor in (("pred_x0", np.ones_like(snr)), ("pred_noise", snr), ("pred_v", snr + 1)):
        clipped = weight * divisor
        gamma = clipped.max()
        if np.allclose(clipped, np.minimum(snr, gamma), rtol=1e-3, atol=1e-12):
            free = bool(np.isclose(gamma, snr.max(), rtol=1e-3))
            fits.append({"objective": objective,
                         **({"loss_weight": "snr"} if free else {"loss_weight": "min_snr", "min_snr_gamma": round(gamma, 4)})})
    return fits[0] if len(fits) == 1 else {}
