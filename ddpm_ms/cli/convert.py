"""`ddpm-ms convert`: a run directory from weights that another project trained."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``convert``."""
    command = commands.add_parser(
        "convert", help="make a run directory of another project's weights",
        description="Make a run directory, which every other command takes, of the weights of diffusers (a folder), "
                    "pytorch_diffusion and DDIM, guided-diffusion and P2-weighting, denoising-diffusion-pytorch or "
                    "denoising-diffusion-mindspore. What the files do not say is asked for by name.")
    command.add_argument("source", metavar="SOURCE", help="the folder or the file")
    command.add_argument("run_dir", metavar="RUN_DIR", help="a new directory")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="what the files do not say, or say otherwise")
    command.add_argument("--config", metavar="RECIPE", help="the same from a recipe: a YAML file, or the name of one of `ddpm-ms "
                         "recipes`")
    command.add_argument("--raw", action="store_true", help="the optimizer's weights, where there are averaged ones, too")
    command.add_argument("--attention-order", choices=("old", "new"), help="of guided-diffusion with several heads: new is its "
                         "flag --use_new_attention_order True")
    command.set_defaults(run=convert)


def convert(arguments: argparse.Namespace) -> None:
    """Make the run directory."""
    from ddpm_ms.conversion import convert

    convert(arguments.source, arguments.run_dir, recipe=arguments.config, overrides=arguments.overrides, ema=not arguments.raw,
            attention_order=arguments.attention_order)
