"""The loss on images that training never sees."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from ddpm_ms import rng
from ddpm_ms import runtime as rt
from ddpm_ms.data import RandomAccessDataset
from ddpm_ms.diffusion import GaussianDiffusion
from ddpm_ms.diffusion.generation import evaluation_mode
from ddpm_ms.runtime import ranks
from ddpm_ms.training.ema import EMA


class Validation:
    """Mean loss of the averaged weights over held-out images, each with a noise level and a noise that never change.

    So the value moves with the weights alone, and a smaller one is a better network; the training loss moves mostly with
    the noise levels that were drawn. The levels are spread evenly over 0 .. T - 1.

    Args:
        diffusion: the process and its network.
        dataset: the held-out images.
        batch_size: images per evaluation and rank, so that there is one graph.
        seed: of the run.
        runtime: every rank computes its share.
    """

    def __init__(self, diffusion: GaussianDiffusion, dataset: RandomAccessDataset, batch_size: int, seed: int,
                 runtime: rt.Runtime) -> None:
        self.diffusion, self.dataset, self.runtime, self.seed = diffusion, dataset, runtime, seed
        self.batch_size = min(batch_size, -(-len(dataset) // runtime.world))
        spread = np.arange(len(dataset)) * diffusion.num_timesteps // len(dataset)
        self.times = rng.generator(seed, "validation_timestep").permutation(spread).astype(np.int32)
        self._losses = rt.compiled(diffusion.losses)

    def loss(self, ema: EMA) -> float:
        """All ranks must ask for it; on all of them it is the same."""
        count, portion = len(self.dataset), self.batch_size * self.runtime.world
        with ema.applied(), evaluation_mode(self.diffusion.model):
            losses = [ranks.gather(self._batch(first + self.runtime.rank * self.batch_size), self.runtime)
                      for first in range(0, count, portion)]
        return float(np.concatenate(losses)[:count].mean(dtype=np.float64))

    def _batch(self, first: int) -> np.ndarray:
        rows = np.arange(first, first + self.batch_size) % len(self.dataset)  # past the end: computed, then cut
        noise = rng.normal(self.seed, "validation_noise", 0, rows.tolist(), self.dataset.shape)
        conditional = getattr(self.diffusion.model, "num_classes", None)
        classes = Tensor(self.dataset.labels[rows].astype(np.int32)) if conditional else None
        images = Tensor(self.dataset.load(rows.tolist()))
        return self._losses(images, Tensor(self.times[rows]), Tensor(noise), False, classes, None).asnumpy()
