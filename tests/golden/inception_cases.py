"""What make_inception.py and test_golden_inception.py share: weights and images that both can make again."""

import hashlib

import numpy as np

SIZES = ((32, 32), (40, 24), (310, 300))  # of images that are resized
EVERY = 13  # pixel of a resized image is kept


def _random(name):
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")))


def weight(name: str, shape: tuple) -> np.ndarray:
    """A tensor of Inception that keeps the scale of what passes through, float32; different statistics for every channel."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    uniform = _random(name).random(shape, np.float32)  # in [0, 1)
    if len(shape) > 1:
        return (2 * uniform - 1) * np.float32((6 / np.prod(shape[1:])) ** 0.5)
    if name.endswith(("bn.bias", "running_mean")):
        return (uniform - np.float32(0.5)) * np.float32(0.4)
    return uniform + np.float32(0.5)


def images(size: tuple, count: int = 2) -> np.ndarray:
    """uint8 (count, 3, *size): waves and noise."""
    rows, columns = np.mgrid[:size[0], :size[1]] / 8
    noise = _random(f"images {size}").random((count, 3, *size))
    waves = np.sin(rows + np.arange(3 * count).reshape(count, 3, 1, 1)) * np.cos(columns)
    return (128 + 80 * waves + 45 * (2 * noise - 1)).astype(np.uint8)


def checkerboard() -> np.ndarray:
    """uint8 (1, 3, 32, 32)."""
    return np.tile((np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8), (1, 3, 1, 1))
