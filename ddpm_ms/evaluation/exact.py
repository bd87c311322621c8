"""Data whose diffusion is known exactly: Gaussian mixtures, for which the best network is a formula.

What a sampler makes with it is its own error and nobody else's: how far it drifts from the exact solution.

    python -m ddpm_ms.evaluation.exact    # what the table of samplers in docs/sampling.md measures
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import numpy as np

from ddpm_ms.diffusion.objectives import Prediction, noise_from_start
from ddpm_ms.diffusion.schedules import NoiseSchedule, create_schedule
from ddpm_ms.parts import SAMPLERS
from ddpm_ms.sampling.samplers.order import order_of
from ddpm_ms.sampling.spacing import sampling_steps


@dataclass(frozen=True)
class GaussianMixture:
    """Sum of Gaussians with diagonal covariance; float64 arrays.

    Args:
        weights: (K,), of sum 1.
        means: (K, D).
        deviations: (K, D).
    """

    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """``count`` points of the data, (count, D)."""
        which = generator.choice(len(self.weights), count, p=self.weights)
        return self.means[which] + self.deviations[which] * generator.standard_normal((count, self.means.shape[1]))

    def denoiser(self, schedule: NoiseSchedule) -> Callable:
        """(x (N, D), t) -> `Prediction` of the best possible network: x0 is E[x0 | x], eps follows."""

        def denoise(x: np.ndarray, t: int) -> Prediction:
            alpha, sigma = schedule.alpha_sigma(t)
            variance = (alpha * self.deviations) ** 2 + sigma**2  # of x in each component, (K, D)
            away = x[:, None] - alpha * self.means  # (N, K, D)
            log_density = np.log(self.weights) - 0.5 * (away**2 / variance + np.log(variance)).sum(2)
            share = np.exp(log_density - log_density.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            each = self.means + alpha * self.deviations**2 / variance * away
            x_start = (share[:, :, None] * each).sum(1)
            return Prediction(noise_from_start(x, x_start, alpha, sigma), x_start)

        return denoise

    def flow(self, x: np.ndarray, schedule: NoiseSchedule, t: int, s: int) -> np.ndarray:
        """The probability-flow ODE's exact solution at step ``s`` from ``x`` at ``t``, of a single Gaussian: it keeps the
        number of standard deviations from the mean."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        mean, deviation = self.means[0], self.deviations[0]
        widths = [np.sqrt((alpha * deviation) ** 2 + sigma**2) for alpha, sigma in ((alpha_t, sigma_t), (alpha_s, sigma_s))]
        return alpha_s * mean + widths[1] / widths[0] * (x - alpha_t * mean)


def run(name: str, mixture: GaussianMixture, schedule: NoiseSchedule, steps: list[int], x: np.ndarray, *,
        seed: int = 0, **options: object) -> tuple[np.ndarray, int]:
    """(the sampler's result from ``x``, network evaluations)."""
    exact, evaluations = mixture.denoiser(schedule), 0

    def denoise(x: np.ndarray, t: int) -> Prediction:
        nonlocal evaluations
        evaluations += 1
        return exact(x, t)

    noise = np.random.default_rng(seed)
    *_, last = SAMPLERS[name](denoise, x, steps, schedule, lambda i: noise.standard_normal(x.shape), **options)
    return last, evaluations


IMAGES = GaussianMixture(np.array([1.0]), np.array([[-0.6, 0.0, 0.3, 0.9]]), np.array([[0.05, 0.2, 0.5, 0.1]]))


def drift(name: str, steps: int, spacing: str = "linspace", timesteps: int = 1000) -> tuple[float, int]:
    """(distance from the exact result, network evaluations) on `IMAGES` with the cosine schedule.

    For a deterministic sampler the root mean square difference to the exact solution of the ODE from the same noise, for a
    stochastic one that of the standard deviations it reaches to the data's, which the mean of 100,000 samples tells to 0.001.
    """
    schedule = create_schedule("cosine", timesteps)
    visited = sampling_steps(schedule, steps, spacing)
    stochastic = order_of(SAMPLERS[name]) is None
    x = np.random.default_rng(1).standard_normal((100_000 if stochastic else 2_000, IMAGES.means.shape[1]))
    result, evaluations = run(name, IMAGES, schedule, visited, x)
    exact = IMAGES.deviations[0] if stochastic else IMAGES.flow(x, schedule, visited[0], -1)
    error = (result.std(0) if stochastic else result) - exact
    return float(np.sqrt((error**2).mean())), evaluations


def table() -> str:
    """Markdown: each sampler's evaluations and drift at 10, 20 and 50 steps."""
    rows = ["| sampler | order | NFE at 10 / 20 / 50 steps | drift, linspace | drift, karras | drift, log_snr |",
            "| --- | --- | --- | --- | --- | --- |"]
    for name in SAMPLERS:
        columns = [[drift(name, steps, spacing) for steps in (10, 20, 50)]
                   for spacing in ("linspace", "karras", "log_snr")]
        evaluations = " / ".join(str(count) for _, count in columns[0])
        errors = [" / ".join(f"{error:.4f}" for error, _ in column) for column in columns]
        rows.append(f"| `{name}` | {order_of(SAMPLERS[name]) or 'SDE'} | {evaluations} | {' | '.join(errors)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
