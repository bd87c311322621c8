"""What there is in a data set, for a person to look at."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ddpm_ms.data.datasets import EncodedDataset, RandomAccessDataset
from ddpm_ms.errors import InputError

LOOKED_AT = 1024  # images whose values are measured
UNLABELLED = 64  # images on the sheet of a data set without labels
MANY = 20  # above as many classes the sheet shows fewer images of each
BAR = 40  # characters of the longest bar


def summary(dataset: RandomAccessDataset) -> list[str]:
    """Lines: how many images, their shape and values, and how many of each class."""
    looked_at = np.unique(np.linspace(0, len(dataset) - 1, LOOKED_AT).round().astype(int))
    parts = [dataset.load(rows) for rows in np.array_split(looked_at, max(1, len(looked_at) // 64))]
    low, high, mean = min(x.min() for x in parts), max(x.max() for x in parts), np.mean([x.mean() for x in parts])
    channels, height, width = dataset.shape
    lines = [f"images: {len(dataset)}", f"shape: {channels} channel{'s' if channels > 1 else ''}, {height}x{width}",
             f"values: {low:.3f} to {high:.3f}, mean {mean:.3f} (of {len(looked_at)} images)"]
    if isinstance(dataset, EncodedDataset):
        lines.append(f"left out: {len(getattr(dataset, 'skipped', ()))}")
    try:
        labels = dataset.labels
    except InputError as error:  # only a network with classes needs labels
        return [*lines, f"labels: none that can be used ({error})"]
    if labels is None:
        why = f" ({dataset.why_no_labels})" if dataset.why_no_labels else ""
        return [*lines, f"labels: none{why}"]
    return lines + _histogram(labels, dataset.class_names)


def sheet(dataset: RandomAccessDataset) -> tuple[np.ndarray, int]:
    """(images (N, C, H, W), how many stand in a row): some of every class, a class after the other, or some of all."""
    try:
        labels = dataset.labels
    except InputError:
        labels = None
    if labels is None:
        return dataset.load(np.unique(np.linspace(0, len(dataset) - 1, UNLABELLED).round().astype(int))), 8
    classes = np.unique(labels)
    each, columns = (8, 8) if len(classes) <= MANY else (4, 16)
    # A class with too few images shows them again, so that classes stay under each other.
    chosen = [np.resize(np.flatnonzero(labels == k)[:each], each) for k in classes]
    return dataset.load(np.concatenate(chosen)), columns


def _histogram(labels: np.ndarray, names: Sequence[str]) -> list[str]:
    counts = np.bincount(labels)
    width = max((len(name) for name in names), default=0)
    bars = ["#" * round(BAR * count / counts.max()) for count in counts]
    rows = [f"{k:5d}  {(names[k] if k < len(names) else ''):{width}}  {count:7d}  {bars[k]}".rstrip()
            for k, count in enumerate(counts)]
    return [f"labels: {np.count_nonzero(counts)} classes, {counts[counts > 0].min()} to {counts.max()} images in each", *rows]
