"""Files of safetensors, mapped instead of read, and with bfloat16, which NumPy does not know."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ddpm_ms.errors import InputError, shown
from ddpm_ms.interop.torch_files import kind_of_file

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
           "U8": "u1", "BOOL": "?"}


def read_safetensors_file(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file by name; float16 and bfloat16 become float32.

    Arrays are read-only and mapped, so the file must stay as it is.

    Raises:
        InputError: no such file; another format, in one line what it is; damaged or cut short; or a type that is not here.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with safe_open(path, framework="np"):  # checks the header, and that the file is as long as it says
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"safetensors file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except SafetensorError as error:
        found = kind_of_file(data)
        problem = f"is cut short or damaged ({error})" if found in ("a safetensors file", "of another format") else f"is {found}"
        raise InputError(f"safetensors file {path} {problem}") from None
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {name: _array(path, data, name, entry, start) for name, entry in header.items()}


def _array(path: Path, data: mmap.mmap, name: str, entry: dict, start: int) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise InputError(f"safetensors file {path}: {shown(name)} has the type {entry['dtype']}, allowed: {', '.join(_DTYPES)}")
    dtype, (begin, end) = np.dtype(_DTYPES[entry["dtype"]]), entry["data_offsets"]
    try:
        raw = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, start + begin).reshape(entry["shape"])
    except ValueError:  # more dimensions than NumPy has, or beside a 0 larger ones
        raise InputError(f"safetensors file {path}: {shown(name)} has the shape {shown(entry['shape'])}, allowed: one of an "
                         "array") from None
    if entry["dtype"] == "BF16":  # the upper half of a float32
        wide = raw.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return raw.astype(np.float32) if entry["dtype"] == "F16" else raw
