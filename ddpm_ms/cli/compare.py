"""The part of `ddpm-ms evaluate` that compares two sides: which they are, in which features, and where the numbers go."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from ddpm_ms.cli.classes import asked_classes
from ddpm_ms.cli.drawing import draw, from_noise
from ddpm_ms.cli.options import SAMPLING_NAMES, check_output, run_directory, runtime_config, sampling, start
from ddpm_ms.config import RuntimeConfig, SamplingConfig
from ddpm_ms.errors import InputError
from ddpm_ms.parts import COMPARISONS, FEATURES, NETWORKS, SAMPLERS
from ddpm_ms.version import __version__

if TYPE_CHECKING:  # they load MindSpore
    from ddpm_ms.checkpoints import Checkpoint
    from ddpm_ms.evaluation.features import Features
    from ddpm_ms.evaluation.sides import Side
    from ddpm_ms.runtime import Runtime

log = logging.getLogger("ddpm_ms")

IMAGES = 2048  # that are drawn, unless more or fewer are asked for
EDITING = ("strength", "invert", "resamplings", "jump_length")  # options of sampling that say nothing of images from noise


def compare(names: list[str], arguments: argparse.Namespace) -> None:
    """Compare two sides: print the numbers with their protocol, and add them to the run's evaluations.jsonl."""
    check_output("--save-stats", arguments.save_stats, (".npz",))
    FEATURES.check("--features", arguments.features)
    two_sided = any(not COMPARISONS[name].alone for name in names)
    _check_sides(names, arguments, two_sided)
    runtime = start(runtime_config(RuntimeConfig(), arguments))
    from ddpm_ms.evaluation import protocol, sides

    if arguments.checkpoint is not None:
        judged, data = drawn_side(arguments.checkpoint, arguments, runtime)
    else:
        judged, data = sides.side_of(arguments.images, "--images").first(arguments.num_images), None
    against = None
    if two_sided and not arguments.against:
        assert data is not None
        against = data()
    elif two_sided and is_run(arguments.against[0]):
        against, _ = drawn_side(arguments.against[0], arguments, runtime)
    elif two_sided:
        against = sides.side_of(arguments.against, "--against", judged.shape)
    result = protocol.compare(judged, against, names, _features(arguments, judged, against), runtime, arguments.batch_size,
                              arguments.save_stats)
    if runtime.rank != 0 or result is None or not names:
        return
    print(result)
    if arguments.checkpoint is not None:
        record(run_directory(arguments.checkpoint), result.row())


def is_run(path: str) -> bool:
    """Whether there is a run, or a checkpoint."""
    return Path(path, "state.json").is_file() or Path(path, "checkpoints").is_dir()


def _check_sides(names: list[str], arguments: argparse.Namespace, two_sided: bool) -> None:
    """What is said of the two sides goes together."""
    if arguments.against and not two_sided:
        what = f"--metric {names[0]}" if names else "--save-stats"
        raise InputError(f"--against with {what}, which looks at one side, allowed: none")
    if arguments.checkpoint is not None:
        return
    if two_sided and not arguments.against:
        alone = ", ".join(name for name, comparison in COMPARISONS.items() if comparison.alone)
        raise InputError(f"--images without --against, allowed: with it, or --metric {alone}, or --save-stats alone")
    if is_run(arguments.images[0]):
        raise InputError(f"--images is the run {arguments.images[0]}, allowed: --checkpoint {arguments.images[0]}")
    if arguments.against and is_run(arguments.against[0]):
        return
    for name in (*sorted(SAMPLING_NAMES), "classes", "best", "raw"):  # nothing is drawn, so nothing can be said of drawing
        if getattr(arguments, name) not in (None, False):
            raise InputError(f"--{name.replace('_', '-')} with --images, which are not drawn, allowed: with --checkpoint")


def _features(arguments: argparse.Namespace, judged: Side, against: Side | None) -> Features:
    """The features that are asked for, for images as they are; of two files of statistics, what these say."""
    from ddpm_ms.evaluation.features import FeatureRequest, OfStatistics

    known = [side for side in (judged, against) if side is not None and side.shape is not None]
    if not known or known[0].shape is None:
        found = [side.statistics for side in (judged, against) if side is not None and side.statistics is not None]
        return OfStatistics(next((one.features for one in found if one.features), ""), len(found[0].pool.mean))
    data = next((side.data for side in known if side.data is not None), None)
    if data is not None:
        data = data.changed({"part": "train"})  # what learns from data learns from this part, whichever is compared
    return FEATURES[arguments.features](FeatureRequest(known[0].shape, data, arguments.inception, arguments.protocol))


def drawn_side(path: str, arguments: argparse.Namespace, runtime: Runtime) -> tuple[Side, Callable[[], Side]]:
    """(what a run draws, as the arguments say; what makes the side of its training data). What was drawn before is not drawn
    again."""
    from ddpm_ms.checkpoints import load_diffusion
    from ddpm_ms.data import ArrayDataset
    from ddpm_ms.evaluation.drawn import DrawnImages, way_in_words
    from ddpm_ms.evaluation.sides import Side, training_data
    from ddpm_ms.runtime.ranks import broadcast_text

    diffusion, checkpoint = load_diffusion(path, ema=not arguments.raw, best_one=arguments.best)
    config, count = checkpoint.config, arguments.num_images or IMAGES
    options, classes = sampling(arguments, config), asked_classes(arguments, diffusion, config)
    diffusion.pipeline.check(options)
    settings = {**weights_of(checkpoint, arguments.raw), **way_of_drawing(options, diffusion.num_timesteps, classes),
                "ddpm_ms": __version__}
    shape = (config.data.channels, *config.data.size)
    own = SAMPLERS.is_own(options.sampler) and NETWORKS.is_own(config.model.name)
    place = {name: value for name, value in settings.items() if name != "run"}  # a run may be moved
    drawn = DrawnImages(run_directory(str(checkpoint.path)), place, shape, kept=own)

    def images() -> ArrayDataset:
        kept = int(broadcast_text(str(len(drawn.read(count))) if runtime.rank == 0 else "", runtime))
        parts = [drawn.read(kept)]
        if kept and runtime.rank == 0:
            log.info("%d of %d images were drawn before: %s", kept, count, drawn.folder)

        def keep(found: np.ndarray) -> None:
            parts.append(drawn.add(sum(map(len, parts)), found, runtime.rank == 0))

        if kept < count:
            draw(from_noise(diffusion.pipeline, options), count - kept, arguments.batch_size, runtime, classes, first=kept,
                 each_round=keep)
        return ArrayDataset(np.concatenate(parts), shape[0])

    what = f"{in_words(settings)}, {way_in_words(settings)}"
    side = Side(what, count, shape, images, facts=settings, data=config.data, fixed=False)
    return side, lambda: training_data(config)


def weights_of(checkpoint: Checkpoint, raw: bool) -> dict[str, Any]:
    """Which weights of which run: facts for evaluations.jsonl."""
    weights = "model.safetensors" if raw else "ema.safetensors"
    return {"run": str(checkpoint.path), "step": checkpoint.step, "weights": weights,
            "sha256": checkpoint.state["sha256"][weights]}


def in_words(facts: dict[str, Any]) -> str:
    """The same for people."""
    return f"{facts['run']}, {'averaged' if facts['weights'].startswith('ema') else 'raw'} weights {facts['sha256'][:16]}"


def way_of_drawing(options: SamplingConfig, timesteps: int, classes: list[int] | None) -> dict[str, Any]:
    """How images are drawn from noise: facts for evaluations.jsonl."""
    return {**{name: value for name, value in dict(options).items() if name not in EDITING}, "steps": options.steps or timesteps,
            "classes": classes}


def record(run_dir: Path, row: dict[str, Any]) -> None:
    """Add a line to the run's evaluations.jsonl; a disk that does not take it costs the line."""
    from ddpm_ms.training.files import append_json

    try:
        append_json(run_dir / "evaluations.jsonl", row)
    except OSError as error:
        log.warning("%s could not be written (%s)", run_dir / "evaluations.jsonl", error.strerror or error)
