"""Data sets: from a position in an endless stream to images in [0, 1].

A data set has ``shape`` (channels, height, width), a length, and ``take(positions, seed)``. Position p of the stream is
epoch ``p // len`` of a global shuffle that depends on the seed alone, so the data of any step can be had without
replaying the steps before it, by any number of ranks.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import numpy as np

from ddpm_ms import rng
from ddpm_ms.data.images import read_image
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.progress import watched

log = logging.getLogger("ddpm_ms")

MOST_CLASSES = 65536
REPLACEMENTS = 100  # when as many images in a row cannot be read, it is not a broken file but a broken disk


class Classes(NamedTuple):
    """What each image of a source shows: ``labels`` int64 (N,), what label k is called, and without labels, why."""

    labels: np.ndarray | None
    names: Sequence[str] = ()
    why_none: str = ""


class RandomAccessDataset:
    """Base of the data sets that can fetch any image by its number.

    Args:
        count: how many images there are.
        shape: (channels, height, width) of each.
        labels: int (count,) or None.
        class_names: what label k is called, if that is known.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], labels: np.ndarray | None = None,
                 class_names: Sequence[str] = ()) -> None:
        self.shape = shape
        self._rows = np.arange(count)  # which images of the source belong to the set
        known = None if labels is None else np.asarray(labels, dtype=np.int64)
        # A function, so that a source whose labels are slow to find, or wrong, is asked only by those who need labels.
        self._classes: Callable[[], Classes] = lambda: Classes(known, tuple(class_names))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def labels(self) -> np.ndarray | None:
        """Labels int64 (N,), where the data has classes."""
        labels = self._classes().labels
        return None if labels is None else labels[self._rows]

    @property
    def class_names(self) -> Sequence[str]:
        """What label k is called; empty where that is not known."""
        return self._classes().names

    @property
    def why_no_labels(self) -> str:
        """The reason, where the data could have classes and has none; else empty."""
        return self._classes().why_none

    def named(self, names: Sequence[str]) -> RandomAccessDataset:
        """The same images with other ``names`` of the classes."""
        part, classes = copy.copy(self), self._classes
        part._classes = lambda: classes()._replace(names=tuple(names))
        return part

    def load(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images ``indices`` as float32 (len(indices), C, H, W) in [0, 1]."""
        raise NotImplementedError

    def subset(self, indices: Sequence[int] | np.ndarray) -> RandomAccessDataset:
        """The data set of these images alone, numbered from 0 in the order of ``indices``."""
        part = copy.copy(self)
        part._rows = self._rows[np.asarray(indices, dtype=np.int64)]
        return part

    def indices(self, positions: Sequence[int], seed: int) -> list[int]:
        """Which images stand at ``positions`` of the shuffled stream."""
        count = len(self)
        return [int(_permutation(count, seed, p // count)[p % count]) for p in positions]

    def take_labels(self, positions: Sequence[int], seed: int) -> np.ndarray:
        """Labels at ``positions`` of the shuffled stream, int64 (len(positions),)."""
        labels = self._classes().labels
        assert labels is not None, "only of data with classes"
        return labels[self._rows[self.indices(positions, seed)]]

    def take(self, positions: Sequence[int], seed: int) -> np.ndarray:
        """Images at ``positions`` of the shuffled stream, float32 (len(positions), C, H, W) in [0, 1]."""
        return self.load(self.indices(positions, seed))


def split(dataset: Any, held_out: int, seed: int) -> tuple[RandomAccessDataset, RandomAccessDataset]:
    """(all but ``held_out`` images, those images): which ones depends on ``seed`` and the number of images alone.

    Raises:
        InputError: the data is a stream, or either part would be empty.
    """
    if not isinstance(dataset, RandomAccessDataset):
        raise InputError("held-out images of a stream, allowed: of files, arrays and the data sets with a name")
    check_range("the number of held-out images", held_out, 1, len(dataset) - 1)
    order = rng.generator(seed, "held_out").permutation(len(dataset))
    return dataset.subset(np.sort(order[held_out:])), dataset.subset(np.sort(order[:held_out]))


class ArrayDataset(RandomAccessDataset):
    """Images held in memory.

    Args:
        images: (N, H, W), (N, H, W, C) or (N, C, H, W); uint8, or floating point in [0, 1].
        channels: 1, 3 or 4.
        labels: int (N,) or None.
        class_names: what label k is called, if that is known.

    Raises:
        InputError: another shape, type or value range.
    """

    def __init__(self, images: np.ndarray, channels: int, labels: np.ndarray | None = None,
                 class_names: Sequence[str] = ()) -> None:
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
        height, width = images.shape[2:]
        super().__init__(len(images), (channels, height, width), labels, class_names)
        self._images = images

    def load(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """See `RandomAccessDataset.load`."""
        images = self._images[self._rows[list(indices)]]
        return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


class EncodedDataset(RandomAccessDataset):
    """Base of the data sets whose images are decoded, by a pool of threads, when they are asked for.

    An image that cannot be read any more is an `InputError` under "refuse". Under "skip" the next image of the same
    label that can be read stands in for it, so its label stays true, and the log says so once; which one depends on the
    image's number alone.

    Args:
        count: how many images there are.
        size: (height, width) they are fitted to.
        channels: 1, 3 or 4.
        on_error: "refuse" or "skip".
        workers: threads.
        labels: int (count,) or None.
        class_names: what label k is called, if that is known.
        background: what shows through where an image is transparent; see `read_image`.
    """

    def __init__(self, count: int, size: tuple[int, int], channels: int, on_error: str = "refuse", workers: int = 2,
                 labels: np.ndarray | None = None, class_names: Sequence[str] = (), background: str = "white") -> None:
        super().__init__(count, (channels, *size), labels, class_names)
        self._on_error, self._background = on_error, background
        self._reported: set[int] = set()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def load(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """See `RandomAccessDataset.load`; an image that cannot be read is as ``on_error`` says."""
        found = self._read(indices)
        return np.stack([self._instead(i, x) if isinstance(x, InputError) else x for i, x in zip(indices, found)])

    def _sources(self, rows: np.ndarray) -> list[Any]:
        """What is to be decoded for each row of the source: a path, the bytes of a file, or the error that kept them."""
        raise NotImplementedError

    def _name(self, row: int) -> str:
        """What a message calls one row of the source."""
        raise NotImplementedError

    def _read(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray | InputError]:
        rows = self._rows[list(indices)]
        return list(self._pool.map(self._decode, self._sources(rows), rows))

    def _decode(self, source: Any, row: int) -> np.ndarray | InputError:
        if isinstance(source, InputError):
            return source
        try:
            return read_image(source, self.shape[1:], self.shape[0], self._background, self._name(row))
        except InputError as error:
            return error

    def _instead(self, index: int, error: InputError) -> np.ndarray:
        """The image that stands in for image ``index``, or ``error``."""
        if self._on_error == "refuse":
            raise InputError(f"{error}; repair it, or set data.on_error=skip")
        for other in itertools.islice(self._alike(index), REPLACEMENTS):
            found, = self._read([other])
            if not isinstance(found, InputError):
                if index not in self._reported:
                    self._reported.add(index)
                    log.warning("skipped: %s; %s stands in for it", error, self._name(self._rows[other]))
                return found
        raise InputError(f"{error}, nor can the images after it that could stand in for it")

    def _alike(self, index: int) -> Iterable[int]:
        """The images after ``index``, cyclically, that have its label."""
        count = len(self)
        try:
            labels = self.labels
        except InputError:  # labels that nobody trains on do not matter here either
            labels = None
        others = ((index + k) % count for k in range(1, count))
        return others if labels is None else (other for other in others if labels[other] == labels[index])


def check_labels(where: str, labels: np.ndarray) -> None:
    """Raise `InputError` unless all are 0 to 65535: a histogram and names of all classes must fit."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < MOST_CLASSES:
        raise InputError(f"{where} has labels {labels.min()} to {labels.max()}, allowed: 0 to {MOST_CLASSES - 1}")


class FileDataset(EncodedDataset):
    """Image files.

    Args:
        where: what a message calls all of them.
        paths: the files.
        size, channels, on_error, workers, class_names, background: see `EncodedDataset`; a file that is broken from the
            start is left out under "skip", and named in ``skipped``.
        labels: int (len(paths),) or None.

    Raises:
        InputError: a broken file under "refuse", or nothing but broken files.
    """

    def __init__(self, where: str, paths: Sequence[Path], size: tuple[int, int], channels: int, on_error: str = "refuse",
                 workers: int = 2, labels: np.ndarray | None = None, class_names: Sequence[str] = (),
                 background: str = "white") -> None:
        super().__init__(len(paths), size, channels, on_error, workers, labels, class_names, background)
        self._paths = paths
        # Every file is decoded once before training starts: a broken one is better found now than at 3 a.m.
        checks = self._pool.map(lambda row: self._check(paths[row], row), range(len(paths)))
        errors = list(watched(checks, len(paths), "image", "reading every image once"))
        self.skipped = [str(error) for error in errors if error is not None]
        if self.skipped and on_error == "refuse":
            more = f" (and {len(self.skipped) - 1} more)" if len(self.skipped) > 1 else ""
            raise InputError(f"{self.skipped[0]}{more}; remove it or set data.on_error=skip")
        self._rows = np.flatnonzero([error is None for error in errors])
        if not len(self):
            raise InputError(f"{where}: all {len(paths)} images are broken, allowed: at least one that is not")

    def _check(self, path: Path, row: int) -> InputError | None:
        found = self._decode(path, row)
        return found if isinstance(found, InputError) else None

    def _sources(self, rows: np.ndarray) -> list[Any]:
        return [self._paths[row] for row in rows]

    def _name(self, row: int) -> str:
        return str(self._paths[row])


class StreamDataset:
    """Images from any iterable, in its own order, started again when it ends.

    Args:
        iterable: yields images (C, H, W) in [0, 1] or batches of them, alone or first in a tuple; a
            ``mindspore.dataset`` object is one. Its order is its own affair; resuming skips what was used.

    Raises:
        InputError: it yields nothing, or something that is no image.
    """

    labels = None
    class_names = ()

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        self._next: int
        self._images: Iterator[np.ndarray]
        self.shape: tuple[int, ...] | None = None
        self._start()
        first = next(self._images)
        self.shape = first.shape
        self._images = itertools.chain([first], self._images)

    def take(self, positions: Sequence[int], seed: int) -> np.ndarray:
        """Images at rising ``positions``; ``seed`` is not used. A position that has passed begins the iterable again."""
        taken = []
        for position in positions:
            if position < self._next:
                if iter(self._iterable) is self._iterable:
                    raise InputError(f"the data can be read once only and is at image {self._next}, allowed for image "
                                     f"{position}: an iterable that begins again, such as a list or a class with __iter__")
                self._start()
            taken.append(next(itertools.islice(self._images, position - self._next, None)))
            self._next = position + 1
        return np.stack(taken)

    def _start(self) -> None:
        self._next = 0  # the number of the image that `_images` yields next
        self._images = self._endless()

    def _endless(self) -> Iterator[np.ndarray]:
        while True:
            empty = True
            for item in self._rows():
                image = np.asarray(item[0] if isinstance(item, (tuple, list)) else item)
                for one in image if image.ndim == 4 else [image]:
                    empty = False
                    yield self._checked(one)
            if empty:
                raise InputError("the data yields no image, allowed: at least one")

    def _checked(self, image: np.ndarray) -> np.ndarray:
        """float32 (C, H, W) in [0, 1] like the first one."""
        if image.ndim != 3 or self.shape not in (None, image.shape):
            allowed = "(C, H, W), (B, C, H, W)" if self.shape is None else f"{self.shape} as the first"
            raise InputError(f"the data yields an image of shape {image.shape}, allowed: {allowed}")
        image = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
        if not (image.min() >= 0 and image.max() <= 1):
            raise InputError(f"the data yields an image of values {image.min():.4g} to {image.max():.4g}, allowed: uint8, or "
                             "0 to 1")
        return image

    def _rows(self) -> Iterable[Any]:
        if hasattr(self._iterable, "create_tuple_iterator"):  # mindspore.dataset
            return self._iterable.create_tuple_iterator(num_epochs=1, output_numpy=True)
        return self._iterable


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return rng.generator(seed, "data_order", step=epoch).permutation(count)
