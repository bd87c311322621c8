"""Denoising diffusion probabilistic models on MindSpore.

    from ddpm_ms import GaussianDiffusion, Trainer, Unet

Importing the package is cheap: MindSpore loads when a name that needs it is first used.
"""

from __future__ import annotations

import importlib

from ddpm_ms import runtime
from ddpm_ms.version import __version__

_PUBLIC = {
    "Unet": "ddpm_ms.models",
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


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ddpm_ms' has no attribute {name!r}")
    runtime.check_versions()
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
