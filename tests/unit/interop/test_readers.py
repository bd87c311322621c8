"""Files of safetensors and of MindSpore that say what cannot be are refused in one line, before they cost time or memory."""

import json
import time

import numpy as np
import pytest
from safetensors.numpy import save

from ddpm_ms.errors import InputError
from ddpm_ms.interop.mindspore_files import read_mindspore_file
from ddpm_ms.interop.safetensors_files import read_safetensors_file


def refused(read, path, content, message):
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert str(error.value).isprintable() and len(str(error.value)) < 2100


def safetensors(data=b"", **entry):
    header = json.dumps({"a\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, len(data)], **entry}}).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(("content", "message"), [
    (safetensors(shape=[0, 2**62]), r"'a\\x1b\[2J' has the shape \[0, 4611686018427387904\], allowed: one of an array"),
    (safetensors(shape=[0, 2**64 - 1]), "has the shape"), (safetensors(b"\0" * 4, shape=[1] * 40), "has the shape"),
    (safetensors(b"\0" * 16, shape=[2], dtype="C64"), r"'a\\x1b\[2J' has the type C64"),
    (safetensors(shape=[2**32, 2**32]), "is cut short or damaged"),
    (safetensors(b"\0" * 4, shape=[2]), "is cut short or damaged"),
    (safetensors(b"\0" * 4)[:-1], "is cut short or damaged"), (safetensors(b"\0" * 4) + b"\0", "is cut short or damaged"),
    ((2**62).to_bytes(8, "little") + b"{}", "is cut short or damaged"), (b"", "cannot be read"),
])
def test_safetensors_files_that_cannot_be(tmp_path, content, message):
    sound = tmp_path / "sound.safetensors"
    sound.write_bytes(save({"a": np.ones((2, 3), np.float16)}))
    np.testing.assert_array_equal(read_safetensors_file(sound)["a"], np.ones((2, 3), np.float32), strict=True)
    refused(read_safetensors_file, tmp_path / "x.safetensors", content, message)


def varint(value):
    return bytes([value & 127 | (128 if value > 127 else 0)]) + (varint(value >> 7) if value > 127 else b"")


def entry(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def parameter(dims=b"\x08\x01", content=b"\0" * 4, kind=b"Float32", name=b"a"):
    return entry(1, entry(1, name) + entry(2, dims + entry(2, kind) + entry(3, content)))


@pytest.mark.parametrize("content", [
    b"", b"\x08\x05", entry(1, b"\x08\x05\x10\x05"), entry(1, entry(1, b"a")), entry(1, entry(1, b"a") + b"\x10\x05"),
    parameter()[:-1], parameter(name=b"\xff\xfe"), parameter(kind=b"Complex64"), parameter(dims=b"\x08\x02"),
    parameter(dims=b"\x08\x00\x08" + varint(2**62), content=b""), parameter(dims=b"\x08\x01" * 40),
    parameter() + parameter(b"\x08\x02"), entry(1, entry(1, b"a") + entry(2, b"\x08\x01\x10\x05")), b"\x0b",
    b"\x0a" + b"\xff" * 20, parameter(dims=entry(1, b"\x01" * 10**7)),
])
def test_mindspore_files_that_cannot_be(tmp_path, content):
    sound = tmp_path / "sound.ckpt"
    sound.write_bytes(parameter(content=np.ones(1, "<f4").tobytes()))
    np.testing.assert_array_equal(read_mindspore_file(sound)["a"], np.ones(1, np.float32), strict=True)
    start = time.monotonic()
    refused(read_mindspore_file, tmp_path / "x.ckpt", content, "is cut short, damaged or of another format|cannot be read")
    assert time.monotonic() - start < 5
