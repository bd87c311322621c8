"""Checkpoint files of MindSpore, read without it: a protocol buffer of names, types, shapes and bytes.

message Checkpoint {repeated Value value = 1}, Value {string tag = 1; TensorProto tensor = 2},
TensorProto {repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3}. A large tensor is several values of one
tag in a row.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from ddpm_ms.errors import InputError
from ddpm_ms.interop.torch_files import MOST_DIMENSIONS

_DTYPES = {"Float16": "<f2", "Float32": "<f4", "Float64": "<f8", "BFloat16": "<u2", "Int8": "i1", "UInt8": "u1", "Int16": "<i2",
           "Int32": "<i4", "Int64": "<i8", "Bool": "?"}


def read_mindspore_file(path: Path) -> dict[str, np.ndarray]:
    """Every parameter of a file that ``mindspore.save_checkpoint`` wrote; floats of 16 bits become float32. What it appends, as
    plain numbers and texts, is there as arrays or left out.

    Raises:
        InputError: no such file, or one that is damaged, cut short or of another format.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise InputError(f"MindSpore file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return _tensors(data)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # a number where bytes should be, and the like
        raise InputError(f"MindSpore file {path} is cut short, damaged or of another format") from None


def _tensors(data: mmap.mmap) -> dict[str, np.ndarray]:
    parts: dict[str, list[bytes]] = {}
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    for number, value in _fields(data, range(len(data))):
        if number != 1:
            continue
        found = dict(_fields(data, value))
        name, (kind, dims, content) = _content(data, found[1]).decode(), _tensor(data, found[2])
        if kind not in _DTYPES:  # a text, or of another type than weights
            continue
        if kinds.setdefault(name, (kind, dims)) != (kind, dims):
            raise ValueError
        parts.setdefault(name, []).append(content)
    if not parts:
        raise ValueError
    return {name: _array(parts.pop(name), *kind) for name, kind in kinds.items()}


def _tensor(data: mmap.mmap, place: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Type, dimensions and bytes of a TensorProto, or of a slice of one."""
    kind, content = "", b""
    dims: list[int] = []
    for key, entry in _fields(data, place):
        if key == 1:
            dims += [entry] if isinstance(entry, int) else _packed(data, entry)
            if len(dims) > MOST_DIMENSIONS:
                raise ValueError
        elif key == 2:
            kind = _content(data, entry).decode()
        elif key == 3:
            content = _content(data, entry)
    return kind, tuple(dims), content


def _array(parts: list[bytes], kind: str, dims: tuple[int, ...]) -> np.ndarray:
    content, dtype = b"".join(parts) if len(parts) > 1 else parts[0], np.dtype(_DTYPES[kind])
    dims = () if dims == (0,) else dims  # of a scalar
    if math.prod(dims) * dtype.itemsize != len(content):
        raise ValueError
    raw = np.frombuffer(content, dtype).reshape(dims)
    if kind == "BFloat16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32) if kind == "Float16" else raw


def _content(data: mmap.mmap, place: Any) -> bytes:
    if not isinstance(place, range):
        raise ValueError
    return data[place.start:place.stop]


def _fields(data: mmap.mmap, place: Any) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of the message at a place: an int, or where its bytes are."""
    if not isinstance(place, range):
        raise ValueError
    at, end = place.start, place.stop
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at, end)
            yield key >> 3, value
            continue
        length, at = _varint(data, at, end) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if length > end - at:
            raise ValueError
        yield key >> 3, range(at, at + length)
        at += length


def _packed(data: mmap.mmap, place: range) -> list[int]:
    """Of many no more than are too many."""
    values: list[int] = []
    at = place.start
    while at < place.stop and len(values) <= MOST_DIMENSIONS:
        value, at = _varint(data, at, place.stop)
        values.append(value)
    return values


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError
