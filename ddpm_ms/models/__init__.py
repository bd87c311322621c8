"""Networks, and the one function that makes them from a configuration."""

from __future__ import annotations

import inspect
from typing import Any

from mindspore import nn

from ddpm_ms.config import CustomConfig, ImageSize, NetworkConfig
from ddpm_ms.errors import InputError
from ddpm_ms.models.ddpm_unet import DDPMUnet, DDPMUnetConfig
from ddpm_ms.models.simple_unet import SimpleUnet, SimpleUnetConfig
from ddpm_ms.models.tiny_unet import TinyUnet, TinyUnetConfig
from ddpm_ms.models.unet import Unet, UnetConfig
from ddpm_ms.parts import NETWORKS

__all__ = ["DDPMUnet", "DDPMUnetConfig", "SimpleUnet", "SimpleUnetConfig", "TinyUnet", "TinyUnetConfig", "Unet", "UnetConfig",
           "create_model", "describe_model", "num_parameters"]


def create_model(config: NetworkConfig, channels: int, image_size: ImageSize | None = None,
                 timesteps: int | None = None) -> nn.Cell:
    """The network that ``config`` describes, for images of ``channels`` channels; some networks are also made for one
    ``image_size`` or one length of the process.

    Raises:
        InputError: it is a network of one's own, which only Python can build, or a value is not allowed.
    """
    if config.name not in NETWORKS:
        raise InputError(f"model.name is {config.name!r}, allowed here: {', '.join(NETWORKS)} (a network of your own is given to "
                         "load_diffusion(run, model=...), or registered by ddpm_ms.register_network before it is trained)")
    network = NETWORKS[config.name]
    known = {"image_size": image_size, "timesteps": timesteps}
    takes = inspect.signature(network.__init__).parameters
    return network(config=config, channels=channels, **{key: value for key, value in known.items() if key in takes})


def describe_model(model: nn.Cell) -> NetworkConfig:
    """The section by which `create_model` makes such a network again; `CustomConfig` for one that is not registered, and for
    one of a subclass, which may compute something else under the same keys."""
    section: Any = getattr(model, "config", None)
    name: Any = getattr(section, "name", None)
    return section if name in NETWORKS and type(model) is NETWORKS[name] else CustomConfig()


def num_parameters(model: nn.Cell) -> int:
    """How many numbers training changes."""
    return sum(p.size for p in model.trainable_params())
