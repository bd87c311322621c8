"""Data sets by name, by path, or from Python objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ddpm_ms.config import DataConfig
from ddpm_ms.data.datasets import (
    ArrayDataset,
    ImageFolderDataset,
    RandomAccessDataset,
    StreamDataset,
    load_array_file,
    load_digits,
)
from ddpm_ms.data.prefetch import prefetch
from ddpm_ms.errors import InputError

__all__ = ["ArrayDataset", "ImageFolderDataset", "RandomAccessDataset", "StreamDataset", "as_dataset", "create_dataset",
           "prefetch"]


def create_dataset(config: DataConfig) -> RandomAccessDataset:
    """The data set that ``config`` describes.

    Raises:
        InputError: it cannot be found or read, or its images are not of the size that ``config`` states.
    """
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    if config.name == "digits":
        dataset: RandomAccessDataset = load_digits()
    elif config.root is None:
        raise InputError(f"data.root is not set, allowed for {config.name}: a path (data.root=PATH)")
    elif config.name == "array":
        dataset = load_array_file(config.root, config.channels)
    else:
        return ImageFolderDataset(config.root, size, config.channels, config.on_error, config.workers)
    if dataset.shape != (config.channels, *size):
        raise InputError(f"data {config.name} has images of {describe(dataset.shape)}, but data.channels and "
                         f"data.image_size say {describe((config.channels, *size))}")
    return dataset


def as_dataset(source: Any, size: tuple[int, int], channels: int) -> Any:
    """A data set from what a Python user has: a folder or array file, an array, a data set, or any iterable of images."""
    if isinstance(source, (str, Path)):
        if Path(source).suffix in (".npy", ".npz"):
            return load_array_file(source, channels)
        return ImageFolderDataset(source, size, channels)
    if isinstance(source, np.ndarray):
        return ArrayDataset(source, channels)
    return source if hasattr(source, "take") and hasattr(source, "shape") else StreamDataset(source)


def describe(shape: tuple[int, int, int]) -> str:
    """``"1 channel, 8x8"``."""
    return f"{shape[0]} channel{'s' if shape[0] > 1 else ''}, {shape[1]}x{shape[2]}"
