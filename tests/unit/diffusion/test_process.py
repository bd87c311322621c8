"""The process and the loss by themselves, with no network, in float64."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from ddpm_ms.config import DiffusionConfig
from ddpm_ms.diffusion.loss import DiffusionLoss
from ddpm_ms.diffusion.process import DiffusionProcess
from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.diffusion.variances import split_variance

SCHEDULE = create_schedule("cosine", 50)
T = Tensor(np.array([0, 1, 20, 48]), ms.int32)
NEAR = dict(rtol=1e-9, atol=1e-9)


def process(objective="pred_v", variance="fixed_small"):
    return DiffusionProcess(SCHEDULE, objective, variance, dtype=ms.float64)


def images(seed):
    return Tensor(np.random.default_rng(seed).standard_normal((4, 1, 3, 5)), ms.float64)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_the_target_of_every_objective_gives_noise_and_x0_back(objective):
    x_start, noise = images(0), images(1)
    q = process(objective)
    x = q.q_sample(x_start, T, noise)
    assert x.dtype == ms.float64
    seen_noise, seen_start = q.noise_and_start(q.target(x_start, T, noise), x, T)
    np.testing.assert_allclose(seen_noise.asnumpy(), noise.asnumpy(), **NEAR)
    np.testing.assert_allclose(seen_start.asnumpy(), x_start.asnumpy(), **NEAR)


def test_the_variance_fraction_spans_the_two_fixed_variances():
    q, zero = process(variance="learned"), Tensor(np.zeros((4, 1, 1, 1)), ms.float64)
    # The decoder's fixed_large is fixed_small, as in Improved DDPM; the learned one is beta there.
    small, large = (process(variance=name).log_variance(None, T).asnumpy() for name in ("fixed_small", "fixed_large"))
    np.testing.assert_allclose(q.log_variance(zero, T).asnumpy(), small, **NEAR)
    np.testing.assert_allclose(q.log_variance(zero + 1, T).asnumpy()[1:], large[1:], **NEAR)
    assert (small[1:] < large[1:]).all()


def test_the_second_half_of_an_output_is_a_fraction_from_0_to_1():
    output = np.concatenate([np.full((2, 3, 4, 4), 7.0), np.full((2, 3, 4, 4), -1.0)], 1).astype(np.float32)
    output[1, 3:] = 1
    prediction, fraction = split_variance(Tensor(output))
    assert (prediction.asnumpy() == 7).all() and fraction.shape == (2, 3, 4, 4)
    assert (fraction.asnumpy()[0] == 0).all() and (fraction.asnumpy()[1] == 1).all()


def test_the_loss_needs_no_network():
    x_start, noise, away = images(0), images(1), images(2)
    config = DiffusionConfig(timesteps=50, objective="pred_v", loss_weight="p2", vb_loss_weight=0.5)
    loss = DiffusionLoss(process(), config, dtype=ms.float64)
    x = loss.process.q_sample(x_start, T, noise)
    target = loss.process.target(x_start, T, noise)
    assert (loss.simple(target, x_start, T, noise).asnumpy() == 0).all()
    expected = (away.asnumpy() ** 2).mean((1, 2, 3)) / (1 + SCHEDULE.snr[T.asnumpy()])
    np.testing.assert_allclose(loss.simple(target + away, x_start, T, noise).asnumpy(), expected, **NEAR)
    # With the right mean, the bound is that of the variances alone, and 0 where the fraction is 0.
    fraction = Tensor(np.full((4, 1, 3, 5), 0.0), ms.float64)
    np.testing.assert_allclose(loss.hybrid(target, fraction, x_start, x, T, noise).asnumpy()[1:], 0, atol=1e-9)
    ratio = (SCHEDULE.posterior_variance / SCHEDULE.betas)[T.asnumpy()]
    divergence = 0.5 * (ratio - 1 - np.log(np.maximum(ratio, 1e-300))) / math.log(2)
    hybrid = loss.hybrid(target, fraction + 1, x_start, x, T, noise).asnumpy()
    np.testing.assert_allclose(hybrid[1:], 0.5 * 50 * divergence[1:], rtol=1e-7)
