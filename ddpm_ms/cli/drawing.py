"""Drawing a count of images: batch by batch, every rank its share, with a bar, and frames for an animation."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Sequence

import numpy as np

from ddpm_ms.config import SamplingConfig
from ddpm_ms.progress import duration, progress
from ddpm_ms.runtime import Runtime
from ddpm_ms.runtime.ranks import Shares

if TYPE_CHECKING:  # they load MindSpore
    from ddpm_ms.sampling.batch import Samples
    from ddpm_ms.sampling.pipeline import SamplingPipeline

log = logging.getLogger("ddpm_ms")

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
    images_per_second: float | None  # once compiled; None where the first transition was all

    @property
    def speed(self) -> str:
        """In words."""
        pace = "" if self.images_per_second is None else f"{self.images_per_second:.2f} images/s once compiled, "
        return f"NFE {self.nfe}, {pace}{duration(self.seconds)} in all"


def from_noise(pipeline: SamplingPipeline, options: SamplingConfig) -> DrawBatch:
    """What draws a batch of images from noise."""

    def draw_batch(numbers: range, **keywords: Any) -> Samples:
        return pipeline.sample(len(numbers), options, first_index=numbers.start, **keywords)

    return draw_batch


def draw(draw_batch: DrawBatch, count: int, batch_size: int, runtime: Runtime, classes: Sequence[int] | None = None,
         with_frames: bool = False, first: int = 0, each_round: Callable[[np.ndarray], None] | None = None) -> Drawing:
    """Draw images ``first`` .. ``first + count - 1``.

    Args:
        draw_batch: what draws the images of some numbers.
        count: how many.
        batch_size: how many a rank draws at once.
        runtime: the ranks.
        classes: labels, repeated over the images.
        with_frames: keep frames of the first batch.
        first: number of the first image.
        each_round: called, on every rank, with the images of all ranks whenever a batch of each is done.
    """
    from ddpm_ms.visual import frame_steps

    shares, frames, nfe = Shares(count, batch_size, runtime), [], 0
    if runtime.rank == 0:
        log.info("drawing %d images (the first step compiles)", count)
    began, clock = time.perf_counter(), _Clock()
    with progress(active=runtime.rank == 0, what="drawing") as bar:

        def draw_share(numbers: range) -> np.ndarray:
            def observe(done: int, transitions: int, x: Any) -> None:
                bar.total = shares.rounds * transitions
                bar.update(done > 0)
                clock.tick(done)
                # The last state is the result, which is had anyway.
                if with_frames and numbers == shares.batches[0] and done < transitions and done in frame_steps(transitions):
                    frames.append((x.asnumpy()[:GIF_IMAGES] + 1) / 2)

            nonlocal nfe
            labels = classes and [classes[(first + number) % len(classes)] for number in numbers]
            samples = draw_batch(range(first + numbers.start, first + numbers.stop), classes=labels, callback=observe)
            nfe = samples.nfe
            return samples.images

        rounds = []
        for images in shares.rows(draw_share):
            rounds.append(images)
            if each_round is not None:
                each_round(images)
    pace = clock.seconds_per_transition()
    whole = None if pace is None else shares.batch_size * runtime.world / (pace * clock.transitions / shares.rounds)
    return Drawing(np.concatenate(rounds), frames, nfe, time.perf_counter() - began, whole)


class _Clock:
    """Times the transitions of all batches but the first one, in which the network is compiled."""

    def __init__(self) -> None:
        self.transitions = 0
        self._since: float | None = None

    def tick(self, done: int) -> None:
        """A transition ended, or with ``done`` 0 a batch began."""
        self.transitions += done > 0
        if self._since is None and done > 0:
            self._since = time.perf_counter()

    def seconds_per_transition(self) -> float | None:
        """Now that all images are there (a device may still compute when a transition has ended); None without a second one."""
        if self._since is None or self.transitions < 2:
            return None
        return (time.perf_counter() - self._since) / (self.transitions - 1)
