"""What is compared with what: images of a run, of a folder, of a file, of a data set by name; or saved statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from ddpm_ms.config import Config, DataConfig, override_section
from ddpm_ms.data import ImageFolderDataset, RandomAccessDataset, create_dataset, describe, split
from ddpm_ms.data.arrays import load_array_file
from ddpm_ms.data.images import find_images, image_shape
from ddpm_ms.errors import InputError, check_range, shown
from ddpm_ms.evaluation.statistics import Statistics, is_statistics
from ddpm_ms.parts import DATASETS

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Args:
        what: it is, in words.
        count: of its images; None of statistics that do not say.
        shape: (C, H, W); None of statistics.
        images: makes them, which may take long; None of statistics.
        statistics: where there are no images.
        facts: for programs, what ``what`` says to people.
        data: the data set that it is, if it is one.
        fixed: the same next time, so that its statistics are worth keeping.
    """

    what: str
    count: int | None
    shape: Shape | None = None
    images: Callable[[], RandomAccessDataset] | None = None
    statistics: Statistics | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    data: DataConfig | None = None
    fixed: bool = True

    def first(self, count: int | None) -> Side:
        """``count`` of its images, evenly spread; all without a count.

        Raises:
            InputError: it has fewer, or none.
        """
        if count is None:
            return self
        if self.images is None or self.count is None:
            raise InputError(f"--num-images is {count}, allowed with {self.what}: none, which has no images")
        check_range(f"--num-images of {self.what}", count, 1, self.count)
        dataset = self.images().subset(np.arange(count) * self.count // count)
        return of_dataset(self.what, dataset, self.facts, self.data)


def of_dataset(what: str, dataset: RandomAccessDataset, facts: Mapping[str, Any], data: DataConfig | None = None) -> Side:
    """The side of all images of ``dataset``."""
    channels, height, width = dataset.shape
    return Side(what, len(dataset), (channels, height, width), lambda: dataset, facts=facts, data=data)


def side_of(words: Sequence[str], option: str, shape: Shape | None = None) -> Side:
    """What the words behind an option name; not a run, which is for who can draw.

    Args:
        words: a folder, a file, or the name of a data set, which goes first and which keys of its section may follow.
        option: that they stand behind.
        shape: (C, H, W) of the other side, for data that is fitted to any size.

    Raises:
        InputError: there is no such thing, or it cannot be read, or its images are of several sizes.
    """
    name, *settings = words
    if name in DATASETS:
        return _named(name, settings, shape)
    if settings:
        raise InputError(f"{option} {name} is followed by {shown(settings[0])}, allowed: key=value behind the name of a data set "
                         f"({', '.join(DATASETS)})")
    path = Path(name)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() not in (".npz", ".npy") or not path.is_file():
        problem = "" if path.exists() else ", which does not exist"
        raise InputError(f"{option} is {name}{problem}, allowed: a run, a folder, a .npy or .npz of images or statistics, or a "
                         f"data set ({', '.join(DATASETS)})")
    if path.suffix.lower() == ".npz" and is_statistics(path):
        statistics = Statistics.load(path)
        of = f" ({statistics.images})" if statistics.images else ""
        return Side(f"statistics {path}{of}", statistics.count, statistics=statistics, facts={"statistics": str(path)})
    return of_dataset(f"file {path}", load_array_file(path), {"file": str(path)})


def training_data(config: Config) -> Side:
    """What a run was trained on, without the images that were held out and never mirrored.

    Raises:
        InputError: it is not where the run says, or came from Python.
    """
    if config.data.name == "array" and config.data.root is None:
        raise InputError("the data of the run was given in Python, allowed: --against with images or statistics")
    dataset, held_out = create_dataset(config.data), config.training.validation_images
    if held_out:
        dataset, _ = split(dataset, held_out, config.training.seed)
    less = f" without {held_out} held out" if held_out else ""
    facts = {"data": config.data.name, "root": config.data.root, "part": config.data.part, "held_out": held_out}
    return of_dataset(f"the run's training data ({_called(config.data)}{less})", dataset, facts, config.data)


def _named(name: str, settings: Sequence[str], shape: Shape | None) -> Side:
    """A data set by name; of the other side's size, unless the settings say another."""
    asked: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{shown(setting)} behind data {name}, allowed: key=value, such as root=PATH")
        asked[key] = value
    fitted = {} if shape is None else {"channels": shape[0], "image_size": tuple(shape[1:])}
    known: dict[str, Any] = {"name": name, **{key: value for key, value in fitted.items() if key not in asked}}
    config = override_section(DataConfig(**known), asked)
    # Unless a size is asked for, images may have the size that they have.
    dataset = create_dataset(config) if {"channels", "image_size"} & asked.keys() else DATASETS[name](config)
    return of_dataset(f"data {_called(config)}", dataset, {"data": name, "part": config.part, **asked}, config)


def _called(config: DataConfig) -> str:
    part = f" ({config.part})" if config.name in config.of_two_parts else ""
    return f"{config.name}{part}" if config.root is None else f"{config.name}{part} {config.root}"


def _folder(path: Path) -> Side:
    """Image files that are all of one size and kind: nothing is scaled."""
    paths = find_images(path)
    shape = image_shape(paths[0])
    for other in paths[1:]:
        if image_shape(other) != shape:
            raise InputError(f"image {other} has {describe(image_shape(other))}, {paths[0].name} has {describe(shape)}, allowed: "
                             f"one size (image_folder root={path} fits them to one)")
    return of_dataset(f"folder {path}", ImageFolderDataset(path, shape[1:], shape[0]), {"folder": str(path)})
