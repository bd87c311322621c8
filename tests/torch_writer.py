"""Files as torch.save writes them, without PyTorch: of arrays, lists, tuples, dicts and plain values."""

import io
import struct
import zipfile

import numpy as np

_STORAGES = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char", "u1": "Byte",
             "b1": "Bool"}
_BEFORE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."  # magic, protocol, facts about the machine


def name(path):
    """An opcode that pushes "module.name"."""
    module, _, last = path.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def torch_file(value, legacy=False):
    """The bytes of a file that holds ``value``: a zip archive, or what PyTorch wrote before its version 1.6."""
    arrays = []
    pickle = b"\x80\x02" + _pickled(value, arrays, legacy) + b"."
    contents = [np.ascontiguousarray(array).tobytes() for array in arrays]
    if legacy:
        keys = b"\x80\x02](" + b"".join(_text(str(k)) for k in range(len(arrays))) + b"e."
        return b"".join([_BEFORE, pickle, keys, *(
            array.size.to_bytes(8, "little") + content for array, content in zip(arrays, contents))])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", b"little")
        for k, content in enumerate(contents):
            archive.writestr(f"archive/data/{k}", content)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def _pickled(value, arrays, legacy):
    def inside(values):
        return b"".join(_pickled(one, arrays, legacy) for one in values)

    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return b"](" + inside(value) + b"e"
    if isinstance(value, tuple):
        return b"(" + inside(value) + b"t"
    if isinstance(value, dict):
        return name("collections.OrderedDict") + b")R(" + inside(one for item in value.items() for one in item) + b"u"
    arrays.append(value)
    return (name("torch._utils._rebuild_tensor_v2") + b"(("
            + _text("storage") + name(f"torch.{_STORAGES[value.dtype.str[1:]]}Storage")
            + inside([str(len(arrays) - 1), "cpu", int(value.size)]) + (b"N" if legacy else b"") + b"tQ"
            + inside([0, value.shape, tuple(stride // value.itemsize for stride in np.empty(value.shape, value.dtype).strides)])
            + b"\x89" + inside([{}]) + b"tR")


def _text(value):
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
