"""Which noise levels an optimizer step trains: how t is drawn."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from ddpm_ms import rng
from ddpm_ms.errors import InputError
from ddpm_ms.parts import TIMESTEP_SAMPLERS

HISTORY = 10  # losses per step of the process that "loss_second_moment" remembers
LOG_SIGMA_MEAN, LOG_SIGMA_STD = -1.2, 1.2  # of "log_normal", as EDM has them
UNIFORM_SHARE = 0.001  # so that no step of the process is ever forgotten
Draw = Tuple[np.ndarray, Optional[np.ndarray]]


class TimestepSampler:
    """Draws t for all images of an optimizer step over all ranks, as a function of (seed, step) and, where the loss has a
    say, of the losses reported so far.

    Args:
        name: one of the functions below.
        timesteps: T.
        seed: of the run.
        snr: signal-to-noise ratios (T,), all above 0, for "log_normal".

    Raises:
        InputError: an unknown name, or a step without signal with "log_normal".
    """

    def __init__(self, name: str, timesteps: int, seed: int, snr: np.ndarray | None = None) -> None:
        self._draw = TIMESTEP_SAMPLERS[TIMESTEP_SAMPLERS.check("timestep_sampling", name)]
        self.timesteps, self.seed = timesteps, seed
        self.weighted = self._draw is loss_second_moment
        if self._draw is log_normal:
            assert snr is not None, "log_normal is a function of the signal-to-noise ratios"
            self.cumulative = np.cumsum(log_normal_probabilities(snr))
        # Row t: its last losses, oldest first; and how many there have been. Part of a checkpoint.
        self.losses = np.zeros((timesteps, HISTORY), np.float32)
        self.counts = np.zeros(timesteps, np.int32)

    def draw(self, step: int, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(t int32 (count,), weights of the losses float32 (count,) or None for ones)."""
        times, weights = self._draw(self, rng.generator(self.seed, "timestep", step), count)
        return times.astype(np.int32), weights

    def probabilities(self) -> np.ndarray:
        """Of each t, float64 (T,), from the losses seen."""
        p = np.sqrt((self.losses.astype(np.float64) ** 2).mean(1))
        p /= max(p.sum(), 1e-300)
        p = (1 - UNIFORM_SHARE) * p + UNIFORM_SHARE / self.timesteps
        return p / p.sum()

    def report(self, times: np.ndarray, losses: np.ndarray) -> None:
        """Remember the (unweighted) losses of a step's images, in their order."""
        if self.weighted:
            for t, loss in zip(times, losses):
                self.losses[t] = np.append(self.losses[t, 1:], loss)
                self.counts[t] = min(self.counts[t] + 1, HISTORY)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold: nothing, unless the losses matter."""
        return {"timesteps.losses": self.losses, "timesteps.counts": self.counts} if self.weighted else {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take `state` back."""
        if self.weighted:
            self.losses, self.counts = state["timesteps.losses"].copy(), state["timesteps.counts"].copy()


# How t is drawn: (sampler, generator, how many) -> what `TimestepSampler.draw` returns.


def uniform(sampler: TimestepSampler, generator: np.random.Generator, count: int) -> Draw:
    """Each t on its own."""
    return generator.integers(0, sampler.timesteps, count), None


def antithetic(sampler: TimestepSampler, generator: np.random.Generator, count: int) -> Draw:
    """Pairs t, T - 1 - t (DDIM's code): the mean noise level of a batch hardly varies."""
    half = generator.integers(0, sampler.timesteps, (count + 1) // 2)
    return np.stack([half, sampler.timesteps - 1 - half], 1).reshape(-1)[:count], None


def stratified(sampler: TimestepSampler, generator: np.random.Generator, count: int) -> Draw:
    """One t from each of as many equal parts of 0 .. T - 1 as there are images, in random order."""
    places = (np.arange(count) + generator.random(count)) / count
    return generator.permutation((places * sampler.timesteps).astype(np.int64)), None


def log_normal(sampler: TimestepSampler, generator: np.random.Generator, count: int) -> Draw:
    """Draw t such that the logarithm of sigma = sqrt(1 / SNR) is normal with mean -1.2 and deviation 1.2 (EDM, arXiv:2206.00364,
    table 1): mostly where images take shape. The losses are not divided by this density, so it acts as a weight as well; EDM's
    own loss is pred_v with loss_weight "none"."""
    return np.minimum(np.searchsorted(sampler.cumulative, generator.random(count), "right"), sampler.timesteps - 1), None


def loss_second_moment(sampler: TimestepSampler, generator: np.random.Generator, count: int) -> Draw:
    """Draw t with probability proportional to the root mean square of its last ten losses, and each loss divided by T times that
    probability (Improved DDPM, arXiv:2102.09672, section 3.3). Uniform until every t has ten."""
    if not (sampler.counts == HISTORY).all():
        return generator.integers(0, sampler.timesteps, count), np.ones(count, np.float32)
    p = sampler.probabilities()
    times = generator.choice(sampler.timesteps, count, p=p)
    return times, (1 / (sampler.timesteps * p[times])).astype(np.float32)


def log_normal_probabilities(snr: np.ndarray) -> np.ndarray:
    """Of each t, float64 (T,), by `LOG_SIGMA_MEAN` and `LOG_SIGMA_STD`: the normal density of log sigma times the growth of log
    sigma from step to step.

    Raises:
        InputError: a step has no signal, where log sigma is infinite.
    """
    if snr[-1] == 0:
        raise InputError("timestep_sampling is 'log_normal' where the last step has no signal (rescale_betas_zero_snr), allowed: "
                         "uniform, antithetic, stratified, loss_second_moment")
    log_sigma = -0.5 * np.log(snr)
    growth = np.gradient(log_sigma) if len(snr) > 1 else np.ones(1)
    p = np.exp(-0.5 * ((log_sigma - LOG_SIGMA_MEAN) / LOG_SIGMA_STD) ** 2) * growth
    return p / p.sum()
