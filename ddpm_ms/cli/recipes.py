"""`ddpm-ms recipes`: what can be trained by name."""

from __future__ import annotations

import argparse

from ddpm_ms.config.shipped import about, shipped


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``recipes``."""
    command = commands.add_parser("recipes", help="list the recipes that come with the package, which --config takes by name")
    command.set_defaults(run=recipes)


def recipes(arguments: argparse.Namespace) -> None:
    """Print the name of every recipe that comes with the package, and what it says of itself."""
    found = shipped()
    width = max(map(len, found), default=0)
    print("\n".join(f"{name:{width}}  {about(path)}" for name, path in found.items()))
