"""How images become what Inception takes, 299x299 in [-1, 1]: three ways that give three different distances.

Whoever compares two numbers must know that they were made the same way, so a way has a name that is printed with every number.
"""

from __future__ import annotations

from typing import Callable, Dict

import numpy as np

from ddpm_ms.errors import InputError

Way = Callable[[np.ndarray, int], np.ndarray]


def tensorflow1(images: np.ndarray, size: int) -> np.ndarray:
    """The resize inside TensorFlow's graph: bilinear, pixel i of the result lies at i * old / new; nothing is centred.

    In the order of torch-fidelity's arithmetic, of which it has every bit.

    Args:
        images: uint8 (N, C, H, W).
        size: of the result.

    Returns:
        float32 (N, C, size, size) in [-1, 127 / 128].
    """
    def places(old: int) -> np.ndarray:
        return np.arange(size, dtype=np.float32) * np.float32(old / size)

    return (_bilinear(images.astype(np.float32), places, lambda low, high, share: low + (high - low) * share) - 128) / 128


def half_pixel(images: np.ndarray, size: int) -> np.ndarray:
    """What pytorch-fid does: bilinear, the image's corners lie on the result's, not smoothed; then 2 x - 1.

    As `tensorflow1`, in [-1, 1].
    """
    def places(old: int) -> np.ndarray:
        centres = np.arange(size, dtype=np.float32) + np.float32(0.5)
        return np.maximum(centres * np.float32(old / size) - np.float32(0.5), 0)

    return 2 * _bilinear(images.astype(np.float32) / 255, places, lambda low, high, share: (1 - share) * low + share * high) - 1


def smoothed(images: np.ndarray, size: int) -> np.ndarray:
    """What clean-fid does (arXiv:2104.11222): Pillow's bicubic of every channel in float32, smoothed where it shrinks, clipped.

    As `tensorflow1`, in [-1, 127 / 128].
    """
    from PIL import Image

    result = np.empty((*images.shape[:2], size, size), np.float32)
    for image, resized in zip(images, result):
        for channel, place in zip(image, resized):
            place[:] = Image.fromarray(channel.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return (result.clip(0, 255) - 128) / 128


PROTOCOLS: Dict[str, Way] = {"ttur": tensorflow1, "pytorch-fid": half_pixel, "clean-fid": smoothed}
USUAL = "ttur"


def bytes_of(images: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) of k / 255, C being 1 or 3, as uint8 of three channels.

    Raises:
        InputError: another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise InputError(f"images have {images.shape[1]} channels, allowed with --features inception: 1, 3")
    values = np.rint(images * np.float32(255)).astype(np.uint8)
    return np.repeat(values, 3, axis=1) if values.shape[1] == 1 else values


def _bilinear(x: np.ndarray, places: Callable[[int], np.ndarray],
              mix: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """First along rows, then along columns: ``places`` says where new pixels lie among so many old ones."""
    for axis in (-1, -2):
        old = x.shape[axis]
        place = places(old)
        low = place.astype(np.int64)
        share: np.ndarray = (place - low.astype(np.float32)).reshape(-1, *[1] * (-1 - axis))
        x = mix(x.take(low, axis), x.take(np.minimum(low + 1, old - 1), axis), share)
    return x
