"""Reading and writing other projects' weights."""

from ddpm_ms.interop.ddpm_unet import (
    ddpm_unet_from_diffusers,
    ddpm_unet_from_guided_diffusion,
    ddpm_unet_from_pytorch_diffusion,
    ddpm_unet_names,
    ddpm_unet_to_diffusers,
)
from ddpm_ms.interop.lucidrains import load_lucidrains, unet_from_lucidrains, unet_to_lucidrains
from ddpm_ms.interop.torch_files import read_torch_file

__all__ = ["ddpm_unet_from_diffusers", "ddpm_unet_from_guided_diffusion", "ddpm_unet_from_pytorch_diffusion",
           "ddpm_unet_names", "ddpm_unet_to_diffusers", "load_lucidrains", "read_torch_file", "unet_from_lucidrains",
           "unet_to_lucidrains"]
