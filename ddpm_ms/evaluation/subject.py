"""What a metric is given: a checkpoint to judge, and how it was asked to.

A metric is a function of a `Subject` that returns a report; `ddpm_ms.parts` names it. ``str(report)`` is printed. Where the
report has an attribute ``numbers``, a mapping of names to numbers, these go into the run's evaluations.jsonl. Where the
report has an attribute ``passed`` that is not None, that decides the exit status, and its ``requirement`` says what was needed.

Every rank calls the metric. `Subject.draw` shares its images among the ranks and gives all of them to each; only rank 0's
report is printed, so what is slow and not shared is done where ``subject.runtime.rank`` is 0.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Callable, ContextManager, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from ddpm_ms.config import Config, SamplingConfig, override_section
from ddpm_ms.data import RandomAccessDataset, create_dataset
from ddpm_ms.errors import InputError
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.runtime import Runtime


def hidden_progress(total: int, active: bool = True) -> ContextManager[Any]:
    """A bar that nobody sees."""
    return tqdm(total=total, disable=True)


@dataclass(frozen=True)
class Subject:
    """A checkpoint to judge.

    Args:
        diffusion: with the checkpoint's weights, ready to sample.
        config: of the checkpoint's run.
        runtime: of this process.
        drawing: (how to sample, how many) -> images (N, C, H, W) in [0, 1], the same on every rank.
        count: images to judge by; None: as many as the metric sees fit.
        batch_size: images per network evaluation.
        classes: labels to draw, repeated over the images; None: all in turn.
        options: texts of `SamplingConfig` that differ from the run's.
        progress: (steps, whether to show it) -> a bar with ``update``, as a context. Default: none is shown.
    """

    diffusion: GaussianDiffusion
    config: Config
    runtime: Runtime
    drawing: Callable[[SamplingConfig, int], np.ndarray]
    count: int | None = None
    batch_size: int = 64
    classes: Sequence[int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[..., ContextManager[Any]] = hidden_progress

    @functools.cached_property
    def dataset(self) -> RandomAccessDataset:
        """The real images: the data that the run was trained on."""
        return create_dataset(self.config.data)

    @functools.cached_property
    def sampling(self) -> SamplingConfig:
        """The run's way of sampling, with what was asked otherwise."""
        return override_section(self.config.sampling, dict(self.options))

    def draw(self, count: int) -> np.ndarray:
        """Samples (count, C, H, W) in [0, 1]."""
        return self.drawing(self.sampling, count)

    def labels(self, count: int) -> np.ndarray | None:
        """What `draw` asks the network for, (count,); None of a network without classes."""
        classes = getattr(self.diffusion.model, "num_classes", None)
        return np.resize(self.classes or np.arange(classes), count) if classes else None

    def refuse_options(self, metric: str, but: Sequence[str]) -> None:
        """Of a metric that draws no samples: raise `InputError` where other options of sampling than ``but`` are given."""
        given = [*self.options, *(["classes"] if self.classes is not None else [])]
        for name in sorted(set(given) - set(but)):
            raise InputError(f"--{name.replace('_', '-')} with --metric {metric}, which draws no samples, allowed: "
                             f"{', '.join(f'--{name}' for name in but)}")
