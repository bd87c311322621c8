"""The recipes that come with the package, by name: in a checkout those of configs/, in an installed wheel ddpm_ms/recipes."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Mapping

from ddpm_ms.errors import did_you_mean

PACKAGE = Path(__file__).parents[1]


@functools.lru_cache(None)
def shipped() -> Mapping[str, Path]:
    """Name, which is that of the file, to file; in the order of the folders."""
    installed = PACKAGE / "recipes"
    folder = installed if installed.is_dir() else PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"), key=lambda path: (path.parent, path.name))}


def about(path: Path) -> str:
    """The first line of the comment that a recipe begins with; empty if there is none."""
    with path.open(encoding="utf-8") as file:
        line = file.readline().strip()
    return line.lstrip("# ") if line.startswith("#") else ""


def located(path: Path, said: str) -> Path:
    """``path`` if there is such a file, else the shipped recipe that is called ``said``; else ``path`` all the same."""
    return path if os.path.exists(path) and not path.is_dir() else shipped().get(said, path)


def nearest(path: Path) -> str:
    """``", did you mean 'digits'?"`` for a path that might have meant a shipped recipe, else nothing."""
    return did_you_mean(path.stem, shipped())
