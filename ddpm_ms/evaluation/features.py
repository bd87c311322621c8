"""Features: what a metric sees of an image. Metrics compare the features of two sets of images, whatever computes them.

Features are a `Features`; `ddpm_ms.parts` names functions that make them of a `FeatureRequest`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Sequence

import numpy as np

from ddpm_ms.config import DataConfig
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.classifier import Classifier, classifier_judge


class Extracted(NamedTuple):
    """What features say of N images; None where they have no such thing."""

    pool: np.ndarray  # float32 (N, width): what distances are measured in
    logits: np.ndarray | None = None  # float32 (N, K), of classes: what the Inception Score is made of
    spatial: np.ndarray | None = None  # float32 (N, M), from which places in the image can be told: sFID


class Features(Protocol):
    """Computes features; numbers compare between images of equal ``identity`` and no others."""

    @property
    def name(self) -> str:
        """As `ddpm_ms.parts.FEATURES` has it."""

    @property
    def identity(self) -> str:
        """One line with everything that the numbers depend on: name, hash of the weights, how images are resized."""

    @property
    def width(self) -> int:
        """Of ``pool``."""

    @property
    def gives(self) -> Sequence[str]:
        """Which fields of `Extracted` there are."""

    def __call__(self, images: np.ndarray) -> Extracted:
        """Features of images, float32 (N, C, H, W) in [0, 1], of values that 8 bits hold, k / 255.

        All batches of one set have one size. Row k depends on image k alone, up to rounding.
        """


@dataclass(frozen=True)
class FeatureRequest:
    """What features are to be made for.

    Args:
        shape: (C, H, W) of the images.
        data: of the run or the data set that is judged; None where there is none.
        weights: file that the user names.
        protocol: how images are resized and normalised, for features that know several ways; None: the usual one.
    """

    shape: tuple[int, int, int]
    data: DataConfig | None = None
    weights: str | None = None
    protocol: str | None = None

    def refuse_protocol(self, name: str) -> None:
        """Raise `InputError` where there is a protocol or a file of weights, for features that take none."""
        for option, value in (("--protocol", self.protocol), ("--inception", self.weights)):
            if value is not None:
                raise InputError(f"{option} is {value}, allowed with --features {name}: none")


@dataclass(frozen=True)
class Pixels:
    """The images themselves, one number for each value of each pixel: for small images, and without any network."""

    shape: tuple[int, int, int]
    name: str = "pixels"
    gives: tuple[str, ...] = ("pool",)

    @property
    def identity(self) -> str:
        """See `Features`."""
        return f"pixels {'x'.join(map(str, self.shape))}"

    @property
    def width(self) -> int:
        """See `Features`."""
        return int(np.prod(self.shape))

    def __call__(self, images: np.ndarray) -> Extracted:
        """See `Features`."""
        return Extracted(images.reshape(len(images), -1).astype(np.float32))


class ClassifierFeatures:
    """The last hidden layer and the logits of a `Classifier`.

    Args:
        name: of the features.
        classifier: trained.
    """

    gives = ("pool", "logits")

    def __init__(self, name: str, classifier: Classifier) -> None:
        self.name, self._classifier = name, classifier
        digest = hashlib.sha256()
        for array in (*classifier.weights, *classifier.biases):
            digest.update(np.ascontiguousarray(array, np.float64).data)
        self.identity = f"{name} {digest.hexdigest()[:16]}"
        self.width = classifier.weights[-1].shape[0]

    def __call__(self, images: np.ndarray) -> Extracted:
        """See `Features`."""
        hidden = self._classifier.features(images)
        return Extracted(hidden.astype(np.float32), self._classifier.logits(hidden).astype(np.float32))


@dataclass(frozen=True)
class OfStatistics:
    """Features that only files of statistics name: no image is at hand."""

    identity: str
    width: int
    name: str = "of the statistics"
    gives: tuple[str, ...] = ("pool", "spatial")

    def __call__(self, images: np.ndarray) -> Extracted:
        """Never: there are no images."""
        raise InputError(f"images beside {self.name}, allowed: none")


def pixels(request: FeatureRequest) -> Pixels:
    """The images themselves."""
    request.refuse_protocol("pixels")
    return Pixels(request.shape)


def digits(request: FeatureRequest) -> ClassifierFeatures:
    """What the classifier of scikit-learn's digits, 1x8x8, sees; it is trained once.

    Raises:
        InputError: the images are no such size.
    """
    request.refuse_protocol("digits")
    if tuple(request.shape) != (1, 8, 8):
        raise InputError(f"images are {'x'.join(map(str, request.shape))}, allowed with --features digits: 1x8x8")
    judge = classifier_judge(DataConfig(name="digits", image_size=8, channels=1))
    return ClassifierFeatures("digits", judge.classifier)
