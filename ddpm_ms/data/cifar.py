"""CIFAR-10 and CIFAR-100 in their binary versions; the Python versions are pickles and are never opened."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_ms.data.datasets import ArrayDataset
from ddpm_ms.data.official import HOW_TO_GET, find, warn_if_not
from ddpm_ms.errors import InputError

PIXELS = 3 * 32 * 32
PUBLISHED = 50_000  # training images of either


class Version(NamedTuple):
    """How one of the two is stored."""

    folder: str  # that its archive makes
    files: tuple[str, ...]
    label_bytes: int  # before the pixels of each image; the last one is the label
    classes: int
    names: str  # file with the names of the classes
    pickled: tuple[str, ...]  # what the Python version leaves


VERSIONS = {
    "cifar10": Version("cifar-10-batches-bin", tuple(f"data_batch_{k}.bin" for k in range(1, 6)), 1, 10, "batches.meta.txt",
                       ("cifar-10-batches-py", "data_batch_1")),
    "cifar100": Version("cifar-100-binary", ("train.bin",), 2, 100, "fine_label_names.txt", ("cifar-100-python", "train")),
}


def load_cifar(root: Path, name: str) -> ArrayDataset:
    """The 50,000 training images, 32x32 RGB, of ``name`` (cifar10 or cifar100, by its 100 fine labels).

    Raises:
        InputError: a file is missing, or of a length or with a label that cannot be.
    """
    version = VERSIONS[name]
    folder = root / version.folder if (root / version.folder).is_dir() else root
    if not (folder / version.files[0]).exists():
        for pickled in version.pickled:
            if (root / pickled).exists():
                raise InputError(f"{root / pickled} is the Python version of {name}, pickles that are never opened; "
                                 f"{HOW_TO_GET[name]}")
    batches = [_read(find(name, folder / file), version) for file in version.files]
    labels, images = (np.concatenate(part) for part in zip(*batches))
    warn_if_not(name, str(folder), f"{len(images)} images", f"{PUBLISHED} images")
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
