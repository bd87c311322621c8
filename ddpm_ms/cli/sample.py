"""`ddpm-ms sample`: draw or edit images with a checkpoint."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from ddpm_ms.cli.options import check_counts, check_output, device_parent, load, progress, run_directory, sampling, trained_parent
from ddpm_ms.errors import InputError
from ddpm_ms.runtime import Runtime
from ddpm_ms.runtime.ranks import gather

log = logging.getLogger("ddpm_ms")

GIF_IMAGES = 16  # as many of the images as an animation shows


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
    command.add_argument("--npz", metavar="NPZ", help="also write the images as uint8 (N, H, W, C)")
    command.add_argument("--files", metavar="DIR", help="also write one PNG per image")
    command.set_defaults(run=sample)


def sample(arguments: argparse.Namespace) -> None:
    """Draw or edit images with a checkpoint: a grid, and by option single files, an array, and the process as a GIF."""
    check_counts(arguments)
    if arguments.mask and not arguments.init_image:
        raise InputError("--mask without --init-image, allowed: with the image that it masks")
    if arguments.interpolate and (arguments.init_image or arguments.mask):
        raise InputError("--interpolate with --init-image or --mask, allowed: its two images alone")
    arguments.out = arguments.out or run_directory(arguments.checkpoint) / "samples" / "sample.png"
    for name, endings in (("out", (".png",)), ("gif", (".gif",)), ("npz", (".npz",))):
        check_output(f"--{name}", getattr(arguments, name), endings)
    check_output("--files", arguments.files and Path(arguments.files, "000000.png"), (".png",))
    runtime, diffusion, checkpoint = load(arguments)
    if arguments.interpolate and runtime.world > 1:
        raise InputError(f"--interpolate on {runtime.world} devices, allowed: one (the strip is one batch)")
    how = sampling(arguments, checkpoint.config)
    from ddpm_ms import visual

    frames: list[np.ndarray] = []
    images, speed = draw(diffusion, arguments, how, runtime, frames)
    if runtime.rank != 0:
        return
    visual.save_grid(images, arguments.out)
    method = "RePaint" if arguments.mask else how["sampler"]
    steps = how["steps"] or diffusion.num_timesteps
    log.info("%s: %d images, %s, %d steps, seed %d; %s", arguments.out, len(images), method, steps, how["seed"], speed)
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


def draw(diffusion, arguments: argparse.Namespace, how: dict, runtime: Runtime,
         frames: list | None = None) -> tuple[np.ndarray, str]:
    """The images that the arguments ask for, in batches of one shape, every rank its share of each round, and how fast that
    was; fills ``frames`` with the process of the first batch."""
    from ddpm_ms import visual

    draw_batch, count = _what_to_draw(diffusion, arguments, how)
    batch = min(arguments.batch_size, -(-count // runtime.world))
    rounds, evaluations = -(-count // (batch * runtime.world)), 0
    images: list[np.ndarray] = []
    began = time.perf_counter()
    with progress(active=runtime.rank == 0) as bar:

        def keep(done, transitions, x):
            bar.total = rounds * transitions
            bar.update(done > 0)
            # Frames of the first batch; the result follows.
            first_batch = frames is not None and getattr(arguments, "gif", None) and not images
            if first_batch and done < transitions and done in visual.frame_steps(transitions):
                frames.append((x.asnumpy()[:GIF_IMAGES] + 1) / 2)

        for number in range(rounds):
            # The last batch is drawn whole and cut: another size would be another graph.
            first = (number * runtime.world + runtime.rank) * batch
            labels = arguments.classes and [arguments.classes[k % len(arguments.classes)] for k in range(first, first + batch)]
            images.append(gather(draw_batch(batch, first, classes=labels, callback=keep), runtime))
            evaluations += diffusion.nfe
    seconds = time.perf_counter() - began
    return np.concatenate(images)[:count], f"NFE {evaluations // rounds}, {count / seconds:.2f} images/s"


def _what_to_draw(diffusion, arguments: argparse.Namespace, how: dict) -> tuple[Callable, int]:
    """(a function that draws one batch, how many images there will be)."""
    count = getattr(arguments, "num_images", None)

    def batch_of(images: np.ndarray, size: int, first: int) -> np.ndarray:
        return images[np.arange(first, first + size) % len(images)]

    if getattr(arguments, "interpolate", None):
        first, second = (_images([path], diffusion) for path in arguments.interpolate)
        count = count or 8
        shares = np.linspace(0, 1, count)
        arguments.batch_size = count  # the strip shares its noise, so it is one batch
        return lambda size, _, **rest: diffusion.interpolate(first, second, shares, **rest, **how), count
    if getattr(arguments, "init_image", None):
        images = _images(arguments.init_image, diffusion)
        count = count or len(images)
        if arguments.mask:
            mask = _mask(arguments.mask, diffusion)
            return lambda size, first, **rest: diffusion.inpaint(batch_of(images, size, first), mask, first_index=first,
                                                                 **rest, **how), count
        return lambda size, first, **rest: diffusion.sample(size, first_index=first, init_images=batch_of(images, size, first),
                                                            **rest, **how), count
    return lambda size, first, **rest: diffusion.sample(size, first_index=first, **rest, **how), count or 64


def _images(paths: Sequence[str], diffusion) -> np.ndarray:
    """Image files as (N, C, H, W) in [0, 1], scaled and cropped as for training."""
    from ddpm_ms.data.images import read_image

    return np.stack([read_image(path, diffusion.image_size, diffusion.channels) for path in paths])


def _mask(path: str, diffusion) -> np.ndarray:
    """A mask file as (H, W) of 0 and 1: bright is known, dark is to be filled in."""
    from ddpm_ms.data.images import image_size, read_image

    height, width = image_size(path)
    if (height, width) != tuple(diffusion.image_size):
        allowed = "{1}x{0}".format(*diffusion.image_size)
        raise InputError(f"--mask {path} is {width}x{height} pixels, allowed: {allowed}, the size of the images")
    return (read_image(path, diffusion.image_size, 1)[0] > 0.5).astype(np.float32)
