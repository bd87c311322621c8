"""The training loss: how far a prediction is from its target, weighted by the noise level, and the bound for the variance."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ddpm_ms.config import DiffusionConfig
from ddpm_ms.diffusion.likelihood import VariationalBound
from ddpm_ms.diffusion.loss_weights import create_loss_weight
from ddpm_ms.diffusion.process import DiffusionProcess


class DiffusionLoss(nn.Cell):
    """Process and weight; no network inside. Every loss is one number for each image, (B,).

    Args:
        process: what noises the images.
        config: ``loss_type``, ``vb_loss_weight`` and the keys of the weight, see `create_loss_weight`.
        dtype: of the weights.

    Raises:
        InputError: the weight does not fit the process.
    """

    def __init__(self, process: DiffusionProcess, config: DiffusionConfig, dtype: ms.Type = ms.float32) -> None:
        super().__init__()
        self.process, self.bound = process, VariationalBound(process)
        self.loss_type, self.vb_loss_weight, self.num_timesteps = config.loss_type, config.vb_loss_weight, len(process.schedule)
        self.weight = Tensor(create_loss_weight(config, process.schedule.snr), dtype)
        self.gather, self.mean, self.square, self.abs = ops.Gather(), ops.ReduceMean(), ops.Square(), ops.Abs()
        self.minimum, self.stop_gradient = ops.Minimum(), ops.stop_gradient

    def simple(self, prediction: Tensor, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Weighted distance of ``prediction`` from its target."""
        error = prediction - self.process.target(x_start, t, noise)
        return self.mean(self._distance(error), (1, 2, 3)) * self.gather(self.weight, t, 0)

    def hybrid(self, prediction: Tensor, variance_fraction: Tensor, x_start: Tensor, x: Tensor, t: Tensor,
               noise: Tensor) -> Tensor:
        """`simple`, and ``vb_loss_weight`` times the bound, which teaches the variance (arXiv:2102.09672, equation 16)."""
        per_image = self.simple(prediction, x_start, t, noise)
        # The variance alone: the mean is not differentiated (arXiv:2102.09672, section 3.1).
        estimate = self.stop_gradient(self.process.noise_and_start(prediction, x, t)[1])
        log_variance = self.process.learned_log_variance(variance_fraction, t)
        bound = self.bound.terms(x_start, x, t, estimate, log_variance)
        return per_image + self.vb_loss_weight * self.num_timesteps * bound

    def _distance(self, error: Tensor) -> Tensor:
        if self.loss_type == "l1":
            return self.abs(error)
        if self.loss_type == "l2":
            return self.square(error)
        size = self.abs(error)
        inner = self.minimum(size, 1.0)
        return 0.5 * self.square(inner) + (size - inner)
