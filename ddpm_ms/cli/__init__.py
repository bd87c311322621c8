"""The command line: thin sub-commands over the package; every mistake of the user is one line and exit status 2."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Sequence

from ddpm_ms import runtime as rt
from ddpm_ms.cli import benchmark, cache, convert, data, distill, evaluate, launch, recipes, report, sample, train, visualize
from ddpm_ms.errors import EvaluationError, InputError, TrainingError
from ddpm_ms.version import __version__

COMMANDS = (train, distill, sample, evaluate, convert, launch, benchmark, visualize, report, data, recipes, cache)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status: 0 done, 1 training diverged or an evaluation not passed, 2 a mistake
    in the input, 130 interrupted; `launch` that of its ranks."""
    arguments = _parsed(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        rt.check_versions()
        rt.quiet()  # a recipe's section of a network imports MindSpore
        return arguments.run(arguments) or 0
    except (InputError, TrainingError, EvaluationError) as error:
        print(f"ddpm-ms: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except MemoryError as error:
        print(f"ddpm-ms: out of memory ({error}), allowed: a smaller model, batch or data set", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # where it is no request to finish a step and save
        print("ddpm-ms: interrupted", file=sys.stderr)
        return 130


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments in any order: by itself argparse takes no section.key=value behind an option that stands behind SOURCE."""
    whole = parser()
    arguments, rest = whole.parse_known_args(argv)
    if rest and not (hasattr(arguments, "overrides") and all("=" in text and text[0] != "-" for text in rest)):
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def parser() -> argparse.ArgumentParser:
    """Everything that can be typed after ``ddpm-ms``."""
    whole = argparse.ArgumentParser(prog="ddpm-ms", description="Denoising diffusion models on MindSpore.")
    whole.add_argument("--version", action="version", version=f"ddpm-ms {__version__}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return whole
