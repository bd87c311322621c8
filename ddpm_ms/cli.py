"""The command line: thin sub-commands over the package; every mistake of the user is one line and exit status 2."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from ddpm_ms import runtime as rt
from ddpm_ms.config import Config, RuntimeConfig, SamplingConfig, load_config, override_section, to_yaml
from ddpm_ms.errors import EvaluationError, InputError, TrainingError, check_range
from ddpm_ms.version import __version__

log = logging.getLogger("ddpm_ms")

GIF_IMAGES = 16  # as many of the images as an animation shows
_SAMPLING_NAMES = {option.name for option in dataclasses.fields(SamplingConfig)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status: 0 done, 1 training diverged or an evaluation not passed, 2 a mistake
    in the input."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        rt.check_versions()
        arguments.run(arguments)
    except (InputError, TrainingError, EvaluationError) as error:
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
    """Draw or edit images with a checkpoint: a grid, and by option single files, an array, and the process as a GIF."""
    _check_counts(arguments)
    if arguments.mask and not arguments.init_image:
        raise InputError("--mask without --init-image, allowed: with the image that it masks")
    if arguments.interpolate and (arguments.init_image or arguments.mask):
        raise InputError("--interpolate with --init-image or --mask, allowed: its two images alone")
    for name, endings in (("out", (".png",)), ("gif", (".gif",)), ("npz", (".npz",))):
        _check_output(f"--{name}", getattr(arguments, name), endings)
    _check_output("--files", arguments.files and Path(arguments.files, "000000.png"), (".png",))
    diffusion, checkpoint = _load(arguments)
    how = _sampling(arguments, checkpoint.config)
    from ddpm_ms import visual

    out = Path(arguments.out or Path(arguments.checkpoint, "samples", "sample.png"))
    frames: list[np.ndarray] = []
    images, speed = _draw(diffusion, arguments, how, frames)
    visual.save_grid(images, out)
    method = "RePaint" if arguments.mask else how["sampler"]
    log.info("%s: %d images, %s, %s steps, seed %d; %s", out, len(images), method, how["steps"], how["seed"], speed)
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
    """Judge a checkpoint: what a classifier says of its samples of digits, or the likelihood it gives its data."""
    _check_counts(arguments)
    if arguments.metric == "bits_per_dim":
        return bits_per_dim(arguments)
    from ddpm_ms.evaluation.digits import SAMPLES, evaluate_digits

    diffusion, checkpoint = _load(arguments)
    if checkpoint.config.data.name != "digits":
        raise InputError(f"{arguments.checkpoint} was trained on data {checkpoint.config.data.name}, allowed with "
                         "--metric digits: digits")
    arguments.num_images = arguments.num_images or SAMPLES
    images, _ = _draw(diffusion, arguments, _sampling(arguments, checkpoint.config))
    count = diffusion.model.num_classes
    report = evaluate_digits(images, asked=np.resize(arguments.classes or np.arange(count), len(images)) if count else None)
    print(report)
    if not report.passed:
        raise EvaluationError(f"the samples of {arguments.checkpoint} do not pass")


def bits_per_dim(arguments: argparse.Namespace) -> None:
    """Print the variational bound over images of the checkpoint's data."""
    from tqdm import tqdm

    from ddpm_ms.data import create_dataset

    idle = [name for name in sorted(_SAMPLING_NAMES - {"seed"} | {"classes"}) if getattr(arguments, name) is not None]
    if idle:
        raise InputError(f"--{idle[0].replace('_', '-')} with --metric bits_per_dim, which draws no samples, allowed: --seed")
    diffusion, checkpoint = _load(arguments)
    seed = _sampling(arguments, checkpoint.config)["seed"]
    dataset = create_dataset(checkpoint.config.data)
    count = min(arguments.num_images or 64, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    labels = None if not diffusion.model.num_classes else dataset.labels[chosen]
    batch, found = min(arguments.batch_size, count), []
    with tqdm(total=-(-count // batch) * diffusion.num_timesteps, unit="step", disable=not rt.stderr_is_terminal()) as bar:
        for first in range(0, count, batch):
            # The last batch is filled up and cut: another size would be another graph.
            rows = np.resize(np.arange(first, min(first + batch, count)), batch)
            bound = diffusion.bits_per_dim(dataset.load(chosen[rows]), classes=None if labels is None else labels[rows].tolist(),
                                           first_index=first, seed=seed, callback=lambda done, of: bar.update())
            found.append([x[:min(batch, count - first)] for x in (bound.total, bound.prior, bound.vb[:, 0])])
    total, prior, decoder = (np.concatenate(column) for column in zip(*found))
    print(f"bits/dim: {total.mean():.4f} +- {total.std() / len(total) ** 0.5:.4f} over {count} images (prior {prior.mean():.4f}, "
          f"decoder {decoder.mean():.4f}, variance {diffusion.variance})")


def benchmark(arguments: argparse.Namespace) -> None:
    """Time training steps, network evaluations and sampling on the device that is there."""
    check_range("--repeats", arguments.repeats, 1)
    _start(_runtime_config(RuntimeConfig(), arguments))
    from ddpm_ms.benchmark.work import Work, measure, operators, peak_memory

    work = Work(arguments.case)
    print(f"case {arguments.case}: {work.case}\n")
    print("\n".join(measure(work, arguments.work, arguments.repeats)))
    print(f"\npeak memory of the process: {peak_memory():.0f} MiB")
    if arguments.operators:
        for kind in arguments.work:
            print(f"\n{kind}:\n")
            print("\n".join(operators(work, kind, Path(arguments.operators, kind))))


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


def _check_counts(arguments: argparse.Namespace) -> None:
    for name in ("num_images", "batch_size"):
        if getattr(arguments, name) is not None:
            check_range(f"--{name.replace('_', '-')}", getattr(arguments, name), 1)


def _check_output(option: str, path: str | Path | None, endings: tuple[str, ...]) -> None:
    """Before anything is drawn: the file can be written, and is of the kind that will be written."""
    if path is None:
        return
    if Path(path).suffix.lower() not in endings:
        raise InputError(f"{option} is {path}, allowed: a file ending in {', '.join(endings)}")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} is {path}: {error.strerror}") from None


def _load(arguments: argparse.Namespace):
    """(diffusion, checkpoint) on the device that the arguments ask for."""
    _start(_runtime_config(RuntimeConfig(), arguments))
    from ddpm_ms.training import load_diffusion

    return load_diffusion(arguments.checkpoint, ema=not arguments.raw)


def _sampling(arguments: argparse.Namespace, config: Config) -> dict:
    """The recipe's way of sampling, with what the command line changes."""
    given = {name: value for name, value in vars(arguments).items() if name in _SAMPLING_NAMES and value is not None}
    return dataclasses.asdict(override_section(config.sampling, given))


def _draw(diffusion, arguments: argparse.Namespace, how: dict, frames: list | None = None) -> tuple[np.ndarray, str]:
    """The images that the arguments ask for, in batches of one shape, and how fast that was; fills ``frames`` with the process
    of the first batch."""
    draw, count = _what_to_draw(diffusion, arguments, how)
    batch = min(arguments.batch_size, count)
    batches, evaluations = [], 0
    began = time.perf_counter()
    with _progress() as bar:

        def keep(done, transitions, x):
            bar.total = -(-count // batch) * transitions
            bar.update(done > 0)
            # A hundred frames at most, of the first batch; the result follows.
            first_batch = frames is not None and getattr(arguments, "gif", None) and not batches
            if first_batch and done < transitions and done % max(1, transitions // 100) == 0:
                frames.append((x.asnumpy()[:GIF_IMAGES] + 1) / 2)

        for first in range(0, count, batch):
            # The last batch is drawn whole and cut: another size would be another graph.
            labels = arguments.classes and [arguments.classes[k % len(arguments.classes)] for k in range(first, first + batch)]
            batches.append(draw(batch, first, classes=labels, callback=keep))
            evaluations += diffusion.nfe
    seconds = time.perf_counter() - began
    return np.concatenate(batches)[:count], f"NFE {evaluations // len(batches)}, {count / seconds:.2f} images/s"


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
    from PIL import Image

    from ddpm_ms.data.images import read_image

    height, width = diffusion.image_size
    try:
        with Image.open(path) as mask:
            size = mask.size
    except (OSError, ValueError) as error:
        raise InputError(f"--mask {path}: {error}") from None
    if size != (width, height):
        raise InputError(f"--mask {path} is {size[0]}x{size[1]} pixels, allowed: {width}x{height}, the size of the images")
    return (read_image(path, diffusion.image_size, 1)[0] > 0.5).astype(np.float32)


def _progress():
    from tqdm import tqdm

    return tqdm(unit="step", disable=not rt.stderr_is_terminal())


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
    for option in dataclasses.fields(SamplingConfig):
        flag, text = f"--{option.name.replace('_', '-')}", f"{option.metadata['help']} (default: the recipe's)"
        if isinstance(option.default, bool):
            trained.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif isinstance(option.default, tuple):
            trained.add_argument(flag, nargs=len(option.default), default=None, metavar="X", help=text)
        else:
            trained.add_argument(flag, default=None, metavar="X", help=text)
    trained.add_argument("--classes", type=int, nargs="+", metavar="C",
                         help="labels for a class-conditional network, repeated over the images (default: all in turn)")
    trained.add_argument("--batch-size", type=int, default=64, help="images per network evaluation (default: 64)")

    command = commands.add_parser("train", parents=[recipe, device], help="train a recipe, or resume it",
                                  description="Train a recipe. The same command again resumes.")
    command.add_argument("--run-dir", metavar="DIR", help="where everything goes (default: runs/NAME_OF_CONFIG)")
    command.add_argument("--dry-run", action="store_true", help="print the resolved recipe and its parameter count")
    command.set_defaults(run=train)

    command = commands.add_parser("sample", parents=[trained, device], help="draw images from a checkpoint")
    command.add_argument("--num-images", "-n", type=int, help="how many (default: 64, or one per --init-image, or 8 between two)")
    command.add_argument("--init-image", nargs="+", metavar="FILE", help="redraw these instead of drawing from noise; --strength "
                         "says how much, --invert how they are brought there")
    command.add_argument("--mask", metavar="FILE", help="with --init-image: keep what is bright, fill in what is dark (RePaint)")
    command.add_argument("--interpolate", nargs=2, metavar="FILE", help="draw a strip from one image to the other")
    command.add_argument("--out", metavar="PNG", help="the grid (default: samples/sample.png in the run)")
    command.add_argument("--gif", metavar="GIF", help="also write the reverse process")
    command.add_argument("--npz", metavar="NPZ", help="also write the images as uint8 (N, H, W, C)")
    command.add_argument("--files", metavar="DIR", help="also write one PNG per image")
    command.set_defaults(run=sample)

    command = commands.add_parser("evaluate", parents=[trained, device], help="judge a checkpoint")
    command.add_argument("--metric", choices=("digits", "bits_per_dim"), default="digits",
                         help="digits: what a classifier says of the samples; bits_per_dim: the bound on -log2 p(data)")
    command.add_argument("--num-images", "-n", type=int, help="how many (default: 256 samples, or 64 images of the data)")
    command.set_defaults(run=evaluate)

    command = commands.add_parser("benchmark", parents=[device], help="time this package on the device that is there")
    command.add_argument("--case", choices=("a", "b", "c", "d"), default="a", help="see docs/benchmark.md (default: a)")
    command.add_argument("--work", choices=("train", "eval", "sample"), nargs="+", default=["train", "eval"],
                         help="what to time (default: train eval)")
    command.add_argument("--repeats", type=int, default=5, help="calls after the first (default: 5)")
    command.add_argument("--operators", metavar="DIR", help="also profile one call, and print where its time goes")
    command.set_defaults(run=benchmark)

    command = commands.add_parser("visualize", parents=[recipe, device], help="draw an image noised at chosen steps")
    command.add_argument("--steps", type=int, nargs="+", help="noise levels (default: 0, T/5, T/2, T-1)")
    command.add_argument("--index", type=int, default=0, help="which image of the data set (default: 0)")
    command.add_argument("--out", default="forward.png", metavar="PNG", help="the strip (default: forward.png)")
    command.set_defaults(run=visualize)
    return parser
