"""Data sets by name, by path, or from Python objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ddpm_ms.config import DataConfig
from ddpm_ms.data.arrays import load_array_file, load_digits
from ddpm_ms.data.cifar import load_cifar
from ddpm_ms.data.datasets import ArrayDataset, RandomAccessDataset, StreamDataset, split
from ddpm_ms.data.folders import ImageFolderDataset, load_celeba, load_flowers
from ddpm_ms.data.idx import load_mnist
from ddpm_ms.data.mindrecord import MindRecordDataset
from ddpm_ms.data.official import find_root
from ddpm_ms.data.prefetch import prefetch
from ddpm_ms.errors import InputError

__all__ = ["ArrayDataset", "ImageFolderDataset", "MindRecordDataset", "RandomAccessDataset", "StreamDataset", "as_dataset",
           "create_dataset", "prefetch", "split"]

# What reads a data set of encoded images, fitted to any size, from data.root ...
ENCODED = {"image_folder": ImageFolderDataset, "celeba": load_celeba, "flowers102": load_flowers,
           "mindrecord": MindRecordDataset}
# ... and one of pixels in memory, that have the size they have.
IN_MEMORY = {
    "mnist": lambda root, config: load_mnist(root, "mnist"),
    "fashion_mnist": lambda root, config: load_mnist(root, "fashion_mnist"),
    "cifar10": lambda root, config: load_cifar(root, "cifar10"),
    "cifar100": lambda root, config: load_cifar(root, "cifar100"),
    "npz": lambda root, config: load_array_file(root, config.channels),
    "array": lambda root, config: load_array_file(root, config.channels),
}


def create_dataset(config: DataConfig) -> RandomAccessDataset:
    """The data set that ``config`` describes.

    Raises:
        InputError: it cannot be found or read, or its images are not of the size that ``config`` states.
    """
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    if config.name in ENCODED:
        root = find_root(config.name, config.root)
        return ENCODED[config.name](root, size, config.channels, config.on_error, config.workers)
    dataset = load_digits() if config.name == "digits" else IN_MEMORY[config.name](find_root(config.name, config.root), config)
    if dataset.shape != (config.channels, *size):
        raise InputError(f"data {config.name} has images of {describe(dataset.shape)}, but data.channels and "
                         f"data.image_size say {describe((config.channels, *size))}")
    return dataset


def as_dataset(source: Any, size: tuple[int, int], channels: int) -> Any:
    """A data set from what a Python user has: a folder or file, an array, a data set, or any iterable of images."""
    if isinstance(source, (str, Path)):
        name = name_of(source)
        return load_array_file(source, channels) if name == "npz" else ENCODED[name](source, size, channels)
    if isinstance(source, np.ndarray):
        return ArrayDataset(source, channels)
    return source if hasattr(source, "take") and hasattr(source, "shape") else StreamDataset(source)


def name_of(path: str | Path) -> str:
    """The ``data.name`` that reads ``path``."""
    return {".npy": "npz", ".npz": "npz", ".mindrecord": "mindrecord"}.get(Path(path).suffix, "image_folder")


def describe(shape: tuple[int, int, int]) -> str:
    """``"1 channel, 8x8"``."""
    return f"{shape[0]} channel{'s' if shape[0] > 1 else ''}, {shape[1]}x{shape[2]}"
