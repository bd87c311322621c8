"""Reading and writing other projects' weights."""

from ddpm_ms.interop.lucidrains import load_lucidrains, unet_from_lucidrains
from ddpm_ms.interop.torch_files import read_torch_file

__all__ = ["load_lucidrains", "read_torch_file", "unet_from_lucidrains"]
