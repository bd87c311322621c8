"""Images that an evaluation drew, kept in the run directory so that they are drawn once: an interrupted evaluation goes on where
it was, and another metric or another reference finds them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any, Iterator, Mapping

import numpy as np

from ddpm_ms.config import SamplingConfig
from ddpm_ms.data.array_files import read_arrays
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.statistics import write_arrays
from ddpm_ms.visual import to_uint8

log = logging.getLogger("ddpm_ms")

_NAME = re.compile(r"(\d{8})_(\d{8})\.npz")  # numbers of the first image and of the one after the last


class DrawnImages:
    """The images 0, 1, ... of one checkpoint and one way of drawing, in files that are whole or not there.

    Args:
        run_dir: of the run.
        settings: everything that the images depend on, but for rounding; the directory is named by its hash, and its
            ``settings.json`` says it.
        shape: (C, H, W) of each.
        kept: False: nothing is read or written, for parts whose code may be another next time.
    """

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], shape: tuple[int, int, int], kept: bool = True) -> None:
        text = json.dumps(settings, sort_keys=True, indent=1)
        self.folder = run_dir / "evaluations" / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._text, self._shape, self._kept = text, shape, kept

    def read(self, count: int) -> np.ndarray:
        """The first of them without a gap, at most ``count``, as uint8 (N, C, H, W)."""
        parts, reached = [np.empty((0, *self._shape), np.uint8)], 0
        for first, last, path in self._files():
            if first > reached or reached >= count:
                break
            if last <= reached:
                continue
            images = self._read(path, last - first)
            if images is None:
                break
            parts.append(images[reached - first:])
            reached = last
        return np.concatenate(parts)[:count]

    def add(self, first: int, images: np.ndarray, writes: bool = True) -> np.ndarray:
        """Keep images ``first`` and after, (N, C, H, W) in [0, 1], and return them as uint8; of all ranks one ``writes``. A disk
        that does not take them costs time, not the evaluation.

        Raises:
            InputError: the network drew what is not finite.
        """
        if not np.isfinite(images).all():
            bad = first + int(np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))[0])
            raise InputError(f"drawn image {bad} is not finite, allowed: weights that draw finite images")
        pixels = to_uint8(images)
        if writes and self._kept:
            try:
                write_arrays(self.folder / f"{first:08d}_{first + len(pixels):08d}.npz", {"images": pixels}, compressed=True)
                if not (self.folder / "settings.json").exists():
                    (self.folder / "settings.json").write_text(self._text, encoding="utf-8")
            except OSError as error:
                self._kept = False
                log.warning("drawn images are not kept: %s could not be written (%s)", self.folder, error.strerror or error)
        return pixels

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(first, after the last, path), in order."""
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.glob("*.npz")) if self._kept else ():
                name = _NAME.fullmatch(path.name)
                if name:
                    yield int(name[1]), int(name[2]), path

    def _read(self, path: Path, count: int) -> np.ndarray | None:
        """The images of one file; None where it holds anything else."""
        try:
            images = read_arrays(path).get("images")
        except InputError as error:
            log.warning("%s; drawing again", error)
            return None
        if images is None or images.dtype != np.uint8 or images.shape != (count, *self._shape):
            log.warning("%s does not hold %d images; drawing again", path, count)
            return None
        return images


def way_in_words(facts: Mapping[str, Any]) -> str:
    """How images are drawn, for people: sampler, steps and seed, what is not as usual, and the classes that were chosen."""
    usual = dict(SamplingConfig())
    others = [f"{name} {value}" for name, value in facts.items()
              if name not in ("sampler", "steps", "seed") and name in usual and value != usual[name]]
    chosen = f"classes {' '.join(map(str, facts['classes']))}" if facts.get("classes") is not None else None
    return ", ".join([facts["sampler"], f"{facts['steps']} steps", f"seed {facts['seed']}", *others, *filter(None, [chosen])])
