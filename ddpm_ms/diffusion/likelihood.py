"""The variational bound on the negative log-likelihood (arXiv:2006.11239, equation 5)."""

from __future__ import annotations

import math
from typing import Callable, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms.diffusion.objectives import Prediction
from ddpm_ms.diffusion.process import DiffusionProcess

LEVELS = 255  # images have 256 grey levels, so one is 2/255 wide in [-1, 1]


class BitsPerDim(NamedTuple):
    """The variational bound on -log2 p(image), per pixel and channel."""

    total: np.ndarray  # (B,) float64: prior + the sum of vb
    prior: np.ndarray  # (B,): L_T, what is left of the image at the noisiest step
    vb: np.ndarray  # (B, T): L_0 (the decoder) ... L_{T-1}
    mse: np.ndarray  # (B, T): squared error of the predicted noise


class VariationalBound(nn.Cell):
    """The bound of a process, term by term and as a whole.

    Args:
        process: with its ``variance``.
    """

    def __init__(self, process: DiffusionProcess) -> None:
        super().__init__()
        self.process, self.mean = process, ops.ReduceMean()

    def terms(self, x_start: Tensor, x: Tensor, t: Tensor, estimate: Tensor, log_variance: Tensor) -> Tensor:
        """L_t of each image in bits per dimension, (B,), for the ``estimate`` of x0: a KL divergence, at t = 0 the decoder."""
        true_mean, _, true_log_variance = self.process.q_posterior(x_start, x, t)
        mean, _, _ = self.process.q_posterior(estimate, x, t)
        divergence = self.mean(normal_kl(true_mean, true_log_variance, mean, log_variance), (1, 2, 3))
        decoder = self.mean(discretized_gaussian_nll(x_start, mean, log_variance), (1, 2, 3))
        return ops.select(t == 0, decoder, divergence) * (1.0 / math.log(2.0))

    def bits_per_dim(self, denoise: Callable[[Tensor, int], Prediction], x_start: Tensor, noise: Callable[[int], Tensor],
                     callback: Callable[[int, int], None] | None = None) -> BitsPerDim:
        """Every term, from the noisiest step down.

        Args:
            denoise: (x, t) -> `Prediction`; each evaluation has nothing to do with the one before.
            x_start: (B, C, H, W) in [-1, 1].
            noise: t -> standard normal noise like ``x_start``.
            callback: called with (terms done, of how many).
        """
        steps, count = len(self.process.schedule), len(x_start)
        vb, mse = np.empty((count, steps)), np.empty((count, steps))
        for step in reversed(range(steps)):
            t, step_noise = Tensor(np.full(count, step), ms.int32), noise(step)
            x = self.process.q_sample(x_start, t, step_noise)
            prediction = denoise(x, step)
            log_variance = self.process.log_variance(prediction.variance_fraction, t)
            vb[:, step] = self.terms(x_start, x, t, prediction.pred_x_start, log_variance).asnumpy()
            mse[:, step] = ops.square(prediction.pred_noise - step_noise).mean((1, 2, 3)).asnumpy()
            if callback is not None:
                callback(steps - step, steps)
        prior = prior_kl(x_start.asnumpy(), self.process.schedule.alphas_cumprod[-1]).mean((1, 2, 3)) / math.log(2)
        return BitsPerDim(prior + vb.sum(1), prior, vb, mse)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2))), in nats, element by element."""
    return 0.5 * (log_variance2 - log_variance1 - 1.0 + ops.exp(log_variance1 - log_variance2)
                  + ops.square(mean1 - mean2) * ops.exp(-log_variance2))


def discretized_gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log, in nats, of the probability of the grey level at ``x`` under N(mean, exp(log_variance)), the outermost levels
    reaching to infinity (arXiv:2006.11239, equation 13). ``x`` in [-1, 1]."""
    inverse_deviation = ops.exp(-0.5 * log_variance)
    centred = x - mean
    # By symmetry in the upper tail, where the differences are small numbers and not numbers close to 1.
    distance = ops.abs(centred)
    inner = (_upper_tail(inverse_deviation * (distance - 1.0 / LEVELS))
             - _upper_tail(inverse_deviation * (distance + 1.0 / LEVELS)))
    brightest = _upper_tail(inverse_deviation * (centred - 1.0 / LEVELS))
    darkest = _upper_tail(-inverse_deviation * (centred + 1.0 / LEVELS))
    probability = ops.select(x > 0.999, brightest, ops.select(x < -0.999, darkest, inner))
    # Some 13 deviations from the mean even this is 0 in float32; the floor keeps the logarithm, and its gradient, finite.
    return -ops.log(ops.maximum(probability, _FLOOR))


def prior_kl(x_start: np.ndarray, alpha_cumprod: float) -> np.ndarray:
    """KL(q(x_T | x_0) || N(0, 1)), float64, of the shape of ``x_start``."""
    variance = 1 - alpha_cumprod
    return 0.5 * (variance - 1 - math.log(variance) + alpha_cumprod * np.asarray(x_start, np.float64) ** 2)


_FLOOR = 1e-37


def _upper_tail(x: Tensor) -> Tensor:
    """P(z > x) of a standard normal z."""
    return 0.5 * ops.erfc(x * math.sqrt(0.5))
