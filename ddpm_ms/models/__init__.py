"""Networks, and the one function that makes them from a configuration."""

from __future__ import annotations

import inspect

from mindspore import nn

from ddpm_ms.config import ImageSize, NetworkConfig
from ddpm_ms.errors import InputError
from ddpm_ms.models.simple_unet import SimpleUnet
from ddpm_ms.models.tiny_unet import TinyUnet
from ddpm_ms.models.unet import Unet

MODELS = {"unet": Unet, "simple_unet": SimpleUnet, "tiny_unet": TinyUnet}

__all__ = ["SimpleUnet", "TinyUnet", "Unet", "create_model", "num_parameters"]


def create_model(config: NetworkConfig, channels: int, image_size: ImageSize | None = None,
                 timesteps: int | None = None) -> nn.Cell:
    """The network that ``config`` describes, for images of ``channels`` channels; some networks are also made for one
    ``image_size`` or one length of the process.

    Raises:
        InputError: it is a network of one's own, which only Python can build, or a value is not allowed.
    """
    if config.name not in MODELS:
        raise InputError(f"model.name is {config.name!r}, allowed here: {', '.join(MODELS)} (a network of your own is "
                         "built in Python)")
    network = MODELS[config.name]
    known = {"image_size": image_size, "timesteps": timesteps}
    takes = inspect.signature(network.__init__).parameters
    return network(config=config, channels=channels, **{key: value for key, value in known.items() if key in takes})


def num_parameters(model: nn.Cell) -> int:
    """How many numbers training changes."""
    return sum(p.size for p in model.trainable_params())
