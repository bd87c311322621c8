"""`ddpm-ms visualize`: pictures of the process, of schedules, of runs, and of samples beside the images they resemble."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING, Callable

import numpy as np

from ddpm_ms.cli.classes import asked_classes
from ddpm_ms.cli.drawing import GIF_IMAGES, draw, from_noise
from ddpm_ms.cli.options import (
    check_counts,
    check_output,
    device_parent,
    load,
    recipe_parent,
    run_directory,
    sampling,
    trained_parent,
)
from ddpm_ms.config import DiffusionConfig, load_config, replace
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.parts import LOSS_WEIGHTS, SCHEDULES
from ddpm_ms.progress import progress

if TYPE_CHECKING:  # imported where it is needed
    from ddpm_ms.diffusion.schedules import NoiseSchedule

log = logging.getLogger("ddpm_ms")


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``visualize`` and its kinds."""
    command = commands.add_parser("visualize", help="draw pictures: forward, schedules, losses, reverse, nearest",
                                  description="Draw pictures.")
    kinds = command.add_subparsers(metavar="KIND", required=True)
    kind = kinds.add_parser("forward", parents=[recipe_parent()], help="an image noised at chosen steps")
    kind.add_argument("--steps", type=int, nargs="+", help="noise levels (default: 0, T/5, T/2, T-1)")
    kind.add_argument("--index", type=int, default=0, help="which image of the data set (default: 0)")
    _ends(kind, forward)
    kind = kinds.add_parser("schedules", parents=[recipe_parent()],
                            help="beta, signal, signal-to-noise ratio and loss weights of a recipe beside the others")
    _ends(kind, schedules)
    kind = kinds.add_parser("losses", help="the loss curves of runs in one plot")
    kind.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    _ends(kind, losses)
    kind = kinds.add_parser("reverse", parents=[trained_parent(), device_parent()],
                            help="the reverse process from noise to images, about a hundred frames of it")
    kind.add_argument("--num-images", "-n", type=int, default=16, help=f"how many, at most {GIF_IMAGES} (default: 16)")
    kind.add_argument("--out", "--gif", dest="gif", metavar="GIF", help="the animation (default: reverse.gif in the run, where "
                      "`ddpm-ms report` finds it)")
    kind.set_defaults(run=reverse)
    kind = kinds.add_parser("nearest", parents=[trained_parent(), device_parent()],
                            help="samples beside the training images nearest to them: are they copies?")
    kind.add_argument("--num-images", "-n", type=int, default=16, help="how many samples (default: 16)")
    _ends(kind, nearest)


def forward(arguments: argparse.Namespace) -> None:
    """Write one image of the data, and it noised at chosen steps, as a strip."""
    config = load_config(arguments.config, arguments.overrides)
    last = config.diffusion.timesteps - 1
    steps = arguments.steps or sorted({0, (last + 1) // 5, (last + 1) // 2, last})
    for step in steps:
        check_range("--steps", step, 0, last)
    check_range("--index", arguments.index, 0)
    check_output("--out", arguments.out, (".png",))
    from ddpm_ms import rng, visual
    from ddpm_ms.data import create_dataset
    from ddpm_ms.diffusion.objectives import noised

    schedule, dataset = _schedule(config.diffusion), create_dataset(config.data)
    check_range("--index", arguments.index, 0, len(dataset) - 1)
    image = dataset.load([arguments.index])
    noise = rng.normal(config.training.seed, "noise", 0, [arguments.index], dataset.shape)
    levels = [noised(image * 2 - 1, noise, *schedule.alpha_sigma(step)) for step in steps]
    visual.save_strip(np.concatenate([image, *((x + 1) / 2 for x in levels)]), arguments.out)
    log.info("%s: the image, then noised at steps %s", arguments.out, ", ".join(map(str, steps)))


def schedules(arguments: argparse.Namespace) -> None:
    """Write the plots of the recipe's schedule and weight of the loss beside all others."""
    config = load_config(arguments.config, arguments.overrides).diffusion
    check_output("--out", arguments.out, (".png",))
    from ddpm_ms import visual
    from ddpm_ms.diffusion.loss_weights import create_loss_weight
    from ddpm_ms.diffusion.schedules import create_schedule

    own = _schedule(config)
    recipe = "own betas" if config.betas else config.beta_schedule
    recipe += ", rescaled" if config.rescale_betas_zero_snr else ""
    every = {recipe: own}
    for name in SCHEDULES:
        try:
            every.setdefault(name, create_schedule(name, config.timesteps))
        except InputError as error:
            log.warning("left out: %s, %s", name, error)
    with np.errstate(divide="ignore", invalid="ignore"):  # without any signal some weights are not defined
        weights = {config.loss_weight: create_loss_weight(config, own.snr)}
        for name in LOSS_WEIGHTS:
            try:
                other = replace(config, loss_weight=name, p2_loss_weight_gamma=None)
                weights.setdefault(name, create_loss_weight(other, own.snr))
            except InputError as error:
                log.warning("left out: %s, %s", name, error)
    visual.save_schedules({name: (s.betas, s.alphas_cumprod) for name, s in every.items()}, weights, arguments.out,
                          recipe=recipe, weight=config.loss_weight, objective=config.objective)
    log.info("%s: schedules %s, weights %s", arguments.out, ", ".join(every), ", ".join(weights))


def losses(arguments: argparse.Namespace) -> None:
    """Write the loss curves of runs as one plot."""
    from ddpm_ms import visual

    runs = dict(zip(visual.short_names(arguments.runs), map(visual.read_metrics, arguments.runs)))
    check_output("--out", arguments.out, (".png",))
    visual.save_losses(runs, arguments.out)
    log.info("%s: %s", arguments.out, ", ".join(f"{name} ({rows[-1]['loss']:.4f})" for name, rows in runs.items()))


def reverse(arguments: argparse.Namespace) -> None:
    """Write the way from noise to images as an animation whose last frame is held."""
    check_counts(arguments)
    check_range("--num-images", arguments.num_images, 1, GIF_IMAGES)
    gif = arguments.gif or run_directory(arguments.checkpoint) / "reverse.gif"
    check_output("--out", gif, (".gif",))
    runtime, diffusion, checkpoint = load(arguments)
    from ddpm_ms import visual

    # As many steps as there are frames.
    options = sampling(arguments, checkpoint.config, steps=min(visual.FRAMES - 1, diffusion.num_timesteps))
    drawing = draw(from_noise(diffusion.pipeline, options), arguments.num_images, arguments.batch_size, runtime,
                   asked_classes(arguments, diffusion, checkpoint.config), with_frames=True)
    if runtime.rank != 0:
        return
    visual.save_gif([*drawing.frames, drawing.images], gif)
    log.info("%s: %d images, %s, %d steps", gif, len(drawing.images), options.sampler, options.steps)


def nearest(arguments: argparse.Namespace) -> None:
    """Write samples beside their nearest training images, nearest first, and print how near that is."""
    check_counts(arguments)
    check_output("--out", arguments.out, (".png",))
    runtime, diffusion, checkpoint = load(arguments)
    from ddpm_ms import visual
    from ddpm_ms.data import create_dataset, split
    from ddpm_ms.evaluation import evaluate_nearest

    config = checkpoint.config
    dataset = create_dataset(config.data)
    if config.training.validation_images:
        dataset, _ = split(dataset, config.training.validation_images, config.training.seed)
    check_range("the number of images in the data", len(dataset), 2)
    draw_batch = from_noise(diffusion.pipeline, sampling(arguments, config))
    classes = asked_classes(arguments, diffusion, config)
    images = draw(draw_batch, arguments.num_images, arguments.batch_size, runtime, classes).images
    if runtime.rank != 0:
        return
    with progress(len(dataset), "image", what="comparing with training images") as bar:
        report = evaluate_nearest(images, dataset, mirrored=config.training.augment_horizontal_flip, callback=bar.update)
    order = np.argsort(report.distances)
    visual.save_pairs(images[order], dataset.load(report.indices[order]), arguments.out)
    print(report)
    log.info("%s: each sample, and to its right the training image nearest to it; nearest pair first", arguments.out)


def _ends(kind: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    """What every kind has: where it writes, and what it runs."""
    out = f"{run.__name__}.png"
    kind.add_argument("--out", default=out, metavar="PNG", help=f"the picture (default: {out})")
    kind.set_defaults(run=run)


def _schedule(config: DiffusionConfig) -> NoiseSchedule:
    from ddpm_ms.diffusion.schedules import schedule_of

    return schedule_of(config)
