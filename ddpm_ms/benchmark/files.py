"""Image files to time the reading of: made when they are first asked for, gone with the process."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_ms.benchmark.cases import Case
from ddpm_ms.data import ImageFolderDataset, MindRecordDataset
from ddpm_ms.data.mindrecord import pack_folder

COUNT, DIFFERENT = 256, 8
PHOTO = (480, 640)


class Files:
    """Data sets of ``COUNT`` JPEG files, in RGB or grey as the case's images are."""

    def __init__(self, case: Case) -> None:
        self._case = case

    @functools.cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="ddpm_ms_benchmark_")

    @functools.cached_property
    def small(self) -> ImageFolderDataset:
        """Of the size that the case trains on."""
        return self._jpegs("small", (self._case.size, self._case.size))

    @functools.cached_property
    def photos(self) -> ImageFolderDataset:
        """Of a camera's proportions, to be reduced."""
        return self._jpegs("photos", PHOTO)

    @functools.cached_property
    def packed(self) -> MindRecordDataset:
        """Those of ``small`` in one file."""
        path = Path(self._folder.name, "small.mindrecord")
        self.small.load([0])
        pack_folder(path.with_suffix(""), path)
        return MindRecordDataset(path, (self._case.size, self._case.size), self._case.channels)

    def _jpegs(self, name: str, size: tuple[int, int]) -> ImageFolderDataset:
        folder = Path(self._folder.name, name)
        folder.mkdir()
        draw = np.random.default_rng(0)
        for number in range(COUNT):
            path = folder / f"{number:06d}.jpg"
            if number < DIFFERENT:
                coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
                pixels = smooth + draw.normal(0, 4, (*size, 3))  # with grain, as photographs have
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
            else:
                shutil.copy(folder / f"{number % DIFFERENT:06d}.jpg", path)
        return ImageFolderDataset(folder, (self._case.size, self._case.size), self._case.channels)
