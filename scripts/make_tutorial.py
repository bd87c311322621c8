"""Run every block of docs/tutorial.md and keep the pictures that they save, in docs/images/tutorial.

    python scripts/make_tutorial.py
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = DOCS / "images" / "tutorial"


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def run(blocks: list[str], folder: Path) -> list[Path]:
    """Run ``blocks`` one after the other in ``folder``; returns the pictures that they left there."""
    before, names = Path.cwd(), {"__name__": "tutorial"}
    os.chdir(folder)
    try:
        for number, block in enumerate(blocks, start=1):
            exec(compile(block, f"block {number}", "exec"), names)
    finally:
        os.chdir(before)
    return sorted(folder.glob("*.png"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        pictures = run(blocks(DOCS / "tutorial.md"), Path(folder))
        PICTURES.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            shutil.copy(picture, PICTURES)
            print(PICTURES / picture.name)
