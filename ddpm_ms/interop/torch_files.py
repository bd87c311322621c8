"""Files of torch.save, read without PyTorch and without unpickling: state dicts and what trainers keep beside them.

Two formats hold one pickle, in which storages are persistent ids, and the bytes of the storages:

- since PyTorch 1.6, a zip archive of ``NAME/data.pkl``, ``NAME/data/KEY`` and ``NAME/byteorder``, none of them compressed;
- before, five pickles (a magic number, the protocol, facts about the machine, the value, the keys of the storages), then each
  storage as its length in elements, int64, and its bytes.

The names that the pickle may hold are in `_KNOWN`: what tensors, parameters and state dicts are made of. Everything else that
trainers write (steps, rates, versions) is numbers, texts, lists and dicts.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Literal

import numpy as np

from ddpm_ms.errors import InputError, shown
from ddpm_ms.interop import pickles
from ddpm_ms.interop.pickles import Global
from ddpm_ms.interop.zip_entries import ZipEntries

if TYPE_CHECKING:  # from Python 3.10 on
    from typing import TypeGuard

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MOST_DIMENSIONS = 32  # of NumPy
_LONGEST_KEY = 100  # characters of a storage's name, which is a number
# Of each storage: how its elements lie in the file, and as what they are returned.
_KINDS = {
    "torch.DoubleStorage": ("f8", "f8"), "torch.FloatStorage": ("f4", "f4"), "torch.HalfStorage": ("f2", "f4"),
    "torch.BFloat16Storage": ("u2", "f4"), "torch.LongStorage": ("i8", "i8"), "torch.IntStorage": ("i4", "i4"),
    "torch.ShortStorage": ("i2", "i2"), "torch.CharStorage": ("i1", "i1"), "torch.ByteStorage": ("u1", "u1"),
    "torch.BoolStorage": ("u1", "?"),
}


def read_torch_file(path: str | Path) -> Any:
    """What ``torch.save`` put into a file, with NumPy arrays in the place of tensors and parameters.

    float16 and bfloat16 become float32, other types stay. Tensors that shared memory share it again. Arrays are read-only and
    mapped, so the file must stay as it is. torch.Size is a tuple, an OrderedDict a dict. The checksums of what is used are
    compared; the format before PyTorch 1.6 has none.

    Raises:
        InputError: no such file; another format, in one line what it is; damaged or cut short; it holds anything but tensors,
            lists, dicts and plain values, which is named and never made; or it would take more memory than its length explains.
    """
    try:
        return _read(Path(path))
    except InputError as error:
        raise InputError(f"PyTorch file {path} {error}") from None
    except MemoryError:  # numbers of 16 bits, all of which the file has
        raise InputError(f"PyTorch file {path} takes more memory than there is") from None


def is_state(value: Any) -> TypeGuard[dict[str, np.ndarray]]:
    """Whether it is a state dict: arrays by name."""
    return isinstance(value, dict) and all(isinstance(n, str) and isinstance(a, np.ndarray) for n, a in value.items())


def _read(path: Path) -> Any:
    try:
        if not path.is_file():
            raise InputError("is not a file" if path.exists() else "does not exist")
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise InputError("is empty: the download failed")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from None
    value, content = _from_zip(path, data) if data[:4] == b"PK\3\4" else _from_legacy(data)
    return pickles.finished(value, content.leaf)


# What the pickle makes: storages and tensors without their numbers


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str
    count: int

    @property
    def length(self) -> int:
        """In bytes."""
        return self.count * np.dtype(_KINDS[self.kind][0]).itemsize


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise InputError(f"calls collections.OrderedDict with {len(arguments)} arguments, allowed: none")
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1 or not _extents(arguments[0]):
        raise InputError(f"has a torch.Size that is not made of at most {MOST_DIMENSIONS} whole numbers from 0")
    return arguments[0]


def _parameter(arguments: tuple[Any, ...]) -> _Tensor:
    if len(arguments) != 3 or type(arguments[0]) is not _Tensor:
        raise InputError("has a parameter without a tensor")
    return arguments[0]


def _tensor(arguments: tuple[Any, ...]) -> _Tensor:
    """Storage, offset, shape, strides; then whether it wants a gradient, hooks, and perhaps marks of a lazy conjugate."""
    if not 6 <= len(arguments) <= 7 or type(arguments[0]) is not _Storage or any(arguments[6:]):
        raise InputError("has a tensor that is not made of a storage, offset, shape and strides")
    storage, offset, shape, strides = arguments[:4]
    if not (_extents((offset,)) and _extents(shape) and _extents(strides) and len(shape) == len(strides)):
        raise InputError(f"has a tensor in storage {shown(storage.key)} whose offset, shape and strides are not whole numbers "
                         f"from 0, in at most {MOST_DIMENSIONS} dimensions")
    elements = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides)) if elements else offset - 1
    # An expanded tensor (stride 0) could be larger than any memory; an empty one has a shape that NumPy must take, too.
    if last >= storage.count or elements > storage.count or math.prod(n or 1 for n in shape) > max(2**31, storage.count):
        raise InputError(f"has a tensor of shape {shown(shape)}, strides {shown(strides)} and offset {shown(offset)} in storage "
                         f"{shown(storage.key)} of {storage.count} numbers, allowed: at most these")
    return _Tensor(storage, offset, shape, tuple(stride if n > 1 else 0 for n, stride in zip(shape, strides)))


def _extents(values: Any) -> bool:
    return (type(values) is tuple and len(values) <= MOST_DIMENSIONS
            and all(type(n) is int and 0 <= n < 2**62 for n in values))


_KNOWN = {known.name: known for known in (
    Global("collections.OrderedDict", _ordered_dict), Global("torch.Size", _size),
    Global("torch._utils._rebuild_tensor_v2", _tensor), Global("torch._utils._rebuild_parameter", _parameter),
    *map(Global, _KINDS))}


class _Storages(dict[str, _Storage]):
    """Those that a pickle has named, by key."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.fields = fields

    def __call__(self, found: Any) -> _Storage:
        """Of the persistent id ("storage", its type, key, device, number of elements); in the legacy format, None follows."""
        if type(found) is not tuple or len(found) != self.fields or found[:1] != ("storage",) or any(found[5:]):
            raise InputError("has a persistent id that is not a storage: it is damaged, or holds modules, allowed: state dicts")
        _, kind, key, _, count = found[:5]
        if not (type(kind) is Global and kind.name in _KINDS and type(key) is str and len(key) <= _LONGEST_KEY
                and _extents((count,))):
            raise InputError("has a storage without a type, a name or a number of elements")
        storage = _Storage(key, kind.name, count)
        if self.setdefault(key, storage) != storage:
            raise InputError(f"has a storage {shown(key)} of two types or lengths")
        return storage


def _no_storage(found: Any) -> Any:
    raise InputError("is damaged: it has a storage where none can be")


# Where the numbers are


class _Content:
    """The bytes of the storages; ``find`` says where in the file those of one begin."""

    def __init__(self, data: mmap.mmap, order: Literal["<", ">"], find: Callable[[_Storage], int]) -> None:
        self.data, self.order, self.find = data, order, find
        self.read: dict[str, np.ndarray] = {}
        self.length = 0

    def leaf(self, value: Any) -> np.ndarray:
        """The array of a tensor: a view of its storage."""
        if type(value) is not _Tensor:
            raise InputError("holds a storage or a name by itself, allowed: tensors")
        numbers = self.numbers(value.storage)
        if not math.prod(value.shape):
            return np.zeros(value.shape, numbers.dtype)
        size = numbers.itemsize
        return np.ndarray(value.shape, numbers.dtype, numbers, value.offset * size, tuple(size * n for n in value.strides))

    def numbers(self, storage: _Storage) -> np.ndarray:
        """All of a storage, (count,): read once, and in memory only where they must be converted."""
        if storage.key not in self.read:
            start = self.find(storage)
            self.length += storage.length
            if not 0 <= start <= len(self.data) - storage.length:
                raise InputError(f"ends within storage {shown(storage.key)}: it is cut short or damaged")
            if self.length > len(self.data):  # many could lie in one place, and each be converted
                raise InputError("is damaged: its storages overlap")
            self.read[storage.key] = self.converted(storage, start)
            self.read[storage.key].flags.writeable = False
        return self.read[storage.key]

    def converted(self, storage: _Storage, start: int) -> np.ndarray:
        stored, returned = _KINDS[storage.kind]
        if not storage.count:
            return np.zeros(0, returned)
        raw = np.frombuffer(self.data, np.dtype(stored).newbyteorder(self.order), storage.count, start)
        if storage.kind == "torch.BFloat16Storage":  # the upper half of a float32
            wide = raw.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        if storage.kind == "torch.BoolStorage":
            return raw != 0
        return np.require(raw, returned, "A")  # legacy files align nothing


def _from_legacy(data: mmap.mmap) -> tuple[Any, _Content]:
    storages, places = _Storages(6), {}
    at = _after_magic(data)
    _, at = pickles.run(data, at, len(data), {}, _no_storage)  # whatever the machine was, storages are little-endian
    value, at = pickles.run(data, at, len(data), _KNOWN, storages)
    keys, at = pickles.run(data, at, len(data), {}, _no_storage)
    if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
        raise InputError("is damaged: it lists storages that no tensor has")
    for key in keys:
        if int.from_bytes(data[at:at + 8], "little") != storages[key].count or at + 8 > len(data):
            raise InputError(f"is cut short or damaged: storage {shown(key)} has another length than its tensors")
        places[key] = at + 8
        at += 8 + storages[key].length
    if places.keys() != storages.keys():
        raise InputError("is damaged: it does not list all storages")
    return value, _Content(data, "<", lambda storage: places[storage.key])


def _after_magic(data: mmap.mmap) -> int:
    """Where the third pickle begins."""
    try:
        magic, at = pickles.run(data, 0, min(100, len(data)), {}, _no_storage)
        protocol, at = pickles.run(data, at, min(at + 100, len(data)), {}, _no_storage)
    except InputError:
        magic = protocol = at = 0
    if type(magic) is not int or type(protocol) is not int or (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise InputError(f"is {kind_of_file(data)}, allowed: a file that torch.save wrote")
    return at


def kind_of_file(data: mmap.mmap) -> str:
    """What a file is that is none of torch.save's."""
    start = data[:1000].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a page of HTML: the address led to a page instead of the file"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in the place of the file"
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return "a safetensors file"
    if data[:1] == b"\x80":
        return "a pickle of something else"
    return "of another format"


def _from_zip(path: Path, data: mmap.mmap) -> tuple[Any, _Content]:
    entries = ZipEntries(path, data)
    found = [name for name in entries.named if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise InputError(f"is a zip archive with {len(found)} entries NAME/data.pkl, allowed: one, as torch.save writes it")
    name = found[0][:-len("data.pkl")]
    if any(entry.startswith((f"{name}code/", f"{name}constants.pkl")) for entry in entries.named):
        raise InputError("is a TorchScript archive, a program, allowed: a file that torch.save wrote of a state_dict()")

    order = _bytes_of(data, entries.place(f"{name}byteorder")) if f"{name}byteorder" in entries.named else b"little"
    if order not in (b"little", b"big"):
        raise InputError(f"has the byte order {shown(order)}, allowed: little, big")

    def find(storage: _Storage) -> int:
        place = entries.place(f"{name}data/{storage.key}")
        if len(place) != storage.length:
            raise InputError(f"is damaged: entry {shown(f'{name}data/{storage.key}')} has {len(place)} bytes, its tensors have "
                             f"{storage.length}")
        return place.start

    pickle = entries.place(f"{name}data.pkl")
    value, _ = pickles.run(data, pickle.start, pickle.stop, _KNOWN, _Storages(5))
    return value, _Content(data, "<" if order == b"little" else ">", find)


def _bytes_of(data: mmap.mmap, place: range) -> bytes:
    """As many as a message can show."""
    return data[place.start:min(place.stop, place.start + 100)]
