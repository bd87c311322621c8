"""A small residual network that is trained on a data set's own labels, and whose last hidden layer serves as features.

That makes numbers comparable that were measured with the same classifier, and no others; but it needs nothing from outside.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from ddpm_ms import runtime
from ddpm_ms.config import DataConfig, replace
from ddpm_ms.data.array_files import read_arrays
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.classifier import chosen_images
from ddpm_ms.evaluation.features import Extracted, FeatureRequest
from ddpm_ms.evaluation.statistics import write_arrays
from ddpm_ms.models.layers import GroupNorm, conv
from ddpm_ms.parts import DATASETS
from ddpm_ms.progress import progress
from ddpm_ms.runtime.caches import CLASSIFIERS
from ddpm_ms.visual import to_uint8

log = logging.getLogger("ddpm_ms")

WIDTH = 64  # of the features
NARROWEST, WIDEST = 16, 128  # channels, which double where the size is halved
SMALLEST = 7  # pixels of a side, down to which it is halved
SEED, BATCH, RATE = 0, 64, 2e-3
PRESENTATIONS, PASSES = 200_000, (3, 60)  # images that training sees; passes over all of them, at least and at most
HELD_OUT = 10  # one of so many images is not trained on, but counted
ACCURACY = "accuracy"  # in the file, beside the weights


class ResidualClassifier(nn.Cell):
    """Residual blocks (arXiv:1603.05027) with group norm, so that an image is seen alike in any batch.

    Args:
        shape: (C, H, W) of the images.
        classes: how many.

    Inputs:
        x (B, C, H, W) in [-1, 1]; returns hidden (B, 64), at least 0, and logits (B, classes).
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        width, blocks, side = NARROWEST, [_Residual(NARROWEST, NARROWEST, 1)], min(shape[1:])
        while side > SMALLEST:
            wider, side = min(2 * width, WIDEST), (side + 1) // 2
            blocks.append(_Residual(width, wider, 2))
            width = wider
        self.stem, self.blocks = conv(shape[0], NARROWEST, 3), nn.SequentialCell(blocks)
        self.norm, self.act = GroupNorm(width), nn.ReLU()
        self.hidden, self.logits = nn.Dense(width, WIDTH), nn.Dense(WIDTH, classes)
        self.reshape, self.mean = ops.Reshape(), ops.ReduceMean()

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = self.act(self.norm(self.blocks(self.stem(x))))
        batch, channels = x.shape[0], x.shape[1]
        means = self.reshape(self.mean(self.reshape(x, (batch * channels, -1)), 1), (batch, channels))
        hidden = self.act(self.hidden(means))
        return hidden, self.logits(hidden)


class _Residual(nn.Cell):
    def __init__(self, dim: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.act = GroupNorm(dim), GroupNorm(dim_out), nn.ReLU()
        self.conv1, self.conv2 = conv(dim, dim_out, 3, stride), conv(dim_out, dim_out, 3)
        self.skip = nn.Identity() if stride == 1 else conv(dim, dim_out, 1, stride)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.norm2(self.conv1(self.act(self.norm1(x)))))) + self.skip(x)


class _Training(nn.Cell):
    """One optimizer step, as a graph."""

    def __init__(self, network: ResidualClassifier, rates: list[float]) -> None:
        super().__init__()
        self.network = network
        self.weights = ParameterTuple(network.trainable_params())
        self.optimizer = nn.Adam(self.weights, rates)
        self.loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
        self.value_and_grad = ms.value_and_grad(self._loss, None, self.weights)
        self.step = runtime.compiled(self._step)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self.network(images)[1], labels)

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        loss, gradients = self.value_and_grad(images, labels)
        return ops.depend(loss, self.optimizer(gradients))


@dataclass(frozen=True)
class LabelledImages:
    """What a classifier is trained on: images uint8 (N, C, H, W), the number of the class of each, int32 (N,), the labels that
    the data gives to classes, and where its weights are kept."""

    images: np.ndarray
    numbers: np.ndarray
    classes: np.ndarray
    name: str

    @property
    def path(self) -> Path:
        """The name follows from the images, the labels and how training goes."""
        recipe = (WIDTH, NARROWEST, WIDEST, SMALLEST, SEED, BATCH, RATE, PRESENTATIONS, PASSES, HELD_OUT)
        digest = hashlib.sha256(repr((recipe, self.images.shape)).encode())
        digest.update(self.images.data)
        digest.update(self.classes[self.numbers].data)
        return runtime.cache_dir() / CLASSIFIERS / f"residual_{digest.hexdigest()[:32]}.npz"

    def network(self) -> ResidualClassifier:
        """With its initial weights."""
        runtime.seed_weights(SEED)
        channels, height, width = self.images.shape[1:]
        return ResidualClassifier((channels, height, width), len(self.classes))


def labelled_images(config: DataConfig) -> LabelledImages:
    """All images of a data set's part for training, or as many as a classifier looks at.

    Raises:
        InputError: it has no labels, or fewer than two classes.
    """
    dataset = DATASETS[config.name](replace(config, part="train"))  # at the size that it has, where it has one
    if dataset.labels is None:
        why = dataset.why_no_labels and f" ({dataset.why_no_labels})"
        raise InputError(f"data {config.name} has no labels{why}, allowed with a classifier: data with labels")
    rows = chosen_images(len(dataset), dataset.shape)
    classes, numbers = np.unique(dataset.labels[rows], return_inverse=True)
    if len(classes) < 2 or len(rows) < 2 * HELD_OUT:
        raise InputError(f"data {config.name} has {len(rows)} images of {len(classes)} class(es), allowed with a classifier: "
                         f"at least {2 * HELD_OUT} of 2")
    return LabelledImages(to_uint8(dataset.load(rows)), numbers.astype(np.int32), classes, config.name)


class ResidualFeatures:
    """The last hidden layer and the logits of a trained `ResidualClassifier` (see `ddpm_ms.evaluation.features.Features`).

    Args:
        data: that it was trained on.
        network: trained.
        accuracy: the share of the images held out that it recognises.
    """

    name, width, gives = "classifier", WIDTH, ("pool", "logits")

    def __init__(self, data: LabelledImages, network: ResidualClassifier, accuracy: float) -> None:
        self.network, self.accuracy, self.classes = network, accuracy, data.classes
        digest = hashlib.sha256()
        for _, parameter in network.parameters_and_names():
            digest.update(parameter.asnumpy().tobytes())
        self.identity = f"classifier of {data.name} {digest.hexdigest()[:16]} (accuracy {accuracy:.2%})"

    def recognised(self, images: np.ndarray) -> np.ndarray:
        """The labels (N,) of 8-bit images (N, C, H, W)."""
        numbers = [self.network(_inputs(images[first:first + BATCH]))[1].asnumpy().argmax(1)
                   for first in range(0, len(images), BATCH)]
        return self.classes[np.concatenate(numbers)]

    def __call__(self, images: np.ndarray) -> Extracted:
        """See `Features`."""
        hidden, logits = self.network(_inputs(to_uint8(images)))
        return Extracted(hidden.asnumpy(), logits.asnumpy())


def classifier(request: FeatureRequest) -> ResidualFeatures:
    """The features of the classifier that `train_classifier` left for the data.

    Raises:
        InputError: there is no data set, or no classifier of it, or the images have another shape.
    """
    request.refuse_protocol("classifier")
    if request.data is None:
        raise InputError("--features classifier without a data set on either side, allowed: a run, or a data set by name")
    found = labelled_images(request.data)
    if found.images.shape[1:] != tuple(request.shape):
        raise InputError(f"images are {'x'.join(map(str, request.shape))}, allowed with the classifier of data {found.name}: "
                         f"{'x'.join(map(str, found.images.shape[1:]))}")
    if not found.path.is_file():
        raise InputError(f"no classifier of data {found.name} is trained, allowed with --features classifier: first, once, "
                         "ddpm-ms evaluate --train-classifier, with the same --checkpoint, or with the data as --images")
    return _kept(found)


def train_classifier(config: DataConfig) -> ResidualFeatures:
    """Train the classifier of a data set and keep it, unless that was done before.

    Raises:
        InputError: from `labelled_images`; or the weights cannot be written.
    """
    found = labelled_images(config)
    if found.path.is_file():
        return _kept(found)
    order = np.random.default_rng(SEED).permutation(len(found.images))
    held_out, trained_on = np.split(order, [len(order) // HELD_OUT])
    network = found.network()
    _train(network, found, trained_on)
    recognised = ResidualFeatures(found, network, 0).recognised(found.images[held_out])
    accuracy = float((recognised == found.classes[found.numbers[held_out]]).mean())
    arrays = {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}
    try:
        write_arrays(found.path, {**arrays, ACCURACY: np.array(accuracy)})
    except OSError as error:
        raise InputError(f"the classifier {found.path} cannot be written: {error.strerror or error}") from None
    return ResidualFeatures(found, network, accuracy)


def _train(network: ResidualClassifier, found: LabelledImages, rows: np.ndarray) -> None:
    passes = int(np.clip(PRESENTATIONS // len(rows), *PASSES))
    steps = max(1, passes * len(rows) // BATCH)
    k = np.arange(steps)
    rates = RATE * np.minimum(1, (k + 1) / (0.05 * steps)) * (1 + np.cos(np.pi * k / steps)) / 2
    training = _Training(network.set_train(), rates.tolist())
    order = np.concatenate([np.random.default_rng([SEED, number]).permutation(rows) for number in range(passes + 1)])
    order = np.resize(order, steps * BATCH).reshape(steps, BATCH)
    with progress(steps, "step", True, f"classifier of {found.name}") as bar:
        for chosen in order:
            training.step(_inputs(found.images[chosen]), Tensor(found.numbers[chosen]))
            bar.update()
    network.set_train(False)


def _kept(found: LabelledImages) -> ResidualFeatures:
    """The classifier in the cache."""
    arrays: dict[str, Any] = read_arrays(found.path)
    network = found.network().set_train(False)
    for name, parameter in network.parameters_and_names():
        array = arrays.get(name)
        if array is None or array.shape != parameter.shape:
            raise InputError(f"the classifier {found.path} is damaged, allowed: delete it and train it again")
        parameter.set_data(Tensor(array, ms.float32))
    return ResidualFeatures(found, network, float(arrays[ACCURACY]))


def _inputs(images: np.ndarray) -> Tensor:
    """Of 8-bit images."""
    return Tensor(images.astype(np.float32) / 127.5 - 1)
