"""`ddpm-ms benchmark`: time this package on the device that is there."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddpm_ms.benchmark.cases import CASES
from ddpm_ms.cli.options import device_parent, runtime_config, start
from ddpm_ms.config import RuntimeConfig
from ddpm_ms.errors import check_range


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``benchmark``."""
    command = commands.add_parser("benchmark", parents=[device_parent()], help="time this package on the device that is there")
    command.add_argument("--case", choices=tuple(CASES), default="a", help="see docs/benchmark.md (default: a)")
    command.add_argument("--work", nargs="+", default=["train", "eval"],
                         choices=("train", "eval", "sample", "load", "load_photos", "load_packed", "train_load", "train_ahead"),
                         help="what to time; load: images from files, see docs/data.md (default: train eval)")
    command.add_argument("--repeats", type=int, default=5, help="calls after the first (default: 5)")
    command.add_argument("--recompute", action="store_true", help="train with training.recompute")
    command.add_argument("--operators", metavar="DIR", help="also profile one call, and print where its time goes")
    command.set_defaults(run=benchmark)


def benchmark(arguments: argparse.Namespace) -> None:
    """Time training steps, network evaluations and sampling on the device that is there."""
    check_range("--repeats", arguments.repeats, 1)
    start(runtime_config(RuntimeConfig(), arguments))
    from ddpm_ms.benchmark.work import Work, measure, operators, peak_memory

    work = Work(CASES[arguments.case], arguments.recompute)
    print(f"case {arguments.case}: {work.case}\n")
    print("\n".join(measure(work, arguments.work, arguments.repeats)))
    print(f"\npeak memory of the process: {peak_memory():.0f} MiB")
    if arguments.operators:
        for kind in arguments.work:
            print(f"\n{kind}:\n")
            print("\n".join(operators(work, kind, Path(arguments.operators, kind))))
