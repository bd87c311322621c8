"""Image files in folders: anybody's own, CelebA, Oxford-102 flowers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from ddpm_ms.config import DataConfig
from ddpm_ms.data.datasets import Classes, FileDataset
from ddpm_ms.data.images import find_images
from ddpm_ms.data.official import Published, path_of
from ddpm_ms.errors import InputError, needed

CELEBA = Published("celeba", "download img_align_celeba.zip and list_eval_partition.txt from "
                   "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpack the first, and set data.root to the folder that "
                   "holds both")
CELEBA_COUNTS = {"train": 162_770, "test": 19_962}
FLOWERS = Published("flowers102", "download 102flowers.tgz and imagelabels.mat from "
                    "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/, unpack the first, and set data.root to the folder that "
                    "holds jpg/ and imagelabels.mat")
FLOWER_CLASSES = 102


class ImageFolderDataset(FileDataset):
    """Every image file below a folder, at any depth.

    If all of them lie in sub-folders, two at least, the sub-folders are classes: label k is the k-th in sorted order.

    Args:
        folder: where to look.
        **reading: size, channels, on_error, workers, background of `FileDataset`.

    Raises:
        InputError: no such folder, no image, or a broken file under "refuse". Asking for labels when a class is empty.
    """

    def __init__(self, folder: str | Path, *arguments: Any, **reading: Any) -> None:
        super().__init__(f"data folder {folder}", find_images(folder), *arguments, **reading)
        usable = [self._paths[row] for row in self._rows]
        self._classes = functools.lru_cache(None)(lambda: self._spread(class_folders(folder, usable)))

    def _spread(self, classes: Classes) -> Classes:
        """Labels of the usable files, put where the files stand among all."""
        if classes.labels is None:
            return classes
        spread = np.full(len(self._paths), -1, np.int64)
        spread[self._rows] = classes.labels
        return classes._replace(labels=spread)


def class_folders(folder: str | Path, paths: Sequence[Path]) -> Classes:
    """What ``paths`` show by their first-level sub-folders, unless these are no classes.

    Raises:
        InputError: a sub-folder holds none of ``paths``.
    """
    folder = Path(folder)
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"data folder {folder} cannot be read: {error.strerror or error}") from None
    parts = [path.relative_to(folder).parts for path in paths]
    if len(names) < 2:
        return Classes(None, why_none=f"{folder} has {len(names)} sub-folder{'s' * (len(names) != 1)}, and classes need two")
    number = {name: k for k, name in enumerate(names)}
    outside = [path for path, part in zip(paths, parts) if len(part) == 1 or part[0] not in number]  # or in a hidden folder
    if outside:
        more = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        return Classes(None, why_none=f"{outside[0]}{more} lies in none of the {len(names)} class folders")
    labels = np.array([number[part[0]] for part in parts], dtype=np.int64)
    empty = [name for name, count in zip(names, np.bincount(labels, minlength=len(names))) if not count]
    if empty:
        raise InputError(f"class folder {folder / empty[0]} holds no image that can be read, allowed: at least one in each")
    return Classes(labels, tuple(names))


def image_folder(config: DataConfig) -> ImageFolderDataset:
    """The images below ``data.root``; see `ImageFolderDataset`."""
    return ImageFolderDataset(path_of(config), **config.reading)


def celeba(config: DataConfig) -> FileDataset:
    """The 162,770 images of CelebA's training part or the 19,962 of its test part: ``img_align_celeba/``, chosen by
    ``list_eval_partition.txt``.

    Raises:
        InputError: one of the two is missing, the list is damaged, or an image in it cannot be read under "refuse".
    """
    root, wanted = CELEBA.root(config), "0" if config.part == "train" else "2"
    folder, listing = CELEBA.find(root / "img_align_celeba"), CELEBA.find(root / "list_eval_partition.txt")
    paths = []
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name, part, *rest = line.split() + ["", ""] if line.strip() else ("", "1", "", "")
        if part not in ("0", "1", "2") or any(rest) or Path(name).name != name:
            raise InputError(f"{listing} line {number} is {line[:80]!r}, allowed: a file's name and 0, 1 or 2")
        if part == wanted:
            paths.append(folder / name)
    if not paths:
        raise InputError(f"{listing} names no {config.part}ing image, allowed: lines that end in {wanted}")
    CELEBA.warn_if_not(str(listing), f"{len(paths)} {config.part}ing images",
                       f"{CELEBA_COUNTS[config.part]} {config.part}ing images")
    if not any(path.is_file() for path in paths):
        raise InputError(f"data celeba: {folder} holds no image that {listing.name} names; {CELEBA.how_to_get}")
    return FileDataset(f"data celeba in {root}", paths, **config.reading)


def flowers102(config: DataConfig) -> FileDataset:
    """All 8,189 images of Oxford-102 flowers, with labels 0 to 101: ``jpg/`` and ``imagelabels.mat``.

    Raises:
        InputError: one of the two is missing or damaged, they do not fit, or an image cannot be read under "refuse".
    """
    root = FLOWERS.root(config)
    folder, table = FLOWERS.find(root / "jpg"), FLOWERS.find(root / "imagelabels.mat")
    paths = sorted(folder.glob("image_*.jpg"))
    labels = _flower_labels(table)
    if [path.name for path in paths] != [f"image_{k:05d}.jpg" for k in range(1, len(labels) + 1)]:
        raise InputError(f"{folder} holds {len(paths)} images, but {table} has {len(labels)} labels, allowed: image_00001.jpg to "
                         f"image_{len(labels):05d}.jpg; {FLOWERS.how_to_get}")
    FLOWERS.warn_if_not(str(table), f"{len(labels)} labels", "8189 labels")
    return FileDataset(f"data flowers102 in {root}", paths, **config.reading, labels=labels)


def _flower_labels(path: Path) -> np.ndarray:
    with needed("scipy", f"{path} is a MATLAB file"):
        from scipy.io import loadmat

    try:
        labels = np.asarray(loadmat(path)["labels"]).ravel().astype(np.int64) - 1
    except Exception as error:  # SciPy raises nearly anything on a damaged file
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not labels.size or labels.min() < 0 or labels.max() >= FLOWER_CLASSES:
        raise InputError(f"{path} has labels that are not 1 to {FLOWER_CLASSES}, allowed: the file of Oxford-102 flowers")
    return labels
