"""NumPy's files from strangers: nothing is unpickled, and no file takes much more memory than it has bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ddpm_ms.errors import InputError

# No compressed photograph or drawing comes near this; a file made to exhaust memory does.
LARGEST_EXPANSION, HARMLESS_BYTES = 200, 2**26


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` by name; that of a ``.npy`` as "images".

    Raises:
        InputError: no such file, not NumPy's format, damaged, pickled objects inside, or it would expand beyond reason.
    """
    try:
        with np.errstate(over="raise"):
            # Mapped, a header that promises more than the file holds is found before any memory is taken.
            data = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(data, np.ndarray):
            return {"images": np.array(data)}
        with data:
            for member in data.zip.infolist():
                if member.file_size > max(HARMLESS_BYTES, LARGEST_EXPANSION * member.compress_size):
                    raise ValueError(f"{member.filename} expands from {member.compress_size} to {member.file_size} bytes, "
                                     f"allowed: {LARGEST_EXPANSION} times as many")
            return {name: _array(data, name) for name in data.files}
    except Exception as error:  # a damaged file raises zipfile's and zlib's own errors, a lying one MemoryError
        raise InputError(f"array file {path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from None


def _array(data: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    array = data[name]
    if not isinstance(array, np.ndarray):  # what does not begin as an array comes back as bytes
        raise ValueError(f"{name} is no array")
    return array
