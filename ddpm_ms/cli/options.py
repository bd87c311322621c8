"""What several sub-commands share: their options, and how these are read."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from ddpm_ms import runtime as rt
from ddpm_ms.config import Config, RuntimeConfig, SamplingConfig, override_section, replace, to_dict
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.parts import NETWORKS

if TYPE_CHECKING:  # they load MindSpore
    from ddpm_ms.checkpoints import Checkpoint
    from ddpm_ms.gaussian_diffusion import GaussianDiffusion

log = logging.getLogger("ddpm_ms")

SAMPLING_NAMES = set(SamplingConfig.model_fields)


def parsed(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> argparse.Namespace:
    """What ``words`` say, or the command line. Overrides may stand anywhere: argparse takes positional arguments from one place
    only, and leaves those that follow an option that follows others."""
    arguments, more = parser.parse_known_args(words)
    if more:
        if not hasattr(arguments, "overrides") or any(word.startswith("-") or "=" not in word for word in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        arguments.overrides = [*arguments.overrides, *more]
    return arguments


def device_parent() -> argparse.ArgumentParser:
    """Options of every command that computes."""
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", choices=("auto", *rt.DEVICES), help="where to run; auto tries Ascend, GPU, CPU")
    device.add_argument("--mode", choices=("graph", "pynative"), help="pynative: operator by operator, for debugging")
    return device


def recipe_parent(flag: bool = True) -> argparse.ArgumentParser:
    """Options of every command that reads a recipe: behind --config, or without a ``flag`` as the first argument."""
    recipe, what = argparse.ArgumentParser(add_help=False), "a YAML file, or the name of one of `ddpm-ms recipes`"
    if flag:
        recipe.add_argument("--config", required=True, metavar="RECIPE", help=what)
    else:
        recipe.add_argument("config", metavar="RECIPE", help=what)
    recipe.add_argument("overrides", nargs="*", metavar="section.key=value", help="change keys of the recipe")
    return recipe


def trained_parent(required: bool = True) -> argparse.ArgumentParser:
    """Options of every command that draws from a checkpoint, which may be ``required``."""
    trained = argparse.ArgumentParser(add_help=False)
    trained.add_argument("--checkpoint", required=required, metavar="DIR", help="a run directory, or one of its checkpoints")
    add_weights(trained)
    for name, option in SamplingConfig.model_fields.items():
        flag, text = f"--{name.replace('_', '-')}", f"{option.description} (default: the recipe's)"
        if isinstance(option.default, bool):
            trained.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif isinstance(option.default, tuple):
            trained.add_argument(flag, nargs=len(option.default), default=None, metavar="X", help=text)
        else:
            trained.add_argument(flag, default=None, metavar="X", help=text)
    trained.add_argument("--classes", nargs="+", metavar="C", help="of a class-conditional network: names or numbers, none for "
                         "no class, repeated over the images (default: all in turn)")
    trained.add_argument("--batch-size", type=int, default=64, help="images per network evaluation (default: 64)")
    return trained


def add_weights(command: argparse.ArgumentParser) -> None:
    """Options of every command that reads a checkpoint: which weights."""
    command.add_argument("--best", nargs="?", const=True, default=False, metavar="METRIC",
                         help="of a run, not the newest checkpoint but that with the smallest validation loss, or with the best "
                              "of a metric of its evaluation.metric")
    command.add_argument("--raw", action="store_true", help="the optimizer's weights instead of the averaged ones")


def check_counts(arguments: argparse.Namespace) -> None:
    """--num-images and --batch-size are at least 1."""
    for name in ("num_images", "batch_size"):
        if getattr(arguments, name) is not None:
            check_range(f"--{name.replace('_', '-')}", getattr(arguments, name), 1)


def check_output(option: str, path: str | Path | None, endings: tuple[str, ...]) -> None:
    """Before anything is drawn: the file can be written, and is of the kind that will be written. It leaves nothing."""
    if path is None:
        return
    if Path(path).suffix.lower() not in endings:
        raise InputError(f"{option} is {path}, allowed: a file ending in {', '.join(endings)}")
    try:
        if Path(path).is_dir() or (Path(path).exists() and not os.access(path, os.W_OK)):
            raise InputError(f"{option} is {path}, which cannot be written, allowed: a file")
        if not Path(path).exists():  # rights do not tell of a read-only disk: something is made above it, and removed again
            tempfile.TemporaryDirectory(dir=next(above for above in Path(path).absolute().parents if above.exists())).cleanup()
    except OSError as error:
        raise InputError(f"{option} is {path}: {error.strerror}") from None


def run_directory(checkpoint: str) -> Path:
    """The run that --checkpoint names, or that the checkpoint it names is in."""
    path = Path(checkpoint)
    if not path.is_dir() or not ((path / "state.json").is_file() or any(path.glob("checkpoints/step_*"))):
        problem = "has no state.json" if path.is_dir() else "does not exist"
        raise InputError(f"checkpoint {path} {problem}, allowed: a run directory or one of its checkpoints")
    return path.resolve().parents[1] if path.resolve().parent.name == "checkpoints" else path


def load(arguments: argparse.Namespace) -> tuple[rt.Runtime, GaussianDiffusion, Checkpoint]:
    """(runtime, diffusion, checkpoint) on the device that the arguments ask for."""
    runtime = start(runtime_config(RuntimeConfig(), arguments))
    from ddpm_ms.checkpoints import load_diffusion

    diffusion, checkpoint = load_diffusion(arguments.checkpoint, ema=not arguments.raw, best_one=arguments.best)
    config = checkpoint.config
    if runtime.world == 1 and NETWORKS.is_own(config.model.name):  # the sources of others are not in the cache's key
        sections = to_dict(config)
        diffusion.keep_network_graph((sections["model"], sections["diffusion"], config.data.channels, config.data.image_size))
    return runtime, diffusion, checkpoint


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of sampling, as it was typed."""
    return {name: value for name, value in vars(arguments).items() if name in SAMPLING_NAMES and value is not None}


def sampling(arguments: argparse.Namespace, config: Config, sampler: str | None = None,
             steps: int | None = None) -> SamplingConfig:
    """The recipe's way of sampling, with what the command line changes.

    Args:
        sampler: this one, whatever either says.
        steps: so many where the command line does not say.
    """
    fixed = {} if sampler is None else {"sampler": sampler}
    return override_section(config.sampling, {**({} if steps is None else {"steps": steps}), **given_options(arguments), **fixed})


def runtime_config(config: RuntimeConfig, arguments: argparse.Namespace) -> RuntimeConfig:
    """The recipe's runtime, with what the command line changes."""
    changed = {name: getattr(arguments, name) for name in ("device", "mode") if getattr(arguments, name) is not None}
    return replace(config, **changed)


def start(config: RuntimeConfig) -> rt.Runtime:
    """Start the device and say which."""
    runtime = rt.setup(config)
    if runtime.rank == 0:
        ranks = f", {runtime.world} ranks" if runtime.world > 1 else ""
        log.info("device: %s (%s), %s mode%s", runtime.device, runtime.reason, config.mode, ranks)
    return runtime
