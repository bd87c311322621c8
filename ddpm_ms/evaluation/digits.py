"""Are samples of the digits recipe digits? A small classifier says, beside what it says of real ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.frechet import frechet_distance

SAMPLES = 256
CONFIDENT = 0.9
MIN_CONFIDENT, MAX_DISTANCE_RATIO = 0.8, 2.0


@dataclass(frozen=True)
class DigitsReport:
    """What the classifier says of samples, and of as many real digits that it was not trained on."""

    confident: float  # fraction of samples with a class probability of at least 0.9
    real_confident: float
    classes: int  # how many of the ten classes appear
    distance: float  # Frechet distance to the training digits in the last hidden layer
    real_distance: float
    agree: float | None = None  # fraction of samples that are recognised as the class that was asked for

    @property
    def passed(self) -> bool:
        """At least 80 % confident, all ten classes, and at most twice the distance of real digits."""
        return (self.confident >= MIN_CONFIDENT and self.classes == 10
                and self.distance <= MAX_DISTANCE_RATIO * self.real_distance)

    def __str__(self) -> str:
        asked = "" if self.agree is None else f"recognised as the class asked for: {self.agree:.1%}\n"
        return (f"digits recognised with p >= {CONFIDENT}: {self.confident:.1%} (needed {MIN_CONFIDENT:.0%}, real digits "
                f"{self.real_confident:.1%})\nclasses seen: {self.classes} of 10\n{asked}"
                f"Frechet distance: {self.distance:.2f} (allowed {MAX_DISTANCE_RATIO * self.real_distance:.2f}, real digits "
                f"{self.real_distance:.2f})\n{'PASSED' if self.passed else 'FAILED'}")


class DigitsClassifier:
    """scikit-learn's ``MLPClassifier((128, 64), random_state=0)`` trained on 70 % of the real digits."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import train_test_split
        from sklearn.neural_network import MLPClassifier

        digits = load_digits()
        images, held_out, labels, _ = train_test_split(digits.data / 16, digits.target, train_size=0.7, random_state=0,
                                                       stratify=digits.target)
        self._network = MLPClassifier((128, 64), random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._network.fit(images, labels)
        self.train_images, self.held_out = images, held_out[:SAMPLES]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities (N, 10) of images in [0, 1], (N, 64) or (N, 1, 8, 8)."""
        return self._network.predict_proba(images.reshape(len(images), -1))

    def features(self, images: np.ndarray) -> np.ndarray:
        """The last hidden layer's activations (N, 64)."""
        hidden = images.reshape(len(images), -1)
        for weight, bias in zip(self._network.coefs_[:-1], self._network.intercepts_[:-1]):
            hidden = np.maximum(hidden @ weight + bias, 0)
        return hidden


def evaluate_digits(images: np.ndarray, classifier: DigitsClassifier | None = None,
                    asked: np.ndarray | None = None) -> DigitsReport:
    """Judge samples (N, 1, 8, 8) in [0, 1]; N should be 256 for numbers that compare. ``asked`` (N,): the labels that they
    were asked for, if any.

    Raises:
        InputError: images of another shape.
    """
    if images.ndim != 4 or images.shape[1:] != (1, 8, 8):
        raise InputError(f"images have shape {images.shape}, allowed: (N, 1, 8, 8), what the digits recipe makes")
    classifier = classifier or DigitsClassifier()
    probabilities, real = classifier.probabilities(images), classifier.probabilities(classifier.held_out)
    reference = classifier.features(classifier.train_images)
    return DigitsReport(
        confident=float((probabilities.max(1) >= CONFIDENT).mean()),
        real_confident=float((real.max(1) >= CONFIDENT).mean()),
        classes=len(set(probabilities.argmax(1))),
        distance=frechet_distance(classifier.features(images), reference),
        real_distance=frechet_distance(classifier.features(classifier.held_out), reference),
        agree=None if asked is None else float((probabilities.argmax(1) == asked).mean()),
    )
