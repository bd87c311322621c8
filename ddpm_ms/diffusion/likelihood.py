"""Terms of the variational bound (arXiv:2006.11239, equation 5), in nats, element by element."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from mindspore import Tensor, ops

LEVELS = 255  # images have 256 grey levels, so one is 2/255 wide in [-1, 1]


class BitsPerDim(NamedTuple):
    """The variational bound on -log2 p(image), per pixel and channel."""

    total: np.ndarray  # (B,) float64: prior + the sum of vb
    prior: np.ndarray  # (B,): L_T, what is left of the image at the noisiest step
    vb: np.ndarray  # (B, T): L_0 (the decoder) ... L_{T-1}
    mse: np.ndarray  # (B, T): squared error of the predicted noise


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2)))."""
    return 0.5 * (log_variance2 - log_variance1 - 1.0 + ops.exp(log_variance1 - log_variance2)
                  + ops.square(mean1 - mean2) * ops.exp(-log_variance2))


def discretized_gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log of the probability of the grey level at ``x`` under N(mean, exp(log_variance)), the outermost levels reaching to
    infinity (arXiv:2006.11239, equation 13). ``x`` in [-1, 1]."""
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
