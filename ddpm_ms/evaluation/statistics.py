"""Means and covariances of features: summed batch by batch, merged, kept in files that other projects read and write as well."""

from __future__ import annotations

import contextlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddpm_ms.data.array_files import read_arrays
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.metrics import Gaussian


class Sums:
    """Count, sum and sum of outer products of features, in float64: those of two sets add up to those of both.

    Args:
        width: D, of the features.
    """

    def __init__(self, width: int) -> None:
        self.count, self.total, self.outer = 0, np.zeros(width), np.zeros((width, width))

    def add(self, features: np.ndarray) -> None:
        """Take in features (N, D)."""
        rows = np.asarray(features, np.float64)
        self.count += len(rows)
        self.total += rows.sum(0)
        self.outer += rows.T @ rows

    def merge(self, other: Sums) -> None:
        """Take in everything that ``other`` has."""
        self.count, self.total, self.outer = self.count + other.count, self.total + other.total, self.outer + other.outer

    def gaussian(self) -> Gaussian:
        """Mean, and covariance over count - 1; of two images or more."""
        mean = self.total / self.count
        return Gaussian(mean, (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1))


@dataclass(frozen=True)
class Statistics:
    """What a file of statistics says.

    Args:
        pool: of the features that distances are measured in.
        spatial: of those of sFID, where they are known.
        count: of the images; None where the file does not say.
        features: their `Features.identity`; empty where the file does not say.
        images: in words; empty where the file does not say.
    """

    pool: Gaussian
    spatial: Gaussian | None = None
    count: int | None = None
    features: str = ""
    images: str = ""

    def save(self, path: str | Path) -> None:
        """Write ``mu`` and ``sigma`` (and ``mu_s`` and ``sigma_s``) as guided-diffusion does, and what they are of; whole or not
        at all.

        Raises:
            OSError: it cannot be written.
        """
        path = Path(path)
        arrays = {"mu": self.pool.mean, "sigma": self.pool.covariance, "features": np.array(self.features),
                  "images": np.array(self.images), "count": np.array(self.count or 0)}
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean, "sigma_s": self.spatial.covariance}
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read a file of `save`, or an ``.npz`` of guided-diffusion or EDM.

        Raises:
            InputError: there is none, it is damaged, or these are no statistics; see `read_arrays`.
        """
        arrays = read_arrays(path)
        if not {"mu", "sigma"} <= arrays.keys():
            raise InputError(f"statistics {path} hold {', '.join(arrays) or 'nothing'}, allowed: mu and sigma")
        spatial = _gaussian(path, arrays, "mu_s", "sigma_s") if {"mu_s", "sigma_s"} <= arrays.keys() else None
        count = arrays.get("count", np.array(0))
        known = int(count) if count.ndim == 0 and count.dtype.kind in "iu" and count > 0 else None
        return cls(_gaussian(path, arrays, "mu", "sigma"), spatial, known, _text(arrays, "features"), _text(arrays, "images"))


def is_statistics(path: str | Path) -> bool:
    """Whether this is an ``.npz`` with a ``mu`` and a ``sigma``."""
    try:
        with zipfile.ZipFile(path) as file:
            return {"mu.npy", "sigma.npy"} <= set(file.namelist())
    except Exception:  # zipfile raises many kinds; who reads it next says why it cannot be read
        return False


def write_arrays(path: Path, arrays: dict[str, np.ndarray], compressed: bool = False) -> None:
    """Write an ``.npz``: whole or, when that raises `OSError`, not at all."""
    partial = path.with_name(f".{os.getpid()}_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            (np.savez_compressed if compressed else np.savez)(file, **arrays)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _gaussian(path: str | Path, arrays: dict[str, np.ndarray], mean: str, covariance: str) -> Gaussian:
    found = Gaussian(arrays[mean], arrays[covariance])
    width = found.mean.shape[0] if found.mean.ndim == 1 else -1
    if found.covariance.shape != (width, width) or any(array.dtype.kind not in "fiu" for array in found):
        raise InputError(f"statistics {path}: {mean} and {covariance} have the shapes {found.mean.shape} and "
                         f"{found.covariance.shape}, allowed: numbers (D,) and (D, D)")
    found = Gaussian(*(array.astype(np.float64) for array in found))
    if not all(np.isfinite(array).all() for array in found):
        raise InputError(f"statistics {path}: {mean} or {covariance} has numbers that are not finite, allowed: finite ones")
    return found


def _text(arrays: dict[str, np.ndarray], name: str) -> str:
    """A text, where there is one."""
    array = arrays.get(name)
    return str(array) if array is not None and array.ndim == 0 and array.dtype.kind == "U" else ""
