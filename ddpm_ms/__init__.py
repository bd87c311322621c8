"""Denoising diffusion probabilistic models on MindSpore.

    from ddpm_ms import GaussianDiffusion, Trainer, Unet

Importing the package is cheap: MindSpore loads when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ddpm_ms import runtime
from ddpm_ms.version import __version__ as __version__

if TYPE_CHECKING:  # what a type checker reads; `__getattr__` imports the same, each when it is first used
    from ddpm_ms.checkpoints import load_diffusion as load_diffusion
    from ddpm_ms.config import load_config as load_config
    from ddpm_ms.data import create_dataset as create_dataset
    from ddpm_ms.gaussian_diffusion import GaussianDiffusion as GaussianDiffusion
    from ddpm_ms.gaussian_diffusion import create_diffusion as create_diffusion
    from ddpm_ms.models import DDPMUnet as DDPMUnet
    from ddpm_ms.models import SimpleUnet as SimpleUnet
    from ddpm_ms.models import TinyUnet as TinyUnet
    from ddpm_ms.models import Unet as Unet
    from ddpm_ms.models import create_model as create_model
    from ddpm_ms.parts import register_dataset as register_dataset
    from ddpm_ms.parts import register_loss_weight as register_loss_weight
    from ddpm_ms.parts import register_metric as register_metric
    from ddpm_ms.parts import register_network as register_network
    from ddpm_ms.parts import register_sampler as register_sampler
    from ddpm_ms.training import EMA as EMA
    from ddpm_ms.training import Trainer as Trainer

_PUBLIC = {
    "Unet": "ddpm_ms.models",
    "DDPMUnet": "ddpm_ms.models",
    "SimpleUnet": "ddpm_ms.models",
    "TinyUnet": "ddpm_ms.models",
    "create_model": "ddpm_ms.models",
    "GaussianDiffusion": "ddpm_ms.gaussian_diffusion",
    "create_diffusion": "ddpm_ms.gaussian_diffusion",
    "create_dataset": "ddpm_ms.data",
    "Trainer": "ddpm_ms.training",
    "EMA": "ddpm_ms.training",
    "load_diffusion": "ddpm_ms.checkpoints",
    "load_config": "ddpm_ms.config",
    "register_sampler": "ddpm_ms.parts",
    "register_network": "ddpm_ms.parts",
    "register_dataset": "ddpm_ms.parts",
    "register_loss_weight": "ddpm_ms.parts",
    "register_metric": "ddpm_ms.parts",
}

__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604  texts all of them


if not TYPE_CHECKING:
    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'ddpm_ms' has no attribute {name!r}")
        runtime.check_versions()
        return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
