"""Images in [0, 1] to files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image

from ddpm_ms.visual.captions import NARROWEST, captioned

MIN_SIDE = 480  # small images are enlarged to about this, pixel by pixel, so that a person can see them

FRAMES = 100  # of an animation


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] to 0..255, rounded; values outside are clipped."""
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def to_grid(images: np.ndarray, columns: int | None = None, gap: int = 1, captions: Sequence[str] = ()) -> Image.Image:
    """(N, C, H, W) in [0, 1] side by side, about square unless ``columns`` says otherwise; ``captions`` go below the images."""
    count, channels, height, width = images.shape
    columns = columns or math.isqrt(max(count - 1, 0)) + 1
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 128, np.uint8)
    for i, image in enumerate(to_uint8(images)):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top:top + height, left:left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    factor = max(1, MIN_SIDE // max(picture.size), -(-NARROWEST // width) if captions else 1)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    if captions:
        return captioned(picture, captions, columns, (height * factor, width * factor), gap * factor)
    return picture


def save_grid(images: np.ndarray, path: str | Path, captions: Sequence[str] = ()) -> None:
    """Write (N, C, H, W) in [0, 1] as one PNG, with ``captions`` below the images if there are any."""
    _write(to_grid(images, captions=captions), path)


def save_image(image: np.ndarray, path: str | Path) -> None:
    """Write one image (C, H, W) in [0, 1] at its own size."""
    pixels = to_uint8(image)
    _write(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)), path)


def save_strip(images: np.ndarray, path: str | Path) -> None:
    """Write (N, C, H, W) in [0, 1] as one row."""
    _write(to_grid(images, columns=len(images)), path)


def save_pairs(left: np.ndarray, right: np.ndarray, path: str | Path, columns: int = 4) -> None:
    """Write two of (N, C, H, W) in [0, 1] as one PNG: image k of ``left`` touches that of ``right``, ``columns`` pairs a row."""
    pairs = np.concatenate([left, right], axis=3)
    _write(to_grid(pairs, min(columns, len(pairs)), gap=max(2, left.shape[2] // 8)), path)


def frame_steps(transitions: int, frames: int = FRAMES) -> set[int]:
    """Which states of a process, 0 (noise) to ``transitions`` (the result), an animation of at most ``frames`` shows."""
    return set(np.linspace(0, transitions, min(frames, transitions + 1)).round().astype(int).tolist())


def save_gif(frames: Sequence[np.ndarray], path: str | Path, frame_ms: int = 60, hold_ms: int = 2000) -> None:
    """Write frames, each (N, C, H, W) in [0, 1] shown as a grid, as an endless GIF that rests on the last one."""
    pictures = [to_grid(frame).convert("RGB").quantize(64) for frame in frames]
    durations = [frame_ms] * (len(pictures) - 1) + [hold_ms]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _write(picture: Image.Image, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
