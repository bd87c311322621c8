"""Do samples look like their data? A small classifier of labelled images says what it sees in samples and in real ones."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ddpm_ms.config import DataConfig
from ddpm_ms.data import RandomAccessDataset, create_dataset
from ddpm_ms.errors import InputError, check_range, needed
from ddpm_ms.evaluation.frechet import frechet_distance
from ddpm_ms.evaluation.subject import Subject
from ddpm_ms.runtime import cache_dir
from ddpm_ms.runtime.caches import CLASSIFIERS

log = logging.getLogger("ddpm_ms")

SAMPLES = 256  # unless more or fewer are asked for
CONFIDENT = 0.9  # the class probability from which an image counts as recognised
LAYERS = (128, 64)
TRAIN_SHARE = 0.7  # of the images; the others are the real ones that samples are compared with
MOST_IMAGES, MOST_NUMBERS = 60_000, 2**27  # that are looked at: 1 GiB in float64
PRESENTATIONS = 900_000  # images that training sees, in 15 to 200 passes
MIN_CONFIDENT, MAX_DISTANCE_RATIO = 0.8, 2.0
REQUIREMENT = (f"{MIN_CONFIDENT:.0%} recognised, every class, and at most {MAX_DISTANCE_RATIO:g} times the distance of as many "
               "real images")


class Classifier:
    """A perceptron with hidden layers of 128 and 64 rectified units.

    Args:
        weights: per layer, (inputs, outputs).
        biases: per layer, (outputs,).
    """

    def __init__(self, weights: list[np.ndarray], biases: list[np.ndarray]) -> None:
        self.weights, self.biases = weights, biases

    def features(self, images: np.ndarray) -> np.ndarray:
        """Activations of the last hidden layer, (N, 64), for images (N, C, H, W) in [0, 1]."""
        hidden = images.reshape(len(images), -1)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            hidden = np.maximum(hidden @ weight + bias, 0)
        return hidden

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Logits (N, classes) of what `features` returned."""
        logits = hidden @ self.weights[-1] + self.biases[-1]
        if logits.shape[1] == 1:  # of two classes scikit-learn keeps the second one's logit
            logits = np.concatenate([np.zeros_like(logits), logits], 1)
        return logits

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities (N, classes)."""
        logits = self.logits(self.features(images))
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)


@dataclass(frozen=True)
class ClassifierReport:
    """What the classifier says of samples, and of as many real images that it was not trained on."""

    samples: int
    real: int  # fewer where the data has no more
    confident: float  # share with a class probability of at least 0.9
    real_confident: float
    classes: int  # how many classes appear
    all_classes: int
    distance: float  # Frechet distance to the training images in the last hidden layer
    real_distance: float
    agree: float | None = None  # share that is recognised as the class that was asked for
    requirement: str | None = REQUIREMENT  # None where it is not known what a good network reaches

    @property
    def numbers(self) -> dict[str, float]:
        """For evaluations.jsonl."""
        found = {"recognised": self.confident, "classes": self.classes, "distance": self.distance,
                 "real_distance": self.real_distance}
        return found if self.agree is None else {**found, "agree": self.agree}

    @property
    def passed(self) -> bool | None:
        """Whether the requirement is met; None where there is none."""
        if self.requirement is None:
            return None
        return (self.confident >= MIN_CONFIDENT and self.classes == self.all_classes
                and self.distance <= MAX_DISTANCE_RATIO * self.real_distance)

    def __str__(self) -> str:
        asked = "" if self.agree is None else f"recognised as the class asked for: {self.agree:.1%}\n"
        few = ""
        if self.samples < SAMPLES:
            few = f"\nof fewer than {SAMPLES} images the distance is larger, and varies from draw to draw"
        if self.real < self.samples:
            few += f"\nonly {self.real} real images are held out, which are farther than {self.samples} would be"
        return (f"recognised with p >= {CONFIDENT}: {self.confident:.1%} of {self.samples} samples ({self.real_confident:.1%} of "
                f"{self.real} real images)\nclasses seen: {self.classes} of {self.all_classes}\n{asked}"
                f"Frechet distance: {self.distance:.2f} (real images {self.real_distance:.2f}){few}")


class ClassifierJudge:
    """Judges samples by a `Classifier` that was trained on 70 % of a labelled data set.

    The classifier is scikit-learn's ``MLPClassifier((128, 64), random_state=0)``. It is trained once: its weights are kept under
    a name that follows from the images and the labels.

    Args:
        images: (N, C, H, W) in [0, 1], in any order.
        labels: int (N,).
        cache: the directory to keep the weights in; None keeps nothing.

    Raises:
        InputError: fewer than two classes, a class with fewer than two images, or scikit-learn is not installed.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, cache: Path | None = None) -> None:
        with needed("scikit-learn", "samples are judged by a classifier of scikit-learn's"):
            from sklearn.model_selection import train_test_split

        self.classes, counts = np.unique(labels, return_counts=True)
        if len(self.classes) < 2 or counts.min() < 2:
            raise InputError(f"the data has {len(self.classes)} class(es), the smallest of {counts.min() if len(counts) else 0} "
                             "image(s), allowed for a classifier: 2 classes or more, each of 2 images or more")
        self.shape = images.shape[1:]
        train, self.held_out, train_labels, _ = train_test_split(
            images.reshape(len(images), -1).astype(np.float64), labels, train_size=TRAIN_SHARE, random_state=0, stratify=labels)
        self.classifier = _trained(train, train_labels, cache)
        self._reference = self.classifier.features(train)

    def report(self, images: np.ndarray, asked: np.ndarray | None = None) -> ClassifierReport:
        """Judge samples (N, C, H, W) in [0, 1], N at least 2; numbers compare for equal N. ``asked`` (N,): the labels that they
        were asked for, if any.

        Raises:
            InputError: images of another shape.
        """
        if images.ndim != 4 or images.shape[1:] != self.shape:
            raise InputError(f"images have shape {images.shape}, allowed: (N, {', '.join(map(str, self.shape))}), as the data")
        held_out = self.held_out[:len(images)]
        probabilities, real = self.classifier.probabilities(images), self.classifier.probabilities(held_out)
        seen = self.classes[probabilities.argmax(1)]
        return ClassifierReport(
            samples=len(images), real=len(held_out),
            confident=float((probabilities.max(1) >= CONFIDENT).mean()), real_confident=float((real.max(1) >= CONFIDENT).mean()),
            classes=len(set(seen)), all_classes=len(self.classes),
            distance=frechet_distance(self.classifier.features(images), self._reference),
            real_distance=frechet_distance(self.classifier.features(held_out), self._reference),
            agree=None if asked is None else float((seen == asked).mean()))


def classifier(subject: Subject) -> ClassifierReport | None:
    """What the `ClassifierJudge` of the run's data says of samples; None on other ranks than 0.

    Raises:
        InputError: the data has no labels, or fewer images are asked for than there are classes, or than two.
    """
    count = SAMPLES if subject.count is None else int(check_range("--num-images", subject.count, 2))
    first = subject.runtime.rank == 0
    judge = None
    if first:  # before anything is drawn, which may take long
        labels = _labels_of(subject.dataset, subject.config.data.name)
        if subject.classes is None and count < len(np.unique(labels)):
            raise InputError(f"--num-images is {count}, allowed: at least {len(np.unique(labels))}, one for each class")
        judge = _judge_of(subject.dataset, labels)
    images = subject.draw(count)
    if judge is None:
        return None
    report = judge.report(images, subject.labels(count))
    return report if subject.config.data.name == "digits" else replace(report, requirement=None)


def classifier_judge(config: DataConfig) -> ClassifierJudge:
    """The judge of samples of this data, its classifier trained or from the cache.

    Raises:
        InputError: the data has no labels.
    """
    dataset = create_dataset(config)
    return _judge_of(dataset, _labels_of(dataset, config.name))


def _labels_of(dataset: RandomAccessDataset, name: str) -> np.ndarray:
    if dataset.labels is None:
        why = dataset.why_no_labels and f" ({dataset.why_no_labels})"
        raise InputError(f"data {name} has no labels{why}, allowed with --metric classifier: data with labels, of which a "
                         "classifier can be trained")
    return dataset.labels


def _judge_of(dataset: RandomAccessDataset, labels: np.ndarray) -> ClassifierJudge:
    rows = chosen_images(len(dataset), dataset.shape)
    return ClassifierJudge(dataset.load(rows), labels[rows], cache_dir() / CLASSIFIERS)


def chosen_images(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Which of ``count`` images of a ``shape`` the judge looks at: all, or as many as it can hold, evenly spread."""
    most = min(count, MOST_IMAGES, max(MOST_NUMBERS // int(np.prod(shape)), 1))
    return np.arange(most) * count // most


def _trained(images: np.ndarray, labels: np.ndarray, cache: Path | None) -> Classifier:
    """The classifier of these images (N, inputs) and labels (N,), from the cache if it is there."""
    passes = int(np.clip(PRESENTATIONS // len(images), 15, 200))
    identity = hashlib.sha256(repr((LAYERS, passes, images.shape)).encode())
    for array in (images, labels):
        identity.update(np.ascontiguousarray(array).data)
    path = cache and cache / f"{identity.hexdigest()[:32]}.npz"
    kept = path and _read(path)
    if kept:
        return kept
    log.info("training the classifier that judges (%d images, once)", len(images))
    classifier = _train(images, labels, passes)
    if path:
        _write(path, classifier)
    return classifier


def _train(images: np.ndarray, labels: np.ndarray, passes: int) -> Classifier:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier(LAYERS, random_state=0, max_iter=passes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(images, labels)
    return Classifier(network.coefs_, network.intercepts_)


def _read(path: Path) -> Classifier | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            layers = range(len(LAYERS) + 1)
            return Classifier([arrays[f"weight{k}"] for k in layers], [arrays[f"bias{k}"] for k in layers])
    except FileNotFoundError:
        return None
    except Exception as error:  # NumPy and zipfile raise many kinds; a damaged file is trained and written again
        log.warning("%s cannot be read (%s); training again", path, error)
        return None


def _write(path: Path, classifier: Classifier) -> None:
    """Keep the weights, under their own name only when complete; a cache that cannot be written costs time alone."""
    arrays = {f"{kind}{k}": array for kind, group in (("weight", classifier.weights), ("bias", classifier.biases))
              for k, array in enumerate(group)}
    partial = path.with_name(f".{os.getpid()}_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(partial, **arrays)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        log.warning("%s could not be written (%s)", path, error.strerror or error)
