"""Images that come as arrays: scikit-learn's digits, NumPy's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ddpm_ms.data.datasets import ArrayDataset
from ddpm_ms.errors import InputError


def load_digits() -> ArrayDataset:
    """The 1,797 handwritten digits, 8x8 grey, that scikit-learn carries (UCI "Optical recognition of digits")."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    return ArrayDataset((digits.images / 16).astype(np.float32), 1, digits.target, [str(k) for k in range(10)])


def load_array_file(path: str | Path, channels: int) -> ArrayDataset:
    """A ``.npy`` array, or a ``.npz`` with ``images`` (or a single array) and perhaps ``labels``.

    Raises:
        InputError: no such file, not NumPy's format, pickled objects inside, or no images.
    """
    try:
        data = np.load(path, allow_pickle=False)
        arrays = {"images": data} if isinstance(data, np.ndarray) else {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"array file {path} cannot be read: {' '.join(str(error).split())}") from None
    except Exception as error:  # a damaged zip raises zipfile's and zlib's own errors
        raise InputError(f"array file {path} is damaged: {error}") from None
    images = arrays.get("images", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if images is None:
        raise InputError(f"array file {path} holds {', '.join(arrays) or 'nothing'}, allowed: an array named images")
    return ArrayDataset(images, channels, arrays.get("labels"))
