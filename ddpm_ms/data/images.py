"""Reading image files: find them, decode them, fit them to a size without squashing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ddpm_ms.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def find_images(folder: str | Path) -> list[Path]:
    """All image files below ``folder`` at any depth, extension in any case, sorted by path.

    Raises:
        InputError: the folder does not exist or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"data folder {folder} does not exist or is no folder, allowed: a folder of images")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not paths:
        raise InputError(f"data folder {folder} holds no image, allowed: files ending in {', '.join(EXTENSIONS)}")
    return paths


def read_image(path: str | Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """One file as float32 (channels, height, width) in [0, 1], fitted to ``size`` (height, width).

    Raises:
        InputError: the file is no image, is cut off, or is larger than Pillow's decompression limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image = ImageOps.exif_transpose(image)
                if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey to 255
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                array = np.asarray(fit(image.convert(_MODES[channels]), size), dtype=np.float32) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"image {path} cannot be read: {' '.join(str(error).split())}") from None
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale until ``size`` (height, width) is just covered, keeping the proportions, then crop the centre."""
    height, width = size
    scale = max(height / image.height, width / image.width)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
