"""Networks, and the one function that makes them from a configuration."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from mindspore import nn

from ddpm_ms.config import ImageSize, ModelConfig
from ddpm_ms.errors import InputError
from ddpm_ms.models.simple_unet import SimpleUnet
from ddpm_ms.models.tiny_unet import TinyUnet
from ddpm_ms.models.unet import Unet

MODELS = {"unet": Unet, "simple_unet": SimpleUnet, "tiny_unet": TinyUnet}

__all__ = ["SimpleUnet", "TinyUnet", "Unet", "create_model", "model_keywords", "num_parameters"]


def create_model(config: ModelConfig, channels: int, image_size: ImageSize | None = None,
                 timesteps: int | None = None) -> nn.Cell:
    """The network that ``config`` describes, for images of ``channels`` channels; some networks are also made for one
    ``image_size`` or one length of the process.

    Raises:
        InputError: see `model_keywords`, or a value is not allowed.
    """
    keywords = model_keywords(config)
    known = {"channels": channels, "image_size": image_size, "timesteps": timesteps}
    network = MODELS[config.name]
    return network(**keywords, **{key: value for key, value in known.items() if key in _parameters(network)})


def model_keywords(config: ModelConfig) -> dict[str, Any]:
    """What ``config`` says to its network.

    Raises:
        InputError: there is no such network, or a key is set that it does not take.
    """
    if config.name not in MODELS:
        raise InputError(f"model.name is {config.name!r}, allowed here: {', '.join(MODELS)} (a network of your own is "
                         "built in Python)")
    takes, keywords = _parameters(MODELS[config.name]), {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in takes:
            keywords[field.name] = value
        elif field.name != "name" and value != field.default:
            allowed = ", ".join(other.name for other in dataclasses.fields(config) if other.name in takes)
            raise InputError(f"model.{field.name} is {value!r}, which {config.name} does not take, allowed: {allowed}")
    return keywords


def num_parameters(model: nn.Cell) -> int:
    """How many numbers training changes."""
    return sum(p.size for p in model.trainable_params())


def _parameters(network: type[nn.Cell]) -> set[str]:
    return set(inspect.signature(network.__init__).parameters) - {"self"}
