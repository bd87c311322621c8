"""What a micro-batch consists of, but for its noise levels, as a pure function of (seed, step)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Callable, Tuple

import numpy as np

from ddpm_ms import rng
from ddpm_ms.errors import InputError

Normal = Callable[[str, Tuple[int, ...]], np.ndarray]  # (purpose, shape) -> standard normal float32 (B, *shape)


def independent(images: np.ndarray, normal: Normal) -> np.ndarray:
    """Noise that has nothing to do with the ``images`` (B, C, H, W) of a micro-batch."""
    return normal("noise", images.shape[1:])


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of one gradient, on the host."""

    positions: range  # in the stream of the data set
    samples: slice  # in the global batch of the step
    images: np.ndarray  # float32 (B, C, H, W) in [0, 1]
    noise: np.ndarray  # float32 (B, C, H, W)
    dropout_key: np.ndarray | None  # float32 (B,) in [1, 2)
    classes: np.ndarray | None  # int32 (B,), num_classes where the label is hidden


@dataclass(frozen=True)
class BatchSource:
    """Draws micro-batches. Sample i of step n is the same whatever the accumulation and the number of ranks (but for its noise,
    where that is chosen within the micro-batch).

    Args:
        dataset: see `ddpm_ms.data`.
        batch_size: images per rank and micro-batch.
        accumulate_every: micro-batches per optimizer step.
        seed: of the run.
        rank, world: this process among how many.
        horizontal_flip: mirror each image with probability 1/2.
        dropout: whether the network wants dropout keys.
        num_classes: of the network; None if it takes no labels.
        label_dropout: probability that an image's label is hidden from the network.
        draw_noise: makes the noise of a micro-batch of standard normal numbers, see `GaussianDiffusion.draw_noise`.
    """

    dataset: Any
    batch_size: int
    accumulate_every: int
    seed: int
    rank: int = 0
    world: int = 1
    horizontal_flip: bool = False
    dropout: bool = False
    num_classes: int | None = None
    label_dropout: float = 0.0
    draw_noise: Callable[[np.ndarray, Normal], np.ndarray] = independent

    @property
    def images_per_step(self) -> int:
        """Images of one optimizer step over all ranks."""
        return self.batch_size * self.accumulate_every * self.world

    def step(self, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of optimizer step ``step`` (from 0)."""
        try:
            return [self._micro_batch(step, micro) for micro in range(self.accumulate_every)]
        except InputError as error:  # an image that could be read when training began
            raise InputError(f"step {step + 1}: {error}") from None

    def self_condition(self, step: int) -> bool:
        """The coin of step ``step``: one for all its images on all ranks, because it chooses the graph."""
        return bool(rng.generator(self.seed, "self_condition", step).random() < 0.5)

    def _micro_batch(self, step: int, micro: int) -> MicroBatch:
        start = (micro * self.world + self.rank) * self.batch_size
        samples = slice(start, start + self.batch_size)
        positions = range(step * self.images_per_step + samples.start, step * self.images_per_step + samples.stop)
        images = self.dataset.take(positions, self.seed)
        if self.horizontal_flip:
            flip = self._draw("flip", step)[samples] < 0.5
            images[flip] = images[flip, :, :, ::-1]
        noise = self.draw_noise(images, functools.partial(self._normal, step, samples))
        keys = (1 + self._draw("dropout", step)[samples]).astype(np.float32) if self.dropout else None
        classes = self._classes(step, samples, positions, self.num_classes) if self.num_classes else None
        return MicroBatch(positions, samples, images, noise, keys, classes)

    def _classes(self, step: int, samples: slice, positions: range, hidden_class: int) -> np.ndarray:
        labels = self.dataset.take_labels(positions, self.seed)
        hidden = self._draw("label_dropout", step)[samples] < self.label_dropout
        return np.where(hidden, hidden_class, labels).astype(np.int32)

    def _normal(self, step: int, samples: slice, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(self.seed, purpose, step, range(samples.start, samples.stop), shape)

    def _draw(self, purpose: str, step: int) -> np.ndarray:
        """One number in [0, 1) for every image of the step over all ranks."""
        return rng.generator(self.seed, purpose, step).random(self.images_per_step)
