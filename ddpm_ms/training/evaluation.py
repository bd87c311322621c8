"""Metrics of what the averaged weights draw, while they are trained."""

from __future__ import annotations

import logging
from typing import Any, Callable, Iterable

import numpy as np

from ddpm_ms.config import Config
from ddpm_ms.data import ArrayDataset
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.drawn import way_in_words
from ddpm_ms.evaluation.features import Extracted, FeatureRequest, Features
from ddpm_ms.evaluation.protocol import WIDEST
from ddpm_ms.evaluation.sides import of_dataset
from ddpm_ms.evaluation.yardstick import Yardstick
from ddpm_ms.parts import COMPARISONS, FEATURES
from ddpm_ms.runtime import Runtime
from ddpm_ms.visual import to_uint8

log = logging.getLogger("ddpm_ms")

NEEDED = {"rows": "pool"}  # field of `Measured` to that of `Extracted` which it is made of, where they differ


class Evaluation:
    """Compares drawn images with those that the run trains on.

    Args:
        config: of the run.
        dataset: what it trains on.
        runtime: every rank computes its share.
        check: called between batches, on every rank; what it raises ends an evaluation.

    Raises:
        InputError: the data, the features or the number of images do not serve the metrics.
    """

    def __init__(self, config: Config, dataset: Any, runtime: Runtime, check: Callable[[], None]) -> None:
        c = config.evaluation
        if not hasattr(dataset, "__len__"):
            raise InputError(f"evaluation.every is {c.every} with data that has no length, allowed: null")
        self.config, self.names = c, tuple(dict.fromkeys(c.metric))
        channels, height, width = dataset.shape
        features = FEATURES[c.features](FeatureRequest((channels, height, width), config.data))
        _check_metrics(self.names, c.images, len(dataset), features)
        against = of_dataset(f"the run's training data ({config.data.name})", dataset, {}, config.data)
        self._yardstick = Yardstick(against, self.names, _Checked(features, check), runtime)
        way = way_in_words({**dict(config.sampling), "steps": config.sampling.steps or config.diffusion.timesteps})
        self.what = f"{c.images} images, {way}, against the {len(dataset)} of training, in {features.identity}"

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether one comes after ``step``."""
        assert self.config.every is not None
        return step > 0 and (step % self.config.every == 0 or step == total_steps)

    def scores(self, drawn: Iterable[np.ndarray]) -> dict[str, float | None]:
        """The numbers on rank 0, nothing on the others; all of them must ask.

        Args:
            drawn: images (B, C, H, W) in [0, 1], batch by batch, the same on every rank. Where some are not finite there are no
                numbers.
        """
        parts = []
        for images in drawn:
            if not np.isfinite(images).all():
                log.warning("drawn images are not finite: nothing to measure")
                return dict.fromkeys(self.names)
            parts.append(to_uint8(images))
        pixels = np.concatenate(parts)
        return {**self._yardstick.scores(of_dataset("drawn", ArrayDataset(pixels, pixels.shape[1]), {}))}


class _Checked:
    """`Features` that ask before each batch whether to go on."""

    def __init__(self, features: Features, check: Callable[[], None]) -> None:
        self.name, self.identity, self.width, self.gives = features.name, features.identity, features.width, features.gives
        self._features, self._check = features, check

    def __call__(self, images: np.ndarray) -> Extracted:
        self._check()
        return self._features(images)


def _check_metrics(names: Iterable[str], drawn: int, real: int, features: Features) -> None:
    """Both sides have enough images, and the features what the metrics need."""
    served = [name for name, other in COMPARISONS.items() if NEEDED.get(other.needs, other.needs) in features.gives
              and not (other.of_statistics and features.width > WIDEST)]
    for name in names:
        comparison = COMPARISONS[name]
        if name not in served:
            raise InputError(f"evaluation.metric is {name}, allowed with evaluation.features={features.name}: "
                             f"{', '.join(served)}")
        if drawn < comparison.least:
            raise InputError(f"evaluation.images is {drawn}, allowed with evaluation.metric={name}: at least {comparison.least}")
        if not comparison.alone and real < comparison.least:
            raise InputError(f"evaluation.metric is {name} with {real} training image(s), allowed: at least {comparison.least}")
