"""CIFAR-10 and CIFAR-100 in their binary versions; the Python versions are pickles and are never opened."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_ms.config import DataConfig
from ddpm_ms.data.datasets import ArrayDataset
from ddpm_ms.data.official import Published
from ddpm_ms.errors import InputError

PIXELS = 3 * 32 * 32
COUNTS = {"train": 50_000, "test": 10_000}  # images of either


class Version(NamedTuple):
    """How one of the two is stored."""

    published: Published
    folder: str  # that its archive makes
    files: tuple[str, ...]
    test_files: tuple[str, ...]
    label_bytes: int  # before the pixels of each image; the last one is the label
    classes: int
    names: str  # file with the names of the classes
    pickled: tuple[str, ...]  # what the Python version leaves


CIFAR10 = Version(
    Published("cifar10", "download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, unpack it, and set data.root to the "
              "folder with data_batch_1.bin"),
    "cifar-10-batches-bin", tuple(f"data_batch_{k}.bin" for k in range(1, 6)), ("test_batch.bin",), 1, 10, "batches.meta.txt",
    ("cifar-10-batches-py", "data_batch_1"))
CIFAR100 = Version(
    Published("cifar100", "download https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz, unpack it, and set data.root to "
              "the folder with train.bin"),
    "cifar-100-binary", ("train.bin",), ("test.bin",), 2, 100, "fine_label_names.txt", ("cifar-100-python", "train"))


def cifar10(config: DataConfig) -> ArrayDataset:
    """The 50,000 training images of CIFAR-10, 32x32 RGB, or the 10,000 for testing.

    Raises:
        InputError: a file is missing, or of a length or with a label that cannot be.
    """
    return _load(CIFAR10, config)


def cifar100(config: DataConfig) -> ArrayDataset:
    """The 50,000 training images of CIFAR-100, 32x32 RGB, or the 10,000 for testing, with the 100 fine labels; `InputError` as
    for `cifar10`."""
    return _load(CIFAR100, config)


def _load(version: Version, config: DataConfig) -> ArrayDataset:
    published, root = version.published, version.published.root(config)
    folder = root / version.folder if (root / version.folder).is_dir() else root
    files = version.files if config.part == "train" else version.test_files
    if not (folder / files[0]).exists():
        for pickled in version.pickled:
            if (root / pickled).exists():
                raise InputError(f"{root / pickled} is the Python version of {published.name}, pickles that are never opened; "
                                 f"{published.how_to_get}")
    batches = [_read(published.find(folder / file), version) for file in files]
    labels, images = (np.concatenate(part) for part in zip(*batches))
    published.warn_if_not(str(folder), f"{len(images)} images", f"{COUNTS[config.part]} images")
    return ArrayDataset(images, 3, labels, _names(folder / version.names, version.classes))


def _read(path: Path, version: Version) -> tuple[np.ndarray, np.ndarray]:
    """(labels uint8 (N,), images uint8 (N, 3, 32, 32))."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    record = version.label_bytes + PIXELS
    if not data.size or data.size % record:
        raise InputError(f"{path} has {data.size} bytes, allowed: a multiple of {record}, the bytes of an image and its label")
    data = data.reshape(-1, record)
    labels = data[:, version.label_bytes - 1]
    if labels.max() >= version.classes:
        raise InputError(f"{path} has label {labels.max()}, allowed: 0 to {version.classes - 1}")
    return labels, data[:, version.label_bytes:].reshape(-1, 3, 32, 32)


def _names(path: Path, count: int) -> tuple[str, ...]:
    """What the archive calls its classes, where it still has the file."""
    lines = path.read_text(encoding="utf-8", errors="replace").split() if path.is_file() else []
    return tuple(lines) if len(lines) == count else ()
