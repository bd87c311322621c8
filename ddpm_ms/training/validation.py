"""The loss on images that training never sees."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from ddpm_ms import rng
from ddpm_ms import runtime as rt
from ddpm_ms.data import RandomAccessDataset
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.runtime.ranks import Shares
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
        self.diffusion, self.dataset, self.seed = diffusion, dataset, seed
        self.shares = Shares(len(dataset), batch_size, runtime)
        spread = np.arange(len(dataset)) * diffusion.num_timesteps // len(dataset)
        self.times = rng.generator(seed, "validation_timestep").permutation(spread).astype(np.int32)
        self._losses = rt.compiled(diffusion.losses)

    def loss(self, ema: EMA) -> float:
        """All ranks must ask for it; on all of them it is the same."""
        with ema.applied(), self.diffusion.evaluating():
            return float(self.shares.collect(self._batch).mean(dtype=np.float64))

    def _batch(self, numbers: range) -> np.ndarray:
        rows = np.array(numbers) % len(self.dataset)  # past the end: computed, then cut
        noise = rng.normal(self.seed, "validation_noise", 0, rows.tolist(), self.dataset.shape)
        labels = self.dataset.labels if self.diffusion.num_classes else None
        classes = None if labels is None else Tensor(labels[rows].astype(np.int32))
        images = Tensor(self.dataset.load(rows.tolist()))
        return self._losses(images, Tensor(self.times[rows]), Tensor(noise), False, classes, None).asnumpy()
