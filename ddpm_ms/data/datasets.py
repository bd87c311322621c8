"""Data sets: from a position in an endless stream to images in [0, 1].

A data set has ``shape`` (channels, height, width), a length, and ``take(positions, seed)``. Position p of the stream is
epoch ``p // len`` of a global shuffle that depends on the seed alone, so the data of any step can be had without
replaying the steps before it, by any number of ranks.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterable, Sequence

import numpy as np

from ddpm_ms import rng
from ddpm_ms.data.array_files import read_arrays
from ddpm_ms.data.images import find_images, read_image
from ddpm_ms.errors import InputError


class RandomAccessDataset:
    """Base of the data sets that can fetch any image by its number."""

    labels: np.ndarray | None = None  # int64 (N,), where the data has classes

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self._count, self.shape = count, shape

    def __len__(self) -> int:
        return self._count

    def load(self, indices: Sequence[int]) -> np.ndarray:
        """Images ``indices`` as float32 (len(indices), C, H, W) in [0, 1]."""
        raise NotImplementedError

    def indices(self, positions: Sequence[int], seed: int) -> list[int]:
        """Which images stand at ``positions`` of the shuffled stream."""
        return [int(_permutation(self._count, seed, p // self._count)[p % self._count]) for p in positions]

    def take_labels(self, positions: Sequence[int], seed: int) -> np.ndarray:
        """Labels at ``positions`` of the shuffled stream, int64 (len(positions),)."""
        return self.labels[self.indices(positions, seed)]

    def take(self, positions: Sequence[int], seed: int) -> np.ndarray:
        """Images at ``positions`` of the shuffled stream, float32 (len(positions), C, H, W) in [0, 1]."""
        return self.load(self.indices(positions, seed))


class ArrayDataset(RandomAccessDataset):
    """Images held in memory.

    Args:
        images: (N, H, W), (N, H, W, C) or (N, C, H, W); uint8, or floating point in [0, 1].
        channels: 1, 3 or 4.
        labels: int (N,) or None.

    Raises:
        InputError: another shape, type or value range.
    """

    def __init__(self, images: np.ndarray, channels: int, labels: np.ndarray | None = None) -> None:
        images = np.asarray(images)
        if images.ndim == 3 and channels == 1:
            images = images[:, None]
        if images.ndim != 4 or channels not in (images.shape[1], images.shape[3]):
            raise InputError(f"images have shape {images.shape}, allowed with {channels} channels: "
                             f"(N, H, W, {channels}) or (N, {channels}, H, W){' or (N, H, W)' if channels == 1 else ''}")
        if images.shape[1] != channels:
            images = images.transpose(0, 3, 1, 2)
        if images.dtype != np.uint8:
            if not np.issubdtype(images.dtype, np.floating):
                raise InputError(f"images have type {images.dtype}, allowed: uint8, or floating point in [0, 1]")
            if images.size and not (images.min() >= 0 and images.max() <= 1):
                raise InputError(f"images range over {images.min():.4g} to {images.max():.4g}, allowed: 0 to 1")
        if labels is not None and len(labels) != len(images):
            raise InputError(f"there are {len(labels)} labels for {len(images)} images, allowed: one each")
        super().__init__(len(images), images.shape[1:])
        self._images = images
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)

    def load(self, indices: Sequence[int]) -> np.ndarray:
        images = self._images[list(indices)]
        return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


class ImageFolderDataset(RandomAccessDataset):
    """Every image file below a folder, decoded by a pool of threads.

    Args:
        folder: searched at any depth.
        size: (height, width).
        channels: 1, 3 or 4.
        on_error: "refuse" raises at the first broken file, "skip" leaves broken files out and counts them.
        workers: threads.

    Raises:
        InputError: no such folder, no image, or a broken file under "refuse".
    """

    def __init__(self, folder: str | Path, size: tuple[int, int], channels: int, on_error: str = "refuse",
                 workers: int = 2) -> None:
        self._size, self._channels = size, channels
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        paths = find_images(folder)
        # Every file is decoded once before training starts: a broken one is better found now than at 3 a.m.
        errors = list(self._pool.map(self._check, paths))
        self.skipped = [str(e) for e in errors if e is not None]
        if self.skipped and on_error == "refuse":
            more = f" (and {len(self.skipped) - 1} more)" if len(self.skipped) > 1 else ""
            raise InputError(f"{self.skipped[0]}{more}; remove it or set data.on_error=skip")
        self.paths = [p for p, e in zip(paths, errors) if e is None]
        if not self.paths:
            raise InputError(f"data folder {folder}: all {len(paths)} images are broken, allowed: at least one that is not")
        super().__init__(len(self.paths), (channels, *size))

    def load(self, indices: Sequence[int]) -> np.ndarray:
        return np.stack(list(self._pool.map(lambda i: read_image(self.paths[i], self._size, self._channels), indices)))

    def _check(self, path: Path) -> InputError | None:
        try:
            read_image(path, self._size, self._channels)
        except InputError as error:
            return error
        return None


class StreamDataset:
    """Images from any iterable, in its own order, started again when it ends.

    Args:
        iterable: yields images (C, H, W) in [0, 1] or batches of them, alone or first in a tuple; a
            ``mindspore.dataset`` object is one. Its order is its own affair; resuming skips what was used.

    Raises:
        InputError: it yields nothing, or something that is no image.
    """

    labels = None

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        self._next = 0
        self._images = self._endless()
        first = next(self._images)
        self.shape = first.shape
        self._images = itertools.chain([first], self._images)

    def take(self, positions: Sequence[int], seed: int) -> np.ndarray:
        """Images at rising ``positions``; ``seed`` is not used."""
        taken = []
        for position in positions:
            if position < self._next:
                raise ValueError(f"position {position} of a stream that is already at {self._next}")
            taken.append(next(itertools.islice(self._images, position - self._next, None)))
            self._next = position + 1
        return np.stack(taken)

    def _endless(self) -> Iterable[np.ndarray]:
        while True:
            empty = True
            for item in self._rows():
                image = np.asarray(item[0] if isinstance(item, (tuple, list)) else item)
                for one in image if image.ndim == 4 else [image]:
                    if one.ndim != 3:
                        raise InputError(f"the data yields arrays of shape {image.shape}, allowed: (C, H, W), (B, C, H, W)")
                    empty = False
                    yield one.astype(np.float32) / (255 if one.dtype == np.uint8 else 1)
            if empty:
                raise InputError("the data yields no image, allowed: at least one")

    def _rows(self) -> Iterable[Any]:
        if hasattr(self._iterable, "create_tuple_iterator"):  # mindspore.dataset
            return self._iterable.create_tuple_iterator(num_epochs=1, output_numpy=True)
        return self._iterable


def load_digits() -> ArrayDataset:
    """The 1,797 handwritten digits, 8x8 grey, that scikit-learn carries (UCI "Optical recognition of digits")."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    return ArrayDataset((digits.images / 16).astype(np.float32), channels=1, labels=digits.target)


def load_array_file(path: str | Path, channels: int) -> ArrayDataset:
    """A ``.npy`` array, or a ``.npz`` with ``images`` (or a single array) and perhaps ``labels``.

    Raises:
        InputError: from `read_arrays`, or there are no images, or the labels are none.
    """
    arrays = read_arrays(path)
    images = arrays.get("images", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if images is None:
        raise InputError(f"array file {path} holds {', '.join(arrays) or 'nothing'}, allowed: an array named images")
    labels = arrays.get("labels")
    if np.size(images) == 0:
        raise InputError(f"array file {path} has images of shape {np.shape(images)}, allowed: at least one image")
    if labels is not None and (np.ndim(labels) != 1 or np.asarray(labels).dtype.kind not in "iu"):
        raise InputError(f"array file {path} has labels of shape {np.shape(labels)} and type {np.asarray(labels).dtype}, "
                         "allowed: whole numbers (N,)")
    return ArrayDataset(images, channels, labels)


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return rng.generator(seed, "data_order", step=epoch).permutation(count)
