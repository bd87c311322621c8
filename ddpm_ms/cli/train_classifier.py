"""The part of `ddpm-ms evaluate` that trains the classifier of `--features classifier`."""

from __future__ import annotations

import argparse

from ddpm_ms.cli.options import runtime_config, start
from ddpm_ms.config import DataConfig, RuntimeConfig
from ddpm_ms.errors import InputError


def train_classifier(arguments: argparse.Namespace) -> None:
    """Train it on the labels of a run's data, or of a data set by name, and print how well it recognises images.

    Raises:
        InputError: more is asked for, or the data is not such.
    """
    for name in ("metric", "against", "save_stats"):
        if getattr(arguments, name):
            raise InputError(f"--train-classifier with --{name.replace('_', '-')}, allowed: with --checkpoint or --images alone")
    if (arguments.checkpoint is None) == (arguments.images is None):
        raise InputError("--train-classifier is given with neither or both of --checkpoint and --images, allowed: one of them")
    runtime = start(runtime_config(RuntimeConfig(), arguments))
    data = _data(arguments)
    if runtime.rank != 0:
        return
    from ddpm_ms.evaluation.residual_classifier import HELD_OUT, train_classifier

    trained = train_classifier(data)
    print(f"{trained.identity}: it recognises {trained.accuracy:.2%} of the images that it was not trained on, one of {HELD_OUT}")


def _data(arguments: argparse.Namespace) -> DataConfig:
    if arguments.checkpoint is not None:
        from ddpm_ms.checkpoints import load_diffusion

        return load_diffusion(arguments.checkpoint, ema=not arguments.raw, best_one=arguments.best)[1].config.data
    from ddpm_ms.evaluation.sides import side_of

    side = side_of(arguments.images, "--images")
    if side.data is None:
        raise InputError(f"--train-classifier with {side.what}, allowed: a data set by name, which has labels (of a folder of "
                         "folders: image_folder root=FOLDER image_size=N)")
    return side.data
