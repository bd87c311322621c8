"""What can be wrong with a run, said before anything is written."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from ddpm_ms.config import Config, TrainingConfig
from ddpm_ms.data import describe
from ddpm_ms.errors import InputError
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.training.compilation import foreign_parts
from ddpm_ms.training.event_files import check_installed


def check_labels(model: nn.Cell, dataset: Any) -> None:
    """Raise `InputError` unless the data has the labels that the network takes, if it takes any."""
    classes = getattr(model, "num_classes", None)
    if not classes:
        return
    labels = dataset.labels
    if labels is None:
        why = getattr(dataset, "why_no_labels", "")
        raise InputError(f"model.num_classes is {classes}, but the data has no labels{why and f' ({why})'}, allowed: null")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(f"the data has labels {labels.min()} to {labels.max()}, allowed with model.num_classes={classes}: "
                         f"0 to {classes - 1}")
    names = getattr(dataset, "class_names", ())
    if len(names) > classes:
        raise InputError(f"data.class_names has {len(names)} names, allowed with model.num_classes={classes}: at most {classes}")


def check_run(config: Config, diffusion: GaussianDiffusion, dataset: Any, world: int) -> None:
    """Raise `InputError` unless ``config`` can be trained on ``world`` devices with this process and this data."""
    _check_sizes(config.training, diffusion, dataset, world)
    c = config.training
    if not diffusion.auto_normalize:
        raise InputError("auto_normalize is False, allowed in training: True (data sets give images in [0, 1])")
    diffusion.check_training()
    if c.tensorboard:
        check_installed()
    if config.runtime.compile_cache:
        for what in foreign_parts(config, diffusion):
            raise InputError(f"compile_cache is True with a {what} of your own, allowed: False (its source is not part of the "
                             "cache's key, so an edit would not be seen)")
    if c.num_samples or config.evaluation.every is not None:
        diffusion.check_sampling(config.sampling)


def _check_sizes(c: TrainingConfig, diffusion: GaussianDiffusion, dataset: Any, world: int) -> None:
    """The data fits the process, the batch the devices and the data."""
    shape, size = dataset.shape, (diffusion.channels, *diffusion.image_size)
    if tuple(shape) != size:
        raise InputError(f"the data has {describe(shape)}, but the diffusion is for {describe(size)}")
    check_share(c, world)
    batch, finite = c.train_batch_size * c.gradient_accumulate_every, hasattr(dataset, "__len__")
    if finite and batch > len(dataset):
        raise InputError(f"one optimizer step takes {batch} images (train_batch_size x gradient_accumulate_every), allowed: "
                         f"at most the {len(dataset)} of the data set")
    if not finite and (c.train_num_epochs or c.save_and_sample_every == "epoch"):
        raise InputError("training by epochs with data that has no length, allowed: train_num_steps, save_and_sample_every")


def check_share(c: TrainingConfig, world: int) -> None:
    """Raise `InputError` unless ``world`` devices can share the batch."""
    if c.train_batch_size % world:
        raise InputError(f"training.train_batch_size is {c.train_batch_size}, allowed on {world} devices, which share it: "
                         f"multiples of {world}")


def count_steps(c: TrainingConfig, dataset: Any, images_per_step: int) -> int:
    """The optimizer steps of the whole run; epochs are rounded up."""
    if c.train_num_epochs is None:
        return c.train_num_steps
    return -(-c.train_num_epochs * len(dataset) // images_per_step)
