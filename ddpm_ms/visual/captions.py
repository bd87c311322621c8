"""Words below the images of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

LETTERS, STRIP = 11, 15  # pixels: height of the letters, and of the strip that they stand in
NARROWEST = 64  # pixels across an image that has a caption


def class_captions(labels: Sequence[int], called: Sequence[str]) -> list[str]:
    """What ``labels`` are ``called``, the last being no class; nothing where names would say no more than numbers do.

    A name that the font cannot write, such as a Chinese one, becomes its number.
    """
    if all(name == str(number) for number, name in enumerate(called[:-1])):
        return []
    font = FT2Font(_font_file())
    written = [name if all(font.get_char_index(ord(letter)) for letter in name) else str(number)
               for number, name in enumerate(called)]
    return [written[label] for label in labels]


def captioned(picture: Image.Image, captions: Sequence[str], columns: int, cell: tuple[int, int], gap: int) -> Image.Image:
    """``picture``, a grid, with a strip below each row, where every image's caption stands in the middle.

    Args:
        picture: the grid: images with a gap around each.
        captions: one for each image, row by row; what is too long is cut.
        columns: images in a row.
        cell: (height, width) of an image, in pixels of the picture.
        gap: pixels of the picture between two images.
    """
    height, width = cell[0] + gap, cell[1] + gap
    rows = picture.height // height
    sheet = Image.new(picture.mode, (picture.width, picture.height + rows * STRIP), picture.getpixel((0, 0)))
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(_font_file(), LETTERS)
    for row in range(rows):
        sheet.paste(picture.crop((0, row * height, picture.width, (row + 1) * height)), (0, row * (height + STRIP)))
    for number, caption in enumerate(captions):
        while caption and draw.textlength(caption, font) > cell[1]:
            caption = caption[:-1]
        row, column = divmod(number, columns)
        middle = gap + column * width + cell[1] // 2, (row + 1) * (height + STRIP) - STRIP // 2
        draw.text(middle, caption, "black", font, anchor="mm")
    return sheet


def _font_file() -> str:
    """The font that comes with matplotlib, which is there whatever the system has."""
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
