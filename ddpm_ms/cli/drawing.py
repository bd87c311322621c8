"""Drawing a count of images: batch by batch, every rank its share, with a bar, and frames for an animation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Sequence

import numpy as np

from ddpm_ms.cli.options import progress
from ddpm_ms.config import SamplingConfig
from ddpm_ms.runtime import Runtime
from ddpm_ms.runtime.ranks import Shares

if TYPE_CHECKING:  # they load MindSpore
    from ddpm_ms.sampling.batch import Samples
    from ddpm_ms.sampling.pipeline import SamplingPipeline

GIF_IMAGES = 16  # as many of the images as an animation shows

# (numbers of the images, classes=, callback=) -> `Samples`
DrawBatch = Callable[..., "Samples"]


@dataclass(frozen=True)
class Drawing:
    """What was drawn, on every rank, and what it took."""

    images: np.ndarray  # (N, C, H, W) in [0, 1]
    frames: list[np.ndarray]  # of the first images before they were done, each (at most 16, C, H, W) in [0, 1]
    nfe: int  # network evaluations of a batch
    seconds: float

    @property
    def speed(self) -> str:
        """In words."""
        return f"NFE {self.nfe}, {len(self.images) / self.seconds:.2f} images/s"


def from_noise(pipeline: SamplingPipeline, options: SamplingConfig) -> DrawBatch:
    """What draws a batch of images from noise."""

    def draw_batch(numbers: range, **keywords: Any) -> Samples:
        return pipeline.sample(len(numbers), options, first_index=numbers.start, **keywords)

    return draw_batch


def draw(draw_batch: DrawBatch, count: int, batch_size: int, runtime: Runtime, classes: Sequence[int] | None = None,
         with_frames: bool = False) -> Drawing:
    """Draw images 0 .. ``count`` - 1.

    Args:
        draw_batch: what draws the images of some numbers.
        count: how many.
        batch_size: how many a rank draws at once.
        runtime: the ranks.
        classes: labels, repeated over the images.
        with_frames: keep frames of the first batch.
    """
    from ddpm_ms.visual import frame_steps

    shares, frames, nfe = Shares(count, batch_size, runtime), [], 0
    began = time.perf_counter()
    with progress(active=runtime.rank == 0) as bar:

        def draw_share(numbers: range) -> np.ndarray:
            def observe(done: int, transitions: int, x: Any) -> None:
                bar.total = shares.rounds * transitions
                bar.update(done > 0)
                # The last state is the result, which is had anyway.
                if with_frames and numbers == shares.batches[0] and done < transitions and done in frame_steps(transitions):
                    frames.append((x.asnumpy()[:GIF_IMAGES] + 1) / 2)

            nonlocal nfe
            labels = classes and [classes[number % len(classes)] for number in numbers]
            samples = draw_batch(numbers, classes=labels, callback=observe)
            nfe = samples.nfe
            return samples.images

        images = shares.collect(draw_share)
    return Drawing(images, frames, nfe, time.perf_counter() - began)
