"""`ddpm-ms train`: train, or resume, one recipe."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm_ms import runtime as rt
from ddpm_ms.cli.options import device_parent, recipe_parent, runtime_config, start
from ddpm_ms.config import Config, DistillationConfig, load_config, to_yaml
from ddpm_ms.errors import InputError, check_range

if TYPE_CHECKING:  # it loads MindSpore
    from mindspore import nn

log = logging.getLogger("ddpm_ms")


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``train``."""
    command = commands.add_parser("train", parents=[recipe_parent(), device_parent()], help="train a recipe, or resume it",
                                  description="Train a recipe. The same command again resumes.")
    command.add_argument("--run-dir", metavar="DIR", help="where everything goes (default: runs/NAME_OF_CONFIG)")
    command.add_argument("--dry-run", action="store_true", help="print the resolved recipe and what it costs, and train nothing")
    command.add_argument("--ranks", type=int, default=1, metavar="N",
                         help="with --dry-run: also check that so many ranks can share the batch (default: 1)")
    command.add_argument("--new-phase", action="store_true", help="let a run that resumes have another training.train_lr from "
                         "here on, and record that")
    command.set_defaults(run=train)


def train(arguments: argparse.Namespace) -> None:
    """Train, or resume, one recipe."""
    if arguments.ranks != 1 and not arguments.dry_run:
        raise InputError(f"--ranks is {arguments.ranks}, allowed without --dry-run: 1 (`ddpm-ms launch` starts more)")
    check_range("--ranks", arguments.ranks, 1)
    config = load_config(arguments.config, arguments.overrides)
    if config.distillation != DistillationConfig():
        raise InputError(f"distillation.steps is {config.distillation.steps} in {arguments.config}, allowed: null (the recipe of "
                         "a student is for `ddpm-ms distill`)")
    config = config.model_copy(update={"runtime": runtime_config(config.runtime, arguments)})
    runtime = start(config.runtime)
    from ddpm_ms.data import create_dataset
    from ddpm_ms.gaussian_diffusion import create_diffusion
    from ddpm_ms.models import create_model
    from ddpm_ms.training import Trainer
    from ddpm_ms.training.checks import check_share

    rt.seed_weights(config.training.seed)
    model = create_model(config.model, config.data.channels, config.data.image_size, config.diffusion.timesteps)
    diffusion = create_diffusion(config.diffusion, model, config.data.image_size)
    if arguments.dry_run:
        check_share(config.training, arguments.ranks)
        print(to_yaml(config), end="")
        print("\n".join(f"# {line}" for line in _costs(config, model, runtime)))
        return
    run_dir = run_directory_of(arguments)
    dataset = create_dataset(config.data)
    for skipped in getattr(dataset, "skipped", ()):
        log.warning("skipped: %s", skipped)
    trainer = Trainer(diffusion, dataset, results_folder=run_dir, sampling=config.sampling, data=config.data,
                      runtime=runtime, compile_cache=config.runtime.compile_cache, init=config.init,
                      evaluation=config.evaluation, new_phase=arguments.new_phase, config=config.training)
    trainer.train()


def _costs(config: Config, model: nn.Cell, runtime: rt.Runtime) -> list[str]:
    """What the recipe costs; on a CPU alone, where it can be tried before a card is rented."""
    from ddpm_ms import costs
    from ddpm_ms.models import num_parameters

    if runtime.device != "CPU":
        return [f"parameters: {num_parameters(model):,}", "arithmetic and memory: --dry-run --device CPU counts them"]
    return costs.describe(costs.count(model, config.data.channels, config.data.size), config.training)


def run_directory_of(arguments: argparse.Namespace) -> Path:
    """Where the run goes: --run-dir, or runs/ and the recipe's name."""
    return Path(arguments.run_dir or Path("runs", Path(arguments.config).stem))
