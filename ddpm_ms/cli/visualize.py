"""`ddpm-ms visualize`: pictures of the process."""

from __future__ import annotations

import argparse
import logging

import numpy as np

from ddpm_ms.cli.options import device_parent, recipe_parent, runtime_config, start
from ddpm_ms.config import load_config
from ddpm_ms.errors import check_range

log = logging.getLogger("ddpm_ms")


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``visualize``."""
    command = commands.add_parser("visualize", parents=[recipe_parent(), device_parent()],
                                  help="draw an image noised at chosen steps")
    command.add_argument("--steps", type=int, nargs="+", help="noise levels (default: 0, T/5, T/2, T-1)")
    command.add_argument("--index", type=int, default=0, help="which image of the data set (default: 0)")
    command.add_argument("--out", default="forward.png", metavar="PNG", help="the strip (default: forward.png)")
    command.set_defaults(run=visualize)


def visualize(arguments: argparse.Namespace) -> None:
    """Write one image of the data, noised at chosen steps, as a strip."""
    config = load_config(arguments.config, arguments.overrides)
    start(runtime_config(config.runtime, arguments))
    from mindspore import Tensor

    from ddpm_ms import rng, visual
    from ddpm_ms.data import create_dataset
    from ddpm_ms.diffusion import create_diffusion
    from ddpm_ms.models import create_model

    last = config.diffusion.timesteps - 1
    steps = arguments.steps or [0, last // 5, last // 2, last]
    for step in steps:
        check_range("--steps", step, 0, last)
    dataset = create_dataset(config.data)
    check_range("--index", arguments.index, 0, len(dataset) - 1)
    diffusion = create_diffusion(config.diffusion, create_model(config.model, config.data.channels), config.data.image_size)
    images = np.repeat(dataset.load([arguments.index]), len(steps), axis=0)
    noise = rng.normal(config.training.seed, "noise", 0, [arguments.index] * len(steps), dataset.shape)
    noised = diffusion.q_sample(Tensor(images * 2 - 1), Tensor(np.array(steps, np.int32)), Tensor(noise)).asnumpy()
    visual.save_strip(np.concatenate([images[:1], (noised + 1) / 2]), arguments.out)
    log.info("%s: the image, then noised at steps %s", arguments.out, ", ".join(map(str, steps)))
