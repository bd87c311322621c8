"""`ddpm-ms cache`: what is kept between starts."""

from __future__ import annotations

import argparse
import logging

from ddpm_ms import runtime as rt
from ddpm_ms.errors import InputError

log = logging.getLogger("ddpm_ms")

WHAT = {"graphs": "compiled graphs", "native": "CPU operators", "classifiers": "classifiers", "statistics": "statistics"}


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``cache``."""
    command = commands.add_parser("cache", help="show what is kept between starts, or delete it",
                                  description="Show where compiled graphs, CPU operators, and the classifiers and statistics of "
                                              "evaluation are kept, and how much that is.")
    command.add_argument("--clear", action="store_true", help="delete the compiled graphs; the next start compiles again")
    command.set_defaults(run=cache)


def cache(arguments: argparse.Namespace) -> None:
    """Print what the caches hold, or empty them."""
    if arguments.clear:
        try:
            rt.clear()
        except OSError as error:
            raise InputError(f"cache {error.filename}: {error.strerror}") from None
    print(rt.cache_dir())
    for held in rt.held():
        entries = f"{held.entries} {'entry' if held.entries == 1 else 'entries'}"
        print(f"  {WHAT[held.kind]}: {entries}, {held.size / 1e6:.1f} MB")
