"""MNIST and Fashion-MNIST: files in the IDX format, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from ddpm_ms.config import DataConfig
from ddpm_ms.data.datasets import ArrayDataset
from ddpm_ms.data.official import Published
from ddpm_ms.errors import InputError

MNIST = Published("mnist", "download train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz from "
                  "https://ossci-datasets.s3.amazonaws.com/mnist/ into a folder, and set data.root to it")
FASHION_MNIST = Published(
    "fashion_mnist", "download train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz from "
    "https://github.com/zalandoresearch/fashion-mnist into a folder, and set data.root to it (or install Debian's package "
    "dataset-fashion-mnist)", installed=Path("/usr/share/datasets/fashion-mnist"))
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# Of the files as they are after decompression: archives of the same data differ in the name and the time that they hold.
MNIST_MD5 = ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624")
FASHION_MNIST_MD5 = ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9")
LARGEST = 2**31  # bytes that a header may promise: 40 times MNIST


def mnist(config: DataConfig) -> ArrayDataset:
    """The 60,000 training images of MNIST, 28x28 grey, or the 10,000 for testing.

    Raises:
        InputError: a file is missing, damaged or cut off, or images and labels do not fit each other.
    """
    return _load(MNIST, config, MNIST_MD5, tuple("0123456789"))


def fashion_mnist(config: DataConfig) -> ArrayDataset:
    """The 60,000 training images of Fashion-MNIST, 28x28 grey, or the 10,000 for testing; `InputError` as for `mnist`."""
    return _load(FASHION_MNIST, config, FASHION_MNIST_MD5, GARMENTS)


def _load(published: Published, config: DataConfig, md5: tuple[str, str], names: tuple[str, ...]) -> ArrayDataset:
    root, begin = published.root(config), "train" if config.part == "train" else "t10k"
    images = _read(root, published, f"{begin}-images-idx3-ubyte", 3, md5[0] if begin == "train" else None)
    labels = _read(root, published, f"{begin}-labels-idx1-ubyte", 1, md5[1] if begin == "train" else None)
    where = f"data {published.name} in {root}"
    if len(images) != len(labels):
        raise InputError(f"{where}: there are {len(labels)} labels for {len(images)} images, allowed: one each")
    if not len(labels) or labels.max() > 9:
        raise InputError(f"{where}: {f'label {labels.max()}' if len(labels) else 'no image'}, allowed: images with labels 0 to 9")
    return ArrayDataset(images, 1, labels, names)


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


def _read(root: Path, published: Published, file: str, dimensions: int, expected: str | None) -> np.ndarray:
    path = published.find(root / f"{file}.gz", root / file)
    array, md5 = read_idx(path, dimensions)
    if expected is not None:
        published.warn_if_not(str(path), f"md5 {md5}", f"md5 {expected}")
    return array
