"""`ddpm-ms sample`: draw or edit images with a checkpoint."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from ddpm_ms.cli.classes import asked_classes
from ddpm_ms.cli.drawing import DrawBatch, draw, from_noise
from ddpm_ms.cli.options import check_counts, check_output, device_parent, load, run_directory, sampling, trained_parent
from ddpm_ms.config import SamplingConfig
from ddpm_ms.errors import InputError

if TYPE_CHECKING:  # they load MindSpore
    from ddpm_ms.gaussian_diffusion import GaussianDiffusion
    from ddpm_ms.sampling.batch import Samples

log = logging.getLogger("ddpm_ms")

_NUMBERED = re.compile(r"\d{6,}\.png")  # as --files calls its images


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``sample``."""
    command = commands.add_parser("sample", parents=[trained_parent(), device_parent()], help="draw images from a checkpoint")
    command.add_argument("--num-images", "-n", type=int, help="how many (default: 64, or one per --init-image, or 8 between two)")
    command.add_argument("--init-image", nargs="+", metavar="FILE", help="redraw these instead of drawing from noise; --strength "
                         "says how much, --invert how they are brought there")
    command.add_argument("--mask", metavar="FILE", help="with --init-image: keep what is bright, fill in what is dark (RePaint)")
    command.add_argument("--interpolate", nargs=2, metavar="FILE", help="draw a strip from one image to the other")
    command.add_argument("--out", metavar="PNG", help="the grid (default: samples/sample.png in the run)")
    command.add_argument("--gif", metavar="GIF", help="also write the reverse process: every step of it, or a hundred of them")
    command.add_argument("--npz", metavar="NPZ", help="also write the images as uint8 (N, H, W, C), with labels and class_names "
                         "if there are classes")
    command.add_argument("--files", metavar="DIR", help="also write one PNG per image")
    command.set_defaults(run=sample)


def sample(arguments: argparse.Namespace) -> None:
    """Draw or edit images with a checkpoint: a grid, and by option single files, an array, and the process as a GIF."""
    check_counts(arguments)
    if arguments.mask and not arguments.init_image:
        raise InputError("--mask without --init-image, allowed: with the image that it masks")
    if arguments.interpolate and (arguments.init_image or arguments.mask):
        raise InputError("--interpolate with --init-image or --mask, allowed: its two images alone")
    out = arguments.out or run_directory(arguments.checkpoint) / "samples" / "sample.png"
    for name, path, ending in (("--out", out, ".png"), ("--gif", arguments.gif, ".gif"), ("--npz", arguments.npz, ".npz")):
        check_output(name, path, (ending,))
    check_output("--files", arguments.files and Path(arguments.files, "000000.png"), (".png",))
    runtime, diffusion, checkpoint = load(arguments)
    if arguments.interpolate and runtime.world > 1:
        raise InputError(f"--interpolate on {runtime.world} devices, allowed: one (the strip is one batch)")
    # The steps of RePaint are DDPM's.
    options = sampling(arguments, checkpoint.config, sampler="ddpm" if arguments.mask else None)
    classes = asked_classes(arguments, diffusion, checkpoint.config)
    from ddpm_ms import visual

    draw_batch, count = _what_to_draw(arguments, diffusion, options, checkpoint.config.data.background)
    _check_files(arguments.files, count)
    # A strip shares its noise, so it is one batch.
    batch_size = count if arguments.interpolate else arguments.batch_size
    drawing = draw(draw_batch, count, batch_size, runtime, classes, with_frames=arguments.gif is not None)
    if runtime.rank != 0:
        return
    images, labels = drawing.images, _labels(arguments, diffusion, classes, count)
    called = checkpoint.config.data.called(diffusion.num_classes or 0)
    visual.save_grid(images, out, visual.class_captions(labels, called))
    method = "RePaint" if arguments.mask else options.sampler
    steps = options.steps or diffusion.num_timesteps
    log.info("%s: %d images, %s, %d steps, seed %d; %s", out, count, method, steps, options.seed, drawing.speed)
    if arguments.gif:
        visual.save_gif([*drawing.frames, images[:len(drawing.frames[0])]], arguments.gif)
        log.info("%s: the reverse process", arguments.gif)
    if arguments.npz:
        Path(arguments.npz).parent.mkdir(parents=True, exist_ok=True)
        named = {"labels": np.array(labels), "class_names": np.array(called[:-1])} if labels else {}
        np.savez_compressed(arguments.npz, images=visual.to_uint8(images).transpose(0, 2, 3, 1), **named)
        log.info("%s: uint8 (N, H, W, C)", arguments.npz)
    if arguments.files:
        for number, image in enumerate(images):
            visual.save_image(image, Path(arguments.files, f"{number:06d}.png"))
        log.info("%s: one file per image", arguments.files)


def _labels(arguments: argparse.Namespace, diffusion: GaussianDiffusion, classes: Sequence[int] | None, count: int) -> list[int]:
    """What each image was drawn as; nothing of a network without classes."""
    from ddpm_ms.sampling.guidance import class_labels

    each = classes and np.resize(classes, count).tolist()
    labels = class_labels(diffusion.num_classes, each, range(count), bool(arguments.init_image or arguments.interpolate))
    return [] if labels is None else labels.asnumpy().tolist()


def _check_files(folder: str | None, count: int) -> None:
    """``folder`` holds no image of a larger export, which would stay there among the new ones."""
    numbered = [path.name for path in Path(folder).glob("*.png") if _NUMBERED.fullmatch(path.name)] if folder else []
    left = sorted(name for name in numbered if int(name[:-len(".png")]) >= count)
    if left:
        raise InputError(f"--files is {folder}, where {len(left)} files of a larger export would stay ({left[0]} to {left[-1]}), "
                         f"allowed for {count} images: a folder without them")


def _what_to_draw(arguments: argparse.Namespace, diffusion: GaussianDiffusion, options: SamplingConfig,
                  background: str) -> tuple[DrawBatch, int]:
    """(what draws a batch of the images that the arguments ask for, how many there will be)."""
    pipeline = diffusion.pipeline
    if arguments.interpolate:
        first, second = (_images([path], diffusion, background) for path in arguments.interpolate)
        count = arguments.num_images or 8
        shares = np.linspace(0, 1, count)
        return lambda numbers, **rest: pipeline.interpolate(first, second, shares, options, **rest), count
    if not arguments.init_image:
        return from_noise(pipeline, options), arguments.num_images or 64
    images = _images(arguments.init_image, diffusion, background)
    mask = arguments.mask and _mask(arguments.mask, diffusion)

    def edit_batch(numbers: range, **rest: Any) -> Samples:
        originals = images[np.array(numbers) % len(images)]
        if mask is not None:
            return pipeline.inpaint(originals, mask, options, first_index=numbers.start, **rest)
        return pipeline.sample(len(numbers), options, first_index=numbers.start, init_images=originals, **rest)

    return edit_batch, arguments.num_images or len(images)


def _images(paths: Sequence[str], diffusion: GaussianDiffusion, background: str) -> np.ndarray:
    """Image files as (N, C, H, W) in [0, 1], scaled, cropped and put on the background as for training."""
    from ddpm_ms.data.images import read_image

    return np.stack([read_image(path, diffusion.image_size, diffusion.channels, background) for path in paths])


def _mask(path: str, diffusion: GaussianDiffusion) -> np.ndarray:
    """A mask file as (H, W) of 0 and 1: bright is known, dark or transparent is to be filled in."""
    from ddpm_ms.data.images import image_size, read_image

    height, width = image_size(path)
    if (height, width) != tuple(diffusion.image_size):
        allowed = "{1}x{0}".format(*diffusion.image_size)
        raise InputError(f"--mask {path} is {width}x{height} pixels, allowed: {allowed}, the size of the images")
    return (read_image(path, diffusion.image_size, 1, "black")[0] > 0.5).astype(np.float32)
