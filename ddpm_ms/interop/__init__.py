"""Reading and writing other projects' weights."""

from ddpm_ms.interop.lucidrains import unet_from_lucidrains

__all__ = ["unet_from_lucidrains"]
