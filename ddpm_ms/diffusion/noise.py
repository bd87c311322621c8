"""The noise that training adds to images, on the host, beside the plain one: with an offset, and near to its image."""

from __future__ import annotations

from typing import Callable, Tuple

import numpy as np

from ddpm_ms.config import DiffusionConfig
from ddpm_ms.errors import needed

# (a purpose of `ddpm_ms.rng`, shape) -> standard normal float32 (B, *shape), each row that of one image of the batch.
Normal = Callable[[str, Tuple[int, ...]], np.ndarray]


def training_noise(config: DiffusionConfig, x_start: np.ndarray, normal: Normal) -> np.ndarray:
    """Noise float32 (B, C, H, W) for the images ``x_start`` of a micro-batch, in [-1, 1].

    Raises:
        InputError: `assigned`.
    """
    noise = normal("noise", x_start.shape[1:])
    if config.offset_noise_strength > 0:
        # One number for each channel of an image (https://www.crosslabs.org/blog/diffusion-with-offset-noise).
        noise = noise + np.float32(config.offset_noise_strength) * normal("offset_noise", (x_start.shape[1], 1, 1))
    return assigned(x_start, noise) if config.immiscible else noise


def assigned(x_start: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """``noise`` (B, C, H, W) in another order: the one in which the distances of the images to their noise have the least sum
    (Immiscible Diffusion, arXiv:2406.12303, algorithm 1).

    Raises:
        InputError: SciPy is not installed.
    """
    check_scipy()
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    # Not by a matrix product: its rounding depends on the number of threads, and could order two equal images otherwise.
    distances = cdist(x_start.reshape(len(x_start), -1), noise.reshape(len(noise), -1))
    return noise[linear_sum_assignment(distances)[1]]


def check_scipy() -> None:
    """Raise `InputError` unless what `assigned` needs is installed."""
    with needed("scipy", "diffusion.immiscible assigns noise to images by SciPy"):
        import scipy.optimize  # noqa: F401
