"""Data sets by name, by path, or from Python objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ddpm_ms.config import DataConfig
from ddpm_ms.data.datasets import ArrayDataset, RandomAccessDataset, StreamDataset, split
from ddpm_ms.data.folders import ImageFolderDataset
from ddpm_ms.data.mindrecord import MindRecordDataset
from ddpm_ms.data.prefetch import prefetch
from ddpm_ms.errors import InputError
from ddpm_ms.parts import DATASETS

__all__ = ["ArrayDataset", "ImageFolderDataset", "MindRecordDataset", "RandomAccessDataset", "StreamDataset", "as_dataset",
           "create_dataset", "prefetch", "split"]


def create_dataset(config: DataConfig) -> RandomAccessDataset:
    """The data set that ``config`` describes.

    Raises:
        InputError: it cannot be found or read, or its images are not of the size that ``config`` states.
    """
    dataset = DATASETS[config.name](config)
    if tuple(dataset.shape) != (config.channels, *config.size):
        raise InputError(f"data {config.name} has images of {describe(dataset.shape)}, but data.channels and "
                         f"data.image_size say {describe((config.channels, *config.size))}")
    return dataset.named(config.class_names) if config.class_names else dataset


def as_dataset(source: Any, size: tuple[int, int], channels: int) -> Any:
    """A data set from what a Python user has: a folder or file, an array, a data set, or any iterable of images."""
    if isinstance(source, (str, Path)):
        said: dict[str, Any] = dict(name=name_of(source), root=str(source), image_size=tuple(size), channels=channels)
        config = DataConfig(**said)  # which checks it
        return DATASETS[config.name](config)
    if isinstance(source, np.ndarray):
        return ArrayDataset(source, channels)
    return source if hasattr(source, "take") and hasattr(source, "shape") else StreamDataset(source)


def name_of(path: str | Path) -> str:
    """The ``data.name`` that reads ``path``."""
    return {".npy": "npz", ".npz": "npz", ".mindrecord": "mindrecord"}.get(Path(path).suffix, "image_folder")


def describe(shape: tuple[int, int, int]) -> str:
    """``"1 channel, 8x8"``."""
    return f"{shape[0]} channel{'s' if shape[0] > 1 else ''}, {shape[1]}x{shape[2]}"
