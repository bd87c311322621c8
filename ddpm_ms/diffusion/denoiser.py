"""What samplers see of a network: guidance, clipping and self-conditioning around its plain output."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from ddpm_ms.config import SamplingConfig
from ddpm_ms.diffusion.schedules import NoiseSchedule


class Prediction(NamedTuple):
    """Views of one network output, each (B, C, H, W)."""

    pred_noise: Any
    pred_x_start: Any
    variance_fraction: Any = None  # of learned variance: 0 is fixed_small, 1 is fixed_large


def noise_and_start(objective: str, output: Any, x: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """(noise, x0) from the network's ``output`` at ``x`` = alpha x0 + sigma noise (arXiv:2202.00512, appendix D).

    Only "pred_noise" divides by alpha: with no signal at all, x0 does not follow from the noise.
    """
    if objective == "pred_noise":
        return output, (x - sigma * output) / alpha
    if objective == "pred_x0":
        return (x - alpha * output) / sigma, output
    return sigma * x + alpha * output, alpha * x - sigma * output


class Denoiser:
    """``denoise(x, t)`` for the samplers: one or two evaluations of the network, and everything options say about them.

    Args:
        network: (x, t, x_self_cond, classes) -> its output, float32 (B, C or 2C, H, W).
        schedule: of the process.
        objective: what the output predicts.
        options: `SamplingConfig`: guidance, clipping.
        classes: labels int32 (B,), or None.
        no_class: the label that stands for none; guidance needs it.
        self_condition: hand the last x0 back to the network.
        guidance_fn: (x, t, classes) -> gradient of log p(y | x) (B, C, H, W), for classifier guidance
            (arXiv:2105.05233, algorithm 2). ``t`` is an int; a scale belongs inside.
    """

    def __init__(self, network: Callable, schedule: NoiseSchedule, objective: str, options: SamplingConfig,
                 classes: Tensor | None = None, no_class: int | None = None, self_condition: bool = False,
                 guidance_fn: Callable | None = None) -> None:
        self.network, self.schedule, self.objective, self.options = network, schedule, objective, options
        self.classes, self.self_condition, self.guidance_fn = classes, self_condition, guidance_fn
        self.last: Tensor | None = None  # x0 of the evaluation before
        self.nfe = 0  # network evaluations; a batched pair of guidance counts as one
        self._both: Tensor | None = None
        if options.guidance_scale != 1 and classes is not None:
            self._both = Tensor(np.concatenate([classes.asnumpy(), np.full(len(classes), no_class)]), ms.int32)

    def forget(self) -> None:
        """Begin anew: the next evaluation is conditioned on no estimate."""
        self.last = None

    def __call__(self, x: Tensor, t: int) -> Prediction:
        if self.self_condition and self.last is None:
            self.last = ops.zeros_like(x)
        output, fraction = self._variance_apart(self._output(x, t), x.shape[1])
        self.nfe += 1
        alpha, sigma = self.schedule.alpha_sigma(t)
        noise, x_start = noise_and_start(self.objective, output, x, alpha, sigma)
        if self.guidance_fn is not None and alpha > 0:
            gradient = self.guidance_fn(x, t, self.classes)
            noise, x_start = noise - sigma * gradient, x_start + sigma**2 / alpha * gradient
        if self.options.clip_x_start:
            x_start = self._clipped(x_start)
            if self.options.rederive_pred_noise:
                noise = (x - alpha * x_start) / sigma
        if self.self_condition:
            self.last = x_start
        return Prediction(noise, x_start, fraction)

    def _output(self, x: Tensor, t: int) -> Tensor:
        """The network's output, guided by the class where guidance is on (arXiv:2207.12598, equation 6)."""
        low, high = self.options.guidance_interval
        share = t / max(len(self.schedule) - 1, 1)
        if self._both is None or not low <= share <= high:
            return self.network(x, self._time(t, len(x)), self.last, self.classes)
        twice = None if self.last is None else ops.cat((self.last, self.last))
        outputs = self.network(ops.cat((x, x)), self._time(t, 2 * len(x)), twice, self._both)
        with_class, without = outputs[:len(x)], outputs[len(x):]
        channels = x.shape[1]
        guided = without[:, :channels] + self.options.guidance_scale * (with_class[:, :channels] - without[:, :channels])
        guided = self._rescaled(guided, with_class[:, :channels])
        # The variance, where it is learned, is that of the class.
        return guided if outputs.shape[1] == channels else ops.cat((guided, with_class[:, channels:]), 1)

    def _rescaled(self, guided: Tensor, with_class: Tensor) -> Tensor:
        """Back towards the contrast of the output with the class (arXiv:2305.08891, equations 15 and 16)."""
        share = self.options.guidance_rescale
        if share == 0:
            return guided
        ratio = _deviation(with_class) / _deviation(guided)
        return guided * (share * ratio + (1 - share))

    def _variance_apart(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        """(prediction, variance fraction): the second half of the output spans -1 .. 1 (arXiv:2102.09672, section 3.1)."""
        if output.shape[1] == channels:
            return output, None
        return output[:, :channels], (output[:, channels:] + 1) / 2

    def _clipped(self, x_start: Tensor) -> Tensor:
        """x0 in [-1, 1], or scaled by a quantile of its size before ("dynamic thresholding", arXiv:2205.11487, section 2.3)."""
        quantile = self.options.dynamic_threshold
        if quantile is None:
            return ops.clamp(x_start, -1.0, 1.0)
        size = ops.maximum(_quantile(ops.abs(x_start).reshape((len(x_start), -1)), quantile), Tensor(1.0, ms.float32))
        size = size.reshape((-1, 1, 1, 1))
        return ops.minimum(ops.maximum(x_start, -size), size) / size

    @staticmethod
    def _time(t: int, count: int) -> Tensor:
        return Tensor(np.full(count, t), ms.int32)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation of each image, (B, 1, 1, 1)."""
    centred = x - x.mean((1, 2, 3), keep_dims=True)
    return ops.sqrt((centred * centred).mean((1, 2, 3), keep_dims=True))


def _quantile(rows: Tensor, quantile: float) -> Tensor:
    """The quantile of each row of (B, N), interpolated linearly, (B,)."""
    ordered, _ = ops.sort(rows, axis=1)
    place = quantile * (rows.shape[1] - 1)
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    return ordered[:, below] + (place - below) * (ordered[:, above] - ordered[:, below])
