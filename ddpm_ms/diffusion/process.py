"""The process of a schedule on tensors: noising, its posterior, and what a prediction of x0, noise or v implies."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms.diffusion import objectives
from ddpm_ms.diffusion.schedules import NoiseSchedule
from ddpm_ms.errors import InputError


class DiffusionProcess(nn.Cell):
    """q(x_t | x_0), q(x_{t-1} | x_t, x_0) and the variance of p(x_{t-1} | x_t) (DDPM, arXiv:2006.11239); no network inside.

    Images are (B, C, H, W) in [-1, 1], ``t`` is (B,) int32 in [0, T), 0 the least noisy.

    Args:
        schedule: T steps long.
        objective: what a network predicts: "pred_noise", "pred_x0" or "pred_v".
        variance: of p: "fixed_small", "fixed_large" or "learned".
        dtype: of the tables, which float64 is rounded to once.

    Raises:
        InputError: the objective does not fit the schedule.
    """

    def __init__(self, schedule: NoiseSchedule, objective: str, variance: str = "fixed_small",
                 dtype: ms.Type = ms.float32) -> None:
        super().__init__()
        if objective == "pred_noise" and schedule.snr[-1] == 0:
            raise InputError("objective is 'pred_noise' where the last step has no signal (rescale_betas_zero_snr): the noise "
                             "says nothing about the image there, allowed: pred_x0, pred_v")
        self.schedule, self.objective, self.variance = schedule, objective, variance
        # At step 0, where DDPM adds no noise, these are the variances of the bound's decoder.
        small = schedule.posterior_log_variance_clipped
        large = np.append(small[:1], np.log(schedule.betas[1:]))
        tables = {
            "sqrt_alphas_cumprod": schedule.sqrt_alphas_cumprod,
            "sqrt_one_minus_alphas_cumprod": schedule.sqrt_one_minus_alphas_cumprod,
            "posterior_mean_coef1": schedule.posterior_mean_coef1,
            "posterior_mean_coef2": schedule.posterior_mean_coef2,
            "posterior_variance": schedule.posterior_variance,
            "posterior_log_variance_clipped": small,
            "log_betas": np.log(schedule.betas),
            "fixed_log_variance": large if variance == "fixed_large" else small,
        }
        for name, table in tables.items():  # plain tensors, not parameters: never averaged, never saved
            setattr(self, name, Tensor(table, dtype))
        self.gather, self.reshape = ops.Gather(), ops.Reshape()

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at ``t``, each (B, 1, 1, 1)."""
        return self.entries(self.sqrt_alphas_cumprod, t), self.entries(self.sqrt_one_minus_alphas_cumprod, t)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """sqrt(abar_t) x0 + sqrt(1 - abar_t) noise (arXiv:2006.11239, equation 4)."""
        alpha, sigma = self.alpha_sigma(t)
        return objectives.noised(x_start, noise, alpha, sigma)

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_{t-1} | x_t, x_0) (arXiv:2006.11239, equations 6 and 7).

        The variance is 0 at t = 0; the logarithm there is that of t = 1.
        """
        mean = self.entries(self.posterior_mean_coef1, t) * x_start + self.entries(self.posterior_mean_coef2, t) * x_t
        return mean, self.entries(self.posterior_variance, t), self.entries(self.posterior_log_variance_clipped, t)

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x0 such that `q_sample` with ``noise`` gives ``x_t``."""
        alpha, sigma = self.alpha_sigma(t)
        return objectives.start_from_noise(x_t, noise, alpha, sigma)

    def predict_noise_from_start(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """Noise such that `q_sample` of ``x_start`` gives ``x_t``."""
        alpha, sigma = self.alpha_sigma(t)
        return objectives.noise_from_start(x_t, x_start, alpha, sigma)

    def predict_v(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """sqrt(abar_t) noise - sqrt(1 - abar_t) x0 (arXiv:2202.00512, appendix D)."""
        alpha, sigma = self.alpha_sigma(t)
        return objectives.velocity(x_start, noise, alpha, sigma)

    def predict_start_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """sqrt(abar_t) x_t - sqrt(1 - abar_t) v."""
        alpha, sigma = self.alpha_sigma(t)
        return objectives.start_from_velocity(x_t, v, alpha, sigma)

    def noise_and_start(self, output: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(noise, x0) from a network's ``output`` at ``x``."""
        alpha, sigma = self.alpha_sigma(t)
        return objectives.noise_and_start(self.objective, output, x, alpha, sigma)

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What a network should answer at ``q_sample(x_start, t, noise)``."""
        alpha, sigma = self.alpha_sigma(t)
        return objectives.target(self.objective, x_start, noise, alpha, sigma)

    def log_variance(self, variance_fraction: Tensor | None, t: Tensor) -> Tensor:
        """Log-variance of p(x_{t-1} | x_t); the fraction is needed where it is learned."""
        if self.variance == "learned":
            return self.learned_log_variance(variance_fraction, t)
        return self.entries(self.fixed_log_variance, t)

    def learned_log_variance(self, variance_fraction: Tensor, t: Tensor) -> Tensor:
        """Between the posterior's and beta's, see `ddpm_ms.diffusion.variances` (arXiv:2102.09672, equation 15)."""
        return (variance_fraction * self.entries(self.log_betas, t)
                + (1.0 - variance_fraction) * self.entries(self.posterior_log_variance_clipped, t))

    def entries(self, table: Tensor, t: Tensor) -> Tensor:
        """Entries ``t`` (B,) of a table (T,), shaped (B, 1, 1, 1)."""
        return self.reshape(self.gather(table, t, 0), (-1, 1, 1, 1))
