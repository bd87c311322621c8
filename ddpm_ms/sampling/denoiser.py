"""What samplers see of a network: ``denoise(x, t) -> Prediction``."""

from __future__ import annotations

from typing import Callable

import mindspore as ms
from mindspore import Tensor, ops

from ddpm_ms.config import SamplingConfig
from ddpm_ms.diffusion.objectives import Prediction, noise_from_start, noise_of, start_of
from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.diffusion.variances import split_variance
from ddpm_ms.sampling.guidance import GuidedNetwork, classifier_guided


class Denoiser:
    """``denoise(x, t)`` for the samplers: one evaluation of the network, guided, clipped and remembered as options say.

    Args:
        network: (x, t, x_self_cond, classes) -> its output, float32 (B, C or 2C, H, W).
        schedule: of the process.
        objective: what the output predicts.
        options: `SamplingConfig`: guidance, clipping.
        labels: int32 (B,), or None.
        no_class: the label that stands for none; guidance needs it.
        self_condition: hand the last x0 back to the network.
        guidance_fn: (x, t, labels) -> gradient of log p(labels | x) (B, C, H, W). ``t`` is an int; the function scales the
            gradient itself.
    """

    def __init__(self, network: Callable, schedule: NoiseSchedule, objective: str, options: SamplingConfig,
                 labels: Tensor | None = None, no_class: int | None = None, self_condition: bool = False,
                 guidance_fn: Callable | None = None) -> None:
        self.network = GuidedNetwork(network, len(schedule), options, labels, no_class)
        self.schedule, self.objective, self.options = schedule, objective, options
        self.labels, self.self_condition, self.guidance_fn = labels, self_condition, guidance_fn
        self.last_start: Tensor | None = None  # x0 of the evaluation before
        self.nfe = 0  # network evaluations; a batched pair of guidance counts as one

    def forget(self) -> None:
        """Begin anew: the next evaluation is conditioned on no estimate."""
        self.last_start = None

    def independent(self, x: Tensor, t: int) -> Prediction:
        """A prediction that is conditioned on no earlier estimate."""
        self.forget()
        return self(x, t)

    def __call__(self, x: Tensor, t: int) -> Prediction:
        """What the network sees in ``x`` (B, C, H, W) at step ``t``."""
        if self.self_condition and self.last_start is None:
            self.last_start = ops.zeros_like(x)
        output, fraction = self.network(x, t, self.last_start), None
        self.nfe += 1
        if output.shape[1] != x.shape[1]:
            output, fraction = split_variance(output)
        alpha, sigma = self.schedule.alpha_sigma(t)
        x_start = start_of(self.objective, output, x, alpha, sigma)
        follows = self.options.clip_x_start and self.options.rederive_pred_noise  # the noise, from what becomes of x0
        noise = None if follows else noise_of(self.objective, output, x, alpha, sigma)
        if self.guidance_fn is not None and alpha > 0:
            noise, x_start = classifier_guided(noise, x_start, self.guidance_fn(x, t, self.labels), alpha, sigma)
        if self.options.clip_x_start:
            x_start = clipped(x_start, self.options.dynamic_threshold)
        if follows:
            noise = noise_from_start(x, x_start, alpha, sigma)
        if self.self_condition:
            self.last_start = x_start
        return Prediction(noise, x_start, fraction)


def clipped(x_start: Tensor, quantile: float | None) -> Tensor:
    """x0 in [-1, 1]; with a ``quantile``, scaled by that quantile of its size before ("dynamic thresholding",
    arXiv:2205.11487, section 2.3)."""
    if quantile is None:
        return ops.clamp(x_start, -1.0, 1.0)
    size = ops.maximum(_quantile(ops.abs(x_start).reshape((len(x_start), -1)), quantile), Tensor(1.0, ms.float32))
    size = size.reshape((-1, 1, 1, 1))
    return ops.minimum(ops.maximum(x_start, -size), size) / size


def _quantile(rows: Tensor, quantile: float) -> Tensor:
    """The quantile of each row of (B, N), interpolated linearly, (B,)."""
    ordered, _ = ops.sort(rows, axis=1)
    place = quantile * (rows.shape[1] - 1)
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    return ordered[:, below] + (place - below) * (ordered[:, above] - ordered[:, below])
