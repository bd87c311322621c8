"""How many bits the process needs to store an image of its data: the bound on the likelihood, as a metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddpm_ms.evaluation.subject import Subject
from ddpm_ms.runtime.ranks import Shares

IMAGES = 64  # unless more or fewer are asked for


@dataclass(frozen=True)
class BitsPerDimReport:
    """The variational bound on -log2 p(data) in bits per dimension, and two of its terms; each (N,)."""

    total: np.ndarray
    prior: np.ndarray
    decoder: np.ndarray
    variance: str  # of the process

    @property
    def numbers(self) -> dict[str, float]:
        """For evaluations.jsonl."""
        return {"bits_per_dim": self.total.mean(), "prior": self.prior.mean(), "decoder": self.decoder.mean()}

    def __str__(self) -> str:
        count = len(self.total)
        return (f"bits/dim: {self.total.mean():.4f} +- {self.total.std() / count ** 0.5:.4f} over {count} images "
                f"(prior {self.prior.mean():.4f}, decoder {self.decoder.mean():.4f}, variance {self.variance})")


def bits_per_dim(subject: Subject) -> BitsPerDimReport:
    """The bound over images of the run's data, evenly spread; each rank its share, T network evaluations a batch.

    Raises:
        InputError: options of sampling other than the seed are given.
    """
    subject.refuse_options("bits_per_dim", but=("seed",))
    diffusion, dataset, runtime = subject.diffusion, subject.dataset, subject.runtime
    count = min(subject.count or IMAGES, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    labels = dataset.labels if diffusion.num_classes else None
    shares = Shares(count, subject.batch_size, runtime)
    with subject.progress(shares.rounds * diffusion.num_timesteps, active=runtime.rank == 0) as bar:

        def terms(numbers: range) -> np.ndarray:
            rows = chosen[np.array(numbers) % count]  # the last batch is filled up and cut: another size would be another graph
            bound = diffusion.bits_per_dim(dataset.load(rows), seed=subject.sampling.seed, first_index=numbers.start,
                                           classes=None if labels is None else labels[rows].tolist(),
                                           callback=lambda done, of: bar.update())
            return np.stack([bound.total, bound.prior, bound.vb[:, 0]], 1).astype(np.float32)

        total, prior, decoder = shares.collect(terms).T
    return BitsPerDimReport(total, prior, decoder, diffusion.variance)
