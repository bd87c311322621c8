"""`ddpm-ms evaluate`: judge a checkpoint."""

from __future__ import annotations

import argparse

import numpy as np

from ddpm_ms.cli.options import SAMPLING_NAMES, check_counts, device_parent, load, progress, sampling, trained_parent
from ddpm_ms.cli.sample import draw
from ddpm_ms.config import DataConfig
from ddpm_ms.errors import EvaluationError, InputError, check_range
from ddpm_ms.evaluation.classifier import REQUIREMENT
from ddpm_ms.runtime import cache_dir
from ddpm_ms.runtime.ranks import gather

SAMPLES = 256


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``evaluate``."""
    command = commands.add_parser("evaluate", parents=[trained_parent(), device_parent()], help="judge a checkpoint")
    command.add_argument("--metric", choices=("classifier", "bits_per_dim"), default="classifier",
                         help="classifier: what a classifier trained on the labelled data says of the samples, and of as many "
                         "real images; bits_per_dim: the bound on -log2 p(data)")
    command.add_argument("--num-images", "-n", type=int, help=f"how many (default: {SAMPLES} samples, or 64 images of the data)")
    command.set_defaults(run=evaluate)


def evaluate(arguments: argparse.Namespace) -> None:
    """Judge a checkpoint: what a classifier says of its samples, or the likelihood it gives its data."""
    check_counts(arguments)
    if arguments.metric == "bits_per_dim":
        return bits_per_dim(arguments)
    arguments.num_images = arguments.num_images or SAMPLES
    check_range("--num-images", arguments.num_images, 2)
    runtime, diffusion, checkpoint = load(arguments)
    judge = classifier_judge(checkpoint.config.data) if runtime.rank == 0 else None
    images, _ = draw(diffusion, arguments, sampling(arguments, checkpoint.config), runtime)
    if runtime.rank != 0:
        return
    count = diffusion.model.num_classes
    report = judge.report(images, np.resize(arguments.classes or np.arange(count), len(images)) if count else None)
    print(report)
    if checkpoint.config.data.name != "digits":  # only of these is it known what a good network reaches
        return
    print("PASSED" if report.passed else f"FAILED (needed: {REQUIREMENT})")
    if not report.passed:
        raise EvaluationError(f"the samples of {arguments.checkpoint} do not pass")


def classifier_judge(config: DataConfig):
    """The judge of samples of this data, its classifier trained or from the cache.

    Raises:
        InputError: the data has no labels.
    """
    from ddpm_ms.data import create_dataset
    from ddpm_ms.evaluation.classifier import ClassifierJudge, chosen_images

    dataset = create_dataset(config)
    if dataset.labels is None:
        raise InputError(f"data {config.name} has no labels, allowed with --metric classifier: data with labels, of which a "
                         "classifier can be trained")
    rows = chosen_images(len(dataset), dataset.shape)
    return ClassifierJudge(dataset.load(rows), dataset.labels[rows], cache_dir() / "classifiers")


def bits_per_dim(arguments: argparse.Namespace) -> None:
    """Print the variational bound over images of the checkpoint's data."""
    from ddpm_ms.data import create_dataset

    idle = [name for name in sorted(SAMPLING_NAMES - {"seed"} | {"classes"}) if getattr(arguments, name) is not None]
    if idle:
        raise InputError(f"--{idle[0].replace('_', '-')} with --metric bits_per_dim, which draws no samples, allowed: --seed")
    runtime, diffusion, checkpoint = load(arguments)
    seed = sampling(arguments, checkpoint.config)["seed"]
    dataset = create_dataset(checkpoint.config.data)
    count = min(arguments.num_images or 64, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    labels = None if not diffusion.model.num_classes else dataset.labels[chosen]
    batch, found = min(arguments.batch_size, -(-count // runtime.world)), []
    rounds = -(-count // (batch * runtime.world))
    with progress(rounds * diffusion.num_timesteps, active=runtime.rank == 0) as bar:
        for number in range(rounds):
            # The last batch is filled up and cut: another size would be another graph.
            first = (number * runtime.world + runtime.rank) * batch
            rows = np.arange(first, first + batch) % count
            bound = diffusion.bits_per_dim(dataset.load(chosen[rows]), classes=None if labels is None else labels[rows].tolist(),
                                           first_index=first, seed=seed, callback=lambda done, of: bar.update())
            terms = np.stack([bound.total, bound.prior, bound.vb[:, 0]], 1).astype(np.float32)
            found.append(gather(terms, runtime))
    if runtime.rank != 0:
        return
    total, prior, decoder = np.concatenate(found)[:count].T
    print(f"bits/dim: {total.mean():.4f} +- {total.std() / len(total) ** 0.5:.4f} over {count} images (prior {prior.mean():.4f}, "
          f"decoder {decoder.mean():.4f}, variance {diffusion.variance})")
