"""Images that come as arrays: scikit-learn's digits, NumPy's files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from ddpm_ms.config import DataConfig
from ddpm_ms.data.array_files import read_arrays
from ddpm_ms.data.datasets import ArrayDataset, check_labels
from ddpm_ms.data.official import path_of
from ddpm_ms.errors import InputError, needed


def digits(config: DataConfig | None = None) -> ArrayDataset:
    """The 1,797 handwritten digits, 8x8 grey, that scikit-learn carries (UCI "Optical recognition of digits").

    Raises:
        InputError: scikit-learn is not installed.
    """
    with needed("scikit-learn", "the digits are scikit-learn's"):
        images, labels = _shipped_digits()
    return ArrayDataset((images / 16).astype(np.float32), 1, labels, [str(k) for k in range(10)])


def _shipped_digits() -> tuple[np.ndarray, np.ndarray]:
    """(values 0 to 16 (N, 8, 8), labels (N,)). From the file, where it is: to import scikit-learn takes ten times as long."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None:
        raise ModuleNotFoundError("sklearn")
    for folder in spec.submodule_search_locations or []:
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


def array_file(config: DataConfig) -> ArrayDataset:
    """The array file at ``data.root``; see `load_array_file`."""
    return load_array_file(path_of(config), config.channels)


def load_array_file(path: str | Path, channels: int | None = None) -> ArrayDataset:
    """A ``.npy`` array, or a ``.npz`` with ``images`` (or ``arr_0``, as guided-diffusion has it, or a single array) and perhaps
    ``labels`` and ``class_names``.

    Args:
        path: of the file.
        channels: 1, 3 or 4; None: as the shape of the images says.

    Raises:
        InputError: from `read_arrays`, or there are no images, or labels or names are none.
    """
    arrays = read_arrays(path)
    images = arrays.get("images", arrays.get("arr_0", next(iter(arrays.values())) if len(arrays) == 1 else None))
    if images is None:
        raise InputError(f"array file {path} holds {', '.join(arrays) or 'nothing'}, allowed: an array named images")
    labels = arrays.get("labels")
    if np.size(images) == 0:
        raise InputError(f"array file {path} has images of shape {np.shape(images)}, allowed: at least one image")
    if labels is not None and (np.ndim(labels) != 1 or np.asarray(labels).dtype.kind not in "iu"):
        raise InputError(f"array file {path} has labels of shape {np.shape(labels)} and type {np.asarray(labels).dtype}, "
                         "allowed: whole numbers (N,)")
    if labels is not None:
        check_labels(f"array file {path}", labels)
    names = arrays.get("class_names", np.empty(0, "U1"))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(f"array file {path} has class_names of shape {names.shape} and type {names.dtype}, allowed: texts (K,)")
    return ArrayDataset(images, _channels(images.shape) if channels is None else channels, labels, tuple(names.tolist()))


def _channels(shape: tuple[int, ...]) -> int:
    """Of (N, H, W), (N, C, H, W) or (N, H, W, C); of anything else what `ArrayDataset` refuses."""
    return 1 if len(shape) != 4 else shape[1] if shape[1] in (1, 3, 4) else shape[3]
