"""One batch of images while it is drawn: which images, from which noise, over which steps, with which predictions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Callable, Iterable, NamedTuple, Sequence

import numpy as np
from mindspore import Tensor

from ddpm_ms import rng
from ddpm_ms.config import SamplingConfig
from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.sampling.denoiser import Denoiser
from ddpm_ms.sampling.images import ImageSpace


class Samples(NamedTuple):
    """What was drawn, and what it took."""

    images: np.ndarray  # float32 (B, C, H, W) in the users' range; (B, transitions + 1, C, H, W) where all states were asked for
    nfe: int  # network evaluations; a batched pair of guidance counts as one
    seed: int


@dataclass(frozen=True)
class NoiseSource:
    """Standard normal noise, a function of the seed, the image's number and the transition alone.

    Args:
        seed: of the images.
        numbers: of each image of the batch; images of equal numbers have equal noise.
        shape: (C, H, W).
    """

    seed: int
    numbers: Sequence[int]
    shape: tuple[int, int, int]

    def __call__(self, transition: int) -> Tensor:
        """For the i-th transition; -1 is what sampling begins with."""
        return Tensor(self.array(transition))

    def array(self, transition: int, purpose: str = "sample") -> np.ndarray:
        """The same as an array, or other noise for another ``purpose`` of `ddpm_ms.rng`."""
        return rng.normal(self.seed, purpose, transition + 1, self.numbers, self.shape)


@dataclass(frozen=True)
class Batch:
    """What drawing and every kind of editing need.

    Args:
        denoise: predictions.
        schedule: of the process.
        steps: to visit, noisiest first, and then -1, the clean image.
        noise: of these images.
        space: their shape and range.
        options: how to draw.
        variance: of DDPM.
        callback: called at the beginning and after each transition with (transitions done, of how many, x as it is now).
    """

    denoise: Denoiser
    schedule: NoiseSchedule
    steps: list[int]
    noise: NoiseSource
    space: ImageSpace
    options: SamplingConfig
    variance: str
    callback: Callable[[int, int, Tensor], None] | None = None

    def __len__(self) -> int:
        return len(self.noise.numbers)

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Users' images, one for each of the batch or one for all, in [-1, 1]."""
        return self.space.normalize(images, len(self))

    def last(self, x: Tensor, states: Iterable[Tensor], observe: Callable[[int, Tensor], None] | None = None) -> Tensor:
        """The last of a sampler's ``states`` from ``x``; ``observe`` is shown ``x`` and each of them, with its number."""
        self.denoise.forget()
        for done, state in enumerate(itertools.chain([x], states)):
            if observe is not None:
                observe(done, state)
        return state

    def report(self, done: int, transitions: int, x: Tensor) -> None:
        """Call the callback, if there is one."""
        if self.callback is not None:
            self.callback(done, transitions, x)

    def samples(self, images: np.ndarray) -> Samples:
        """``images`` with what they took."""
        return Samples(images, self.denoise.nfe, self.noise.seed)
