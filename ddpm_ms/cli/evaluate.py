"""`ddpm-ms evaluate`: judge a checkpoint."""

from __future__ import annotations

import argparse

import numpy as np

from ddpm_ms.cli.classes import asked_classes
from ddpm_ms.cli.drawing import draw, from_noise
from ddpm_ms.cli.options import check_counts, device_parent, given_options, load, trained_parent
from ddpm_ms.config import SamplingConfig
from ddpm_ms.errors import EvaluationError
from ddpm_ms.parts import METRICS
from ddpm_ms.progress import progress


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``evaluate``."""
    command = commands.add_parser("evaluate", parents=[trained_parent(), device_parent()], help="judge a checkpoint")
    command.add_argument("--metric", default="classifier", metavar="NAME", choices=METRICS,
                         help="%(choices)s (default: %(default)s); docs/pictures.md says what each tells")
    command.add_argument("--num-images", "-n", type=int, help="how many images to judge by (default: the metric's own number)")
    command.set_defaults(run=evaluate)


def evaluate(arguments: argparse.Namespace) -> None:
    """Print what a metric says of a checkpoint; `EvaluationError` where it is below what the metric requires."""
    check_counts(arguments)
    runtime, diffusion, checkpoint = load(arguments)
    classes = asked_classes(arguments, diffusion, checkpoint.config)
    from ddpm_ms.evaluation import Subject

    def drawing(options: SamplingConfig, count: int) -> np.ndarray:
        return draw(from_noise(diffusion.pipeline, options), count, arguments.batch_size, runtime, classes).images

    report = METRICS[arguments.metric](Subject(
        diffusion, checkpoint.config, runtime, drawing, arguments.num_images, arguments.batch_size, classes,
        given_options(arguments), progress))
    if runtime.rank != 0:
        return
    print(report)
    passed = getattr(report, "passed", None)
    if passed is not None:
        print("PASSED" if passed else f"FAILED (needed: {report.requirement})")
        if not passed:
            raise EvaluationError(f"the samples of {arguments.checkpoint} do not pass")
