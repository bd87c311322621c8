"""What `ddpm-ms evaluate --metric` calls the comparisons of two sides, and what each of them needs to know of a side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from ddpm_ms.errors import InputError
from ddpm_ms.evaluation import metrics
from ddpm_ms.evaluation.metrics import Gaussian, Score

STATISTICS = ("pool", "spatial")  # the fields of `Measured` that are a mean and a covariance


@dataclass(frozen=True)
class Measured:
    """What is known of a side; None: was not asked for."""

    pool: Gaussian | None = None  # of `Extracted.pool`
    spatial: Gaussian | None = None  # of `Extracted.spatial`
    rows: np.ndarray | None = None  # `Extracted.pool` of every image, float32 (N, width)
    logits: np.ndarray | None = None  # `Extracted.logits` of every image, float32 (N, K)


@dataclass(frozen=True)
class Comparison:
    """A number that two sides give.

    Args:
        needs: which field of `Measured`.
        compute: (that field of what is judged, of what it is judged against) -> the number.
        least: images that each side must have.
        alone: only what is judged is looked at.
        higher: a larger number is a better one.
    """

    needs: str
    compute: Callable[[Any, Any], Score]
    least: int = 1
    alone: bool = False
    higher: bool = False

    def __call__(self, judged: Measured, against: Measured) -> Score:
        """The number; both have what is needed."""
        return self.compute(getattr(judged, self.needs), getattr(against, self.needs))

    @property
    def of_statistics(self) -> bool:
        """Whether a mean and a covariance are enough."""
        return self.needs in STATISTICS


def _frechet(a: Gaussian, b: Gaussian) -> Score:
    if a.mean.shape != b.mean.shape:  # of files: images were checked
        raise InputError(f"statistics are of {len(a.mean)} and {len(b.mean)} numbers an image, allowed: the same")
    return Score(metrics.frechet(a, b))


fid = Comparison("pool", _frechet, least=2)
sfid = Comparison("spatial", _frechet, least=2)
kid = Comparison("rows", metrics.kid, least=2)
mind = Comparison("rows", lambda x, y: Score(metrics.mind(x, y)))
precision = Comparison("rows", lambda x, y: Score(metrics.covered(x, y)), least=metrics.NEIGHBOURS + 1, higher=True)
recall = Comparison("rows", lambda x, y: Score(metrics.covered(y, x)), least=metrics.NEIGHBOURS + 1, higher=True)
inception_score = Comparison("logits", lambda x, _: metrics.inception_score(x), least=metrics.SPLITS, alone=True,
                             higher=True)
