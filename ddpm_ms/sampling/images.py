"""Images as their users have them and as the process has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddpm_ms.errors import InputError


@dataclass(frozen=True)
class ImageSpace:
    """Images of one shape, whose users' range is ``low`` to 1 and whose range in the process is -1 to 1.

    Args:
        shape: (channels, height, width).
        low: 0, or -1 where the two ranges are the same.
    """

    shape: tuple[int, int, int]
    low: int

    def normalize(self, images: np.ndarray, count: int) -> np.ndarray:
        """``count`` images float32 in [-1, 1], from as many in the users' range or from one that stands for all.

        Raises:
            InputError: another shape, or values outside of the range.
        """
        images = self.repeated(images, count)
        if not (images.min() >= self.low - 1e-3 and images.max() <= 1 + 1e-3):
            raise InputError(f"images have values from {images.min():g} to {images.max():g}, allowed: {self.low} to 1")
        return images * 2 - 1 if self.low == 0 else images

    def unnormalize(self, x: np.ndarray) -> np.ndarray:
        """``x`` clipped to [-1, 1], in the users' range."""
        x = np.clip(x, -1, 1)
        return (x + 1) / 2 if self.low == 0 else x

    def repeated(self, images: np.ndarray, count: int) -> np.ndarray:
        """float32 (count, C, H, W) from as many images or from one that stands for all, whatever their range."""
        shape = (count, *self.shape)
        images = np.asarray(images, np.float32)
        if images.shape[1:] != self.shape or len(images) not in (1, count):
            raise InputError(f"images have shape {images.shape}, allowed: {shape} (batch, channels, height, width)")
        return np.array(np.broadcast_to(images, shape))

    def mask(self, mask: np.ndarray, count: int) -> np.ndarray:
        """float32 (count, C, H, W) of 0 and 1, from anything that broadcasts to it and has its height and width."""
        shape = (count, *self.shape)
        mask = np.asarray(mask, np.float32)
        if mask.shape[-2:] != shape[-2:] or mask.ndim > 4 or any(m not in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1])):
            raise InputError(f"the mask has shape {mask.shape}, allowed: {shape[-2:]} (height, width), or what broadcasts to "
                             f"{shape}")
        if not np.isin(mask, (0, 1)).all():
            raise InputError("the mask has values other than 0 and 1, allowed: 1 where a pixel is known, 0 where it is not")
        return np.array(np.broadcast_to(mask, shape))
