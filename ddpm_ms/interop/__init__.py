"""Reading and writing other projects' weights."""

from ddpm_ms.interop.ddpm_unet import (
    ddpm_unet_from_diffusers,
    ddpm_unet_from_guided_diffusion,
    ddpm_unet_from_pytorch_diffusion,
    ddpm_unet_names,
)
from ddpm_ms.interop.lucidrains import unet_from_lucidrains

__all__ = ["ddpm_unet_from_diffusers", "ddpm_unet_from_guided_diffusion", "ddpm_unet_from_pytorch_diffusion", "ddpm_unet_names",
           "unet_from_lucidrains"]
