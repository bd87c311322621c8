"""`ddpm-ms distill`: teach a network to do with half the steps, again and again."""

from __future__ import annotations

import argparse

from ddpm_ms.cli.options import device_parent, runtime_config, start
from ddpm_ms.config import Config, override_config


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``distill``."""
    command = commands.add_parser("distill", parents=[device_parent()], help="make a run that needs fewer steps out of a run",
                                  description="Progressive distillation: each student does in one DDIM step what its teacher "
                                              "does in two. The same command again resumes.")
    command.add_argument("--teacher", required=True, metavar="RUN", help="a run directory, or one of its checkpoints")
    command.add_argument("--steps", type=int, required=True, metavar="N",
                         help="of the first student; its teacher takes twice as many")
    command.add_argument("--to", type=int, metavar="N", help="halve until the student has these (default: --steps, one student)")
    command.add_argument("--run-dir", metavar="DIR", help="where the students go, as DIR/steps_0064 (default: "
                         "runs/NAME_OF_TEACHER_distilled)")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="change keys of the students' recipe")
    command.set_defaults(run=distill)


def distill(arguments: argparse.Namespace) -> None:
    """Train the students, or resume them."""
    wanted = override_config(Config(), arguments.overrides).runtime
    runtime = start(runtime_config(wanted, arguments))
    from ddpm_ms.training.distillation import distill

    distill(arguments.teacher, arguments.steps, arguments.to, arguments.run_dir, arguments.overrides, runtime)
