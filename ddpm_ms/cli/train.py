"""`ddpm-ms train`: train, or resume, one recipe."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ddpm_ms import runtime as rt
from ddpm_ms.cli.options import device_parent, recipe_parent, runtime_config, start
from ddpm_ms.config import DistillationConfig, load_config, to_yaml
from ddpm_ms.errors import InputError

log = logging.getLogger("ddpm_ms")


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``train``."""
    command = commands.add_parser("train", parents=[recipe_parent(), device_parent()], help="train a recipe, or resume it",
                                  description="Train a recipe. The same command again resumes.")
    command.add_argument("--run-dir", metavar="DIR", help="where everything goes (default: runs/NAME_OF_CONFIG)")
    command.add_argument("--dry-run", action="store_true", help="print the resolved recipe and its parameter count")
    command.set_defaults(run=train)


def train(arguments: argparse.Namespace) -> None:
    """Train, or resume, one recipe."""
    config = load_config(arguments.config, arguments.overrides)
    if config.distillation != DistillationConfig():
        raise InputError(f"distillation.steps is {config.distillation.steps} in {arguments.config}, allowed: null (the recipe of "
                         "a student is for `ddpm-ms distill`)")
    config = config.model_copy(update={"runtime": runtime_config(config.runtime, arguments)})
    runtime = start(config.runtime)
    from ddpm_ms.data import create_dataset
    from ddpm_ms.gaussian_diffusion import create_diffusion
    from ddpm_ms.models import create_model, num_parameters
    from ddpm_ms.training import Trainer

    rt.seed_weights(config.training.seed)
    model = create_model(config.model, config.data.channels, config.data.image_size, config.diffusion.timesteps)
    diffusion = create_diffusion(config.diffusion, model, config.data.image_size)
    if arguments.dry_run:
        print(to_yaml(config), end="")
        print(f"# parameters: {num_parameters(model):,}")
        return
    run_dir = run_directory_of(arguments)
    dataset = create_dataset(config.data)
    for skipped in getattr(dataset, "skipped", ()):
        log.warning("skipped: %s", skipped)
    trainer = Trainer(diffusion, dataset, results_folder=run_dir, sampling=config.sampling, data=config.data,
                      runtime=runtime, compile_cache=config.runtime.compile_cache, config=config.training)
    trainer.train()


def run_directory_of(arguments: argparse.Namespace) -> Path:
    """Where the run goes: --run-dir, or runs/ and the recipe's name."""
    return Path(arguments.run_dir or Path("runs", Path(arguments.config).stem))
