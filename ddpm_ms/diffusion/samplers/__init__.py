"""Samplers: short functions over one contract, ``denoise(x, t) -> (eps, x0)``, chosen by name when sampling."""

from ddpm_ms.diffusion.samplers.ancestral import sample_ddpm
from ddpm_ms.diffusion.samplers.ddim import sample_ddim
from ddpm_ms.diffusion.samplers.spacing import SPACINGS, sampling_steps

SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_ddim}

__all__ = ["SAMPLERS", "SPACINGS", "sample_ddim", "sample_ddpm", "sampling_steps"]
