"""Networks, and the one function that makes them from a configuration."""

from __future__ import annotations

import dataclasses

from mindspore import nn

from ddpm_ms.config import ModelConfig
from ddpm_ms.errors import InputError
from ddpm_ms.models.unet import Unet

_MODELS = {"unet": Unet}

__all__ = ["Unet", "create_model", "num_parameters"]


def create_model(config: ModelConfig, channels: int) -> nn.Cell:
    """The network that ``config`` describes, for images of ``channels`` channels."""
    keywords = dataclasses.asdict(config)
    if config.name not in _MODELS:
        raise InputError(f"model.name is {config.name!r}, allowed here: {', '.join(_MODELS)} (a network of your own is "
                         "built in Python)")
    return _MODELS[keywords.pop("name")](channels=channels, **keywords)


def num_parameters(model: nn.Cell) -> int:
    """How many numbers training changes."""
    return sum(p.size for p in model.trainable_params())
