"""`ddpm-ms evaluate`: judge a checkpoint, or compare images with images."""

from __future__ import annotations

import argparse
import time
from typing import Any, Mapping

import numpy as np

from ddpm_ms.cli.classes import asked_classes
from ddpm_ms.cli.compare import IMAGES, compare, in_words, record, way_of_drawing, weights_of
from ddpm_ms.cli.drawing import draw, from_noise
from ddpm_ms.cli.options import check_counts, device_parent, given_options, load, run_directory, trained_parent
from ddpm_ms.cli.train_classifier import train_classifier
from ddpm_ms.config import SamplingConfig
from ddpm_ms.errors import EvaluationError, InputError
from ddpm_ms.parts import COMPARISONS, FEATURES, METRICS
from ddpm_ms.progress import progress


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``evaluate``."""
    command = commands.add_parser(
        "evaluate", parents=[trained_parent(required=False), device_parent()], help="judge a checkpoint, or compare images",
        description="Judge a checkpoint; or, by a metric that compares, any images. A SIDE is a run, a folder of images, a .npz "
                    "or .npy of images, a .npz of statistics, or the name of a data set, behind which key=value may stand. "
                    "docs/evaluation.md says what each number means.")
    command.add_argument("--images", nargs="+", metavar="SIDE", help="judge these instead of a checkpoint")
    command.add_argument("--metric", nargs="+", metavar="NAME", choices=[*METRICS, *COMPARISONS],
                         help=f"one of {', '.join(METRICS)}, or any of {', '.join(COMPARISONS)}, which compare (default: "
                              "classifier; fid with --images or --against)")
    command.add_argument("--against", nargs="+", metavar="SIDE",
                         help="what to compare with (default: the data that the run was trained on)")
    command.add_argument("--features", metavar="NAME", default="inception",
                         help=f"what to compare in: {', '.join(FEATURES)} (default: %(default)s)")
    command.add_argument("--inception", metavar="FILE", help="weights of --features inception")
    command.add_argument("--protocol", metavar="NAME", help="how --features inception resizes and normalises images")
    command.add_argument("--train-classifier", action="store_true",
                         help="train the classifier of --features classifier on the labels of the data, once, and nothing else")
    command.add_argument("--save-stats", metavar="NPZ",
                         help="also write mean and covariance of the features of what is judged, for --against")
    command.add_argument("--num-images", "-n", type=int,
                         help=f"how many images to judge by (default: the metric's own number; to compare, {IMAGES} of a run, "
                              "and all of anything else)")
    command.set_defaults(run=evaluate)


def evaluate(arguments: argparse.Namespace) -> None:
    """Print what a metric says of a checkpoint, or what several say of two sides; `EvaluationError` where it is below what the
    metric requires."""
    check_counts(arguments)
    if arguments.train_classifier:
        train_classifier(arguments)
        return
    names = metrics(arguments)
    if names and names[0] in METRICS:
        judge(names[0], arguments)
    else:
        compare(names, arguments)


def metrics(arguments: argparse.Namespace) -> list[str]:
    """The metrics to compute: one of `METRICS`, or any of `COMPARISONS`, or none where only statistics are wanted.

    Raises:
        InputError: there is nothing to judge, or too much, or what is said does not go together.
    """
    if arguments.checkpoint is None and arguments.images is None:
        raise InputError("--checkpoint is not given, allowed: a run, or --images")
    if arguments.checkpoint is not None and arguments.images is not None:
        raise InputError("--checkpoint and --images are given, allowed: one of them")
    names = list(dict.fromkeys(arguments.metric or []))
    if not names:
        if arguments.against:
            return ["fid"]
        return [] if arguments.save_stats else ["classifier"] if arguments.checkpoint else ["fid"]
    for name in [name for name in names if name in METRICS]:
        beside = [f"--{option.replace('_', '-')}" for option in ("images", "against", "save_stats") if getattr(arguments, option)]
        if len(names) > 1 or beside:
            given = " with ".join([f"--metric {' '.join(names)}", *beside[:1]])
            raise InputError(f"{given}, allowed: {name} alone and of a checkpoint, or any of {', '.join(COMPARISONS)}")
    return names


def judge(metric: str, arguments: argparse.Namespace) -> None:
    """Print what one metric says of a checkpoint."""
    runtime, diffusion, checkpoint = load(arguments)
    classes = asked_classes(arguments, diffusion, checkpoint.config)
    from ddpm_ms.evaluation import Subject
    from ddpm_ms.evaluation.drawn import way_in_words

    facts: dict[str, Any] = weights_of(checkpoint, arguments.raw)

    def drawing(options: SamplingConfig, count: int) -> np.ndarray:
        facts.update(way_of_drawing(options, diffusion.num_timesteps, classes), images=facts.get("images", 0) + count)
        return draw(from_noise(diffusion.pipeline, options), count, arguments.batch_size, runtime, classes).images

    report = METRICS[metric](Subject(
        diffusion, checkpoint.config, runtime, drawing, arguments.num_images, arguments.batch_size, classes,
        given_options(arguments), progress))
    if runtime.rank != 0:
        return
    print(report)
    numbers = getattr(report, "numbers", None)
    if isinstance(numbers, Mapping):
        what = ", ".join([in_words(facts), *([way_in_words(facts)] if "images" in facts else [])])
        record(run_directory(arguments.checkpoint), {
            "time": round(time.time(), 3),
            "scores": {name: {"value": float(value), "deviation": None} for name, value in numbers.items()},
            "judged": {"what": what, "images": None, **facts}, "against": None,
            "features": {"name": metric, "identity": f"--metric {metric}", "width": None}, "notes": []})
    passed = getattr(report, "passed", None)
    if passed is not None:
        print("PASSED" if passed else f"FAILED (needed: {report.requirement})")
        if not passed:
            raise EvaluationError(f"the samples of {arguments.checkpoint} do not pass")
