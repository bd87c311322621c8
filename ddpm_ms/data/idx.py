"""MNIST and Fashion-MNIST: files in the IDX format, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from ddpm_ms.data.datasets import ArrayDataset
from ddpm_ms.data.official import find, warn_if_not
from ddpm_ms.errors import InputError

NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
}
# Of the files as they are after decompression: archives of the same data differ in the name and the time that they hold.
MD5 = {
    "mnist": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    "fashion_mnist": ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
}
LARGEST = 2**31  # bytes that a header may promise: 40 times MNIST


def load_mnist(root: Path, name: str) -> ArrayDataset:
    """The 60,000 training images, 28x28 grey, of ``name`` (mnist or fashion_mnist).

    Raises:
        InputError: a file is missing, damaged or cut off, or images and labels do not fit each other.
    """
    images, labels = (_read(root, name, file, dimensions, md5) for file, dimensions, md5 in
                      zip(("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), (3, 1), MD5[name]))
    if len(images) != len(labels):
        raise InputError(f"data {name} in {root}: there are {len(labels)} labels for {len(images)} images, allowed: one each")
    if not len(labels) or labels.max() > 9:
        raise InputError(f"data {name} in {root}: {f'label {labels.max()}' if len(labels) else 'no image'}, allowed: images with "
                         "labels 0 to 9")
    return ArrayDataset(images, 1, labels, NAMES[name])


def read_idx(path: Path, dimensions: int) -> tuple[np.ndarray, str]:
    """(uint8 array of as many ``dimensions``, md5 of the decompressed file).

    Raises:
        InputError: another format, or the header and the length do not agree.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
                raise InputError(f"{path} is no IDX file of bytes in {dimensions} dimension(s)")
            shape = tuple(np.frombuffer(header[4:], ">u4").tolist())
            size = int(np.prod(shape, dtype=object))
            if size > LARGEST:
                raise InputError(f"{path} says it holds {' x '.join(map(str, shape))} bytes, allowed: {LARGEST} in all")
            body = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if len(body) != size:
        raise InputError(f"{path} is {'cut off' if len(body) < size else 'too long'}: its header says "
                         f"{' x '.join(map(str, shape))} bytes, it has {'fewer' if len(body) < size else 'more'}")
    return np.frombuffer(body, np.uint8).reshape(shape), hashlib.md5(header + body).hexdigest()


def _read(root: Path, name: str, file: str, dimensions: int, published: str) -> np.ndarray:
    path = find(name, root / f"{file}.gz", root / file)
    array, md5 = read_idx(path, dimensions)
    warn_if_not(name, str(path), f"md5 {md5}", f"md5 {published}")
    return array
