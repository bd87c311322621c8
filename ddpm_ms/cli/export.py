"""`ddpm-ms export`: hand a trained network on."""

from __future__ import annotations

import argparse

from ddpm_ms.cli.options import add_weights, device_parent, run_directory, runtime_config, start
from ddpm_ms.config import RuntimeConfig
from ddpm_ms.parts import TARGETS


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``export``."""
    command = commands.add_parser("export", parents=[device_parent()], help="write a trained network for other programs",
                                  description="Forms: diffusers, the folder of a DDPMPipeline; lucidrains, weights for "
                                              "denoising-diffusion-pytorch; safetensors, weights under our own names; mindir and "
                                              "onnx, the network as graphs.")
    command.add_argument("run_dir", metavar="RUN", help="a run directory, or one of its checkpoints")
    command.add_argument("--to", required=True, choices=tuple(TARGETS), help="the form")
    command.add_argument("--output", metavar="PATH", help="the file or folder to make (default: exports/FORM in the run)")
    command.add_argument("--batch-size", nargs="+", type=int, metavar="N", help="images that a graph takes, a file for each "
                         "number (default: 1)")
    add_weights(command)
    command.set_defaults(run=export)


def export(arguments: argparse.Namespace) -> None:
    """Write the network in the form that is asked for."""
    run = run_directory(arguments.run_dir)
    start(runtime_config(RuntimeConfig(), arguments))
    from ddpm_ms.export import export_run

    to = arguments.to
    output = arguments.output or run / "exports" / f"{to}{TARGETS[to].ending}"
    export_run(arguments.run_dir, to, output, ema=not arguments.raw, best=arguments.best, batch_sizes=arguments.batch_size)
