"""Reading image files: find them, decode them, fit them to a size without squashing."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Iterator

import numpy as np
from PIL import Image, ImageOps

from ddpm_ms.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# What Pillow may take a file for, whatever its name: not EPS, for which it would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
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


def read_image(source: str | Path | bytes, size: tuple[int, int], channels: int, background: str = "white",
               name: str | None = None) -> np.ndarray:
    """One file as float32 (channels, height, width) in [0, 1], fitted to ``size`` (height, width).

    Args:
        source: path of the file, or its bytes.
        size: (height, width).
        channels: 1, 3 or 4. With 4 what is transparent stays so.
        background: with 1 or 3, what shows through: "white" or "black".
        name: what a message calls it. Default: its path.

    Raises:
        InputError: the file is no image, is cut off, or is larger than Pillow's decompression limit.
    """
    with _opened(source, name or str(source)) as image:
        # A JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size, which is most of the work of reading a photograph;
        # twice the size is left for the filter below.
        image.draft(None, (2 * max(size), 2 * max(size)))
        image = upright(image)
        if channels < 4 and is_transparent(image):
            # Fitted first, as `pack_folder` does: so a packed image and its file give the same pixels.
            fitted = _on_background(fit(image.convert("RGBA"), size), background).convert(_MODES[channels])
        else:
            fitted = fit(image.convert(_MODES[channels]), size)
        array = np.asarray(fitted, dtype=np.float32) / 255
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF tag says, with at most 8 bits per value."""
    is_png = image.format == "PNG"
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and is_png):  # Pillow would clip 16-bit grey to 255
        pixels, clear = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
        if isinstance(clear, int):  # the one grey that is transparent
            image.putalpha(Image.fromarray(np.where(pixels == clear, 0, 255).astype(np.uint8)))
    return image


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel lets through what is behind it, by an alpha channel or by a colour that stands for none."""
    if "transparency" not in image.info and not {"A", "a"} & set(image.getbands()):
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def _on_background(image: Image.Image, colour: str) -> Image.Image:
    """RGB of an RGBA image in front of a ``colour``."""
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file; `InputError` as from `read_image`."""
    with _opened(path, str(path)) as image:
        return image.height, image.width


def image_shape(path: str | Path) -> tuple[int, int, int]:
    """(channels, height, width) of an image file, 4 channels where it may let something through; `InputError` as from
    `read_image`."""
    with _opened(path, str(path)) as image:
        clear = "transparency" in image.info or {"A", "a"} & set(image.getbands())
        grey = image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")
        return 4 if clear else 1 if grey else 3, image.height, image.width


@contextlib.contextmanager
def _opened(source: str | Path | bytes, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            _check_area(image.size)
            yield image
    except Exception as error:  # on damaged files Pillow's decoders raise nearly anything
        problem = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"image {name} cannot be read: {problem}") from None


def _check_area(size: tuple[int, int]) -> None:
    # Pillow itself refuses only twice as many pixels, and before that warns.
    if Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{size[0]} x {size[1]} pixels, allowed: at most {Image.MAX_IMAGE_PIXELS} in all")


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale until ``size`` (height, width) is just covered, keeping the proportions, then crop the centre."""
    height, width = size
    scale = max(height / image.height, width / image.width)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if scaled != image.size:
        _check_area(scaled)  # of an image one pixel wide, a few thousand rows become gigabytes
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
