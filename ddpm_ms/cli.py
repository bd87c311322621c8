"""The command line: thin sub-commands over the package; every mistake of the user is one line and exit status 2."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import Sequence

import numpy as np

from ddpm_ms import runtime as rt
from ddpm_ms.config import Config, RuntimeConfig, load_config, to_yaml
from ddpm_ms.errors import InputError, TrainingError, check_range
from ddpm_ms.version import __version__

log = logging.getLogger("ddpm_ms")

GIF_IMAGES = 16  # as many of the images as an animation shows


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status: 0 done, 1 training diverged, 2 a mistake in the input."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        rt.check_versions()
        arguments.run(arguments)
    except (InputError, TrainingError) as error:
        print(f"ddpm-ms: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def train(arguments: argparse.Namespace) -> None:
    """Train, or resume, one recipe."""
    config = load_config(arguments.config, arguments.overrides)
    config = dataclasses.replace(config, runtime=_runtime_config(config.runtime, arguments))
    runtime = _start(config.runtime)
    from ddpm_ms.data import create_dataset
    from ddpm_ms.diffusion import create_diffusion
    from ddpm_ms.models import create_model, num_parameters
    from ddpm_ms.training import Trainer

    rt.seed_weights(config.training.seed)
    model = create_model(config.model, config.data.channels)
    diffusion = create_diffusion(config.diffusion, model, config.data.image_size)
    if arguments.dry_run:
        print(to_yaml(config), end="")
        print(f"# parameters: {num_parameters(model):,}")
        return
    run_dir = Path(arguments.run_dir or Path("runs", Path(arguments.config).stem))
    dataset = create_dataset(config.data)
    for skipped in getattr(dataset, "skipped", ()):
        log.warning("skipped: %s", skipped)
    trainer = Trainer(diffusion, dataset, results_folder=run_dir, sampling=config.sampling, data=config.data,
                      runtime=runtime, compile_cache=config.runtime.compile_cache, **dataclasses.asdict(config.training))
    log.info("%s: %s parameters, %d images, run directory %s", arguments.config, f"{num_parameters(model):,}",
             len(dataset), run_dir)
    trainer.train()


def sample(arguments: argparse.Namespace) -> None:
    """Draw images from a checkpoint: a grid, and by option single files, an array, and the reverse process as a GIF."""
    for name in ("num_images", "batch_size"):
        check_range(f"--{name.replace('_', '-')}", getattr(arguments, name), 1)
    diffusion, checkpoint = _load(arguments)
    how = _sampling(arguments, checkpoint.config)
    from ddpm_ms import visual

    out = Path(arguments.out or Path(arguments.checkpoint, "samples", "sample.png"))
    frames: list[np.ndarray] = []
    images = _draw(diffusion, arguments, how, frames)
    visual.save_grid(images, out)
    log.info("%s: %d images, %s, %s steps, seed %d", out, len(images), how["sampler"], how["steps"], how["seed"])
    if arguments.gif:
        visual.save_gif([*frames, images[:len(frames[0])]], arguments.gif)
        log.info("%s: the reverse process", arguments.gif)
    if arguments.npz:
        np.savez_compressed(arguments.npz, images=visual.to_uint8(images).transpose(0, 2, 3, 1))
        log.info("%s: uint8 (N, H, W, C)", arguments.npz)
    if arguments.files:
        for number, image in enumerate(images):
            visual.save_image(image, Path(arguments.files, f"{number:06d}.png"))
        log.info("%s: one file per image", arguments.files)


def evaluate(arguments: argparse.Namespace) -> None:
    """Judge samples of the digits recipe with a classifier trained on the real digits."""
    from ddpm_ms.evaluation.digits import SAMPLES, evaluate_digits

    arguments.num_images = SAMPLES
    diffusion, checkpoint = _load(arguments)
    if checkpoint.config.data.name != "digits":
        raise InputError(f"{arguments.checkpoint} was trained on data {checkpoint.config.data.name}, allowed: digits")
    report = evaluate_digits(_draw(diffusion, arguments, _sampling(arguments, checkpoint.config)))
    print(report)
    if not report.passed:
        raise InputError(f"the samples of {arguments.checkpoint} do not pass")


def visualize(arguments: argparse.Namespace) -> None:
    """Write one image of the data, noised at chosen steps, as a strip."""
    config = load_config(arguments.config, arguments.overrides)
    _start(_runtime_config(config.runtime, arguments))
    from mindspore import Tensor

    from ddpm_ms import rng, visual
    from ddpm_ms.data import create_dataset
    from ddpm_ms.diffusion import create_diffusion
    from ddpm_ms.models import create_model

    last = config.diffusion.timesteps - 1
    steps = arguments.steps or [0, last // 5, last // 2, last]
    for step in steps:
        check_range("--steps", step, 0, last)
    dataset = create_dataset(config.data)
    check_range("--index", arguments.index, 0, len(dataset) - 1)
    diffusion = create_diffusion(config.diffusion, create_model(config.model, config.data.channels), config.data.image_size)
    images = np.repeat(dataset.load([arguments.index]), len(steps), axis=0)
    noise = rng.normal(config.training.seed, "noise", 0, [arguments.index] * len(steps), dataset.shape)
    noised = diffusion.q_sample(Tensor(images * 2 - 1), Tensor(np.array(steps, np.int32)), Tensor(noise)).asnumpy()
    visual.save_strip(np.concatenate([images[:1], (noised + 1) / 2]), arguments.out)
    log.info("%s: the image, then noised at steps %s", arguments.out, ", ".join(map(str, steps)))


def _load(arguments: argparse.Namespace):
    """(diffusion, checkpoint) on the device that the arguments ask for."""
    _start(_runtime_config(RuntimeConfig(), arguments))
    from ddpm_ms.training import load_diffusion

    return load_diffusion(arguments.checkpoint, ema=not arguments.raw)


def _sampling(arguments: argparse.Namespace, config: Config) -> dict:
    """The recipe's way of sampling, with what the command line changes."""
    how = dataclasses.asdict(config.sampling)
    how.update({name: getattr(arguments, name) for name in how if getattr(arguments, name) is not None})
    return how


def _draw(diffusion, arguments: argparse.Namespace, how: dict, frames: list | None = None) -> np.ndarray:
    """``num_images`` images in batches of one shape; fills ``frames`` with the process of the first batch."""
    from tqdm import tqdm

    count, batch = arguments.num_images, min(arguments.batch_size, arguments.num_images)
    visited = how["steps"] or diffusion.num_timesteps
    every = max(1, visited // 100)
    seen = 0

    def keep(t, x, x_start):
        nonlocal seen
        bar.update()
        if frames is not None and arguments.gif and seen < visited and seen % every == 0:
            frames.append((x.asnumpy()[:GIF_IMAGES] + 1) / 2)
        seen += 1

    batches = []
    with tqdm(total=-(-count // batch) * visited, unit="step", disable=not rt.stderr_is_terminal()) as bar:
        for first in range(0, count, batch):
            # The last batch is drawn whole and cut: another size would be another graph.
            chosen = arguments.classes
            labels = chosen and [chosen[k % len(chosen)] for k in range(first, first + batch)]
            batches.append(diffusion.sample(batch, first_index=first, classes=labels, callback=keep, **how))
    return np.concatenate(batches)[:count]


def _runtime_config(config: RuntimeConfig, arguments: argparse.Namespace) -> RuntimeConfig:
    changed = {name: getattr(arguments, name) for name in ("device", "mode") if getattr(arguments, name) is not None}
    return dataclasses.replace(config, **changed)


def _start(config: RuntimeConfig) -> rt.Runtime:
    runtime = rt.setup(config)
    log.info("device: %s (%s), %s mode", runtime.device, runtime.reason, config.mode)
    return runtime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ddpm-ms", description="Denoising diffusion models on MindSpore.")
    parser.add_argument("--version", action="version", version=f"ddpm-ms {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", choices=("auto", *rt.DEVICES), help="where to run; auto tries Ascend, GPU, CPU")
    device.add_argument("--mode", choices=("graph", "pynative"), help="pynative: operator by operator, for debugging")

    recipe = argparse.ArgumentParser(add_help=False)
    recipe.add_argument("--config", required=True, metavar="FILE", help="recipe in YAML")
    recipe.add_argument("overrides", nargs="*", metavar="section.key=value", help="change keys of the recipe")

    trained = argparse.ArgumentParser(add_help=False)
    trained.add_argument("--checkpoint", required=True, metavar="DIR", help="a run directory, or one of its checkpoints")
    trained.add_argument("--raw", action="store_true", help="the optimizer's weights instead of the averaged ones")
    trained.add_argument("--sampler", help="ddpm or ddim (default: the recipe's, as for all that follow)")
    trained.add_argument("--steps", type=int, help="network evaluations, 1 to T")
    trained.add_argument("--eta", type=float, help="noise of DDIM, 0 to 1")
    trained.add_argument("--spacing", help="linspace, leading, trailing or quadratic")
    trained.add_argument("--seed", type=int, help="image k of a seed is always the same image")
    trained.add_argument("--classes", type=int, nargs="+", metavar="C",
                         help="labels for a class-conditional network, repeated over the images (default: all in turn)")
    trained.add_argument("--batch-size", type=int, default=64, help="images per network evaluation (default: 64)")

    command = commands.add_parser("train", parents=[recipe, device], help="train a recipe, or resume it",
                                  description="Train a recipe. The same command again resumes.")
    command.add_argument("--run-dir", metavar="DIR", help="where everything goes (default: runs/NAME_OF_CONFIG)")
    command.add_argument("--dry-run", action="store_true", help="print the resolved recipe and its parameter count")
    command.set_defaults(run=train)

    command = commands.add_parser("sample", parents=[trained, device], help="draw images from a checkpoint")
    command.add_argument("--num-images", "-n", type=int, default=64, help="how many (default: 64)")
    command.add_argument("--out", metavar="PNG", help="the grid (default: samples/sample.png in the run)")
    command.add_argument("--gif", metavar="GIF", help="also write the reverse process")
    command.add_argument("--npz", metavar="NPZ", help="also write the images as uint8 (N, H, W, C)")
    command.add_argument("--files", metavar="DIR", help="also write one PNG per image")
    command.set_defaults(run=sample)

    command = commands.add_parser("evaluate", parents=[trained, device], help="judge samples of the digits recipe")
    command.set_defaults(run=evaluate, gif=None)

    command = commands.add_parser("visualize", parents=[recipe, device], help="draw an image noised at chosen steps")
    command.add_argument("--steps", type=int, nargs="+", help="noise levels (default: 0, T/5, T/2, T-1)")
    command.add_argument("--index", type=int, default=0, help="which image of the data set (default: 0)")
    command.add_argument("--out", default="forward.png", metavar="PNG", help="the strip (default: forward.png)")
    command.set_defaults(run=visualize)
    return parser
