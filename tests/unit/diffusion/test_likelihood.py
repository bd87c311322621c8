"""The variational bound and learned variance, against closed forms."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from ddpm_ms import GaussianDiffusion
from ddpm_ms.diffusion.likelihood import discretized_gaussian_nll, normal_kl, prior_kl
from ddpm_ms.diffusion.schedules import create_schedule

WIDTH, STEPS = 0.3, 100


class BestForGaussian(nn.Cell):
    """E[x0 | x] of pixels that are normal with deviation `WIDTH`; with learned variance a constant second half."""

    channels = 1

    def __init__(self, schedule, variance=None):
        super().__init__()
        signal = schedule.alphas_cumprod
        self.gain = Tensor(np.sqrt(signal) * WIDTH**2 / (signal * WIDTH**2 + 1 - signal), ms.float32)
        self.variance, self.out_dim = variance, 1 if variance is None else 2
        self.evaluations = 0

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        self.evaluations += 1
        x_start = x * ops.gather(self.gain, time, 0).reshape((-1, 1, 1, 1))
        return x_start if self.variance is None else ops.cat((x_start, ops.ones_like(x) * self.variance), 1)


def best(monkeypatch, share=None, **keywords):
    monkeypatch.setattr("ddpm_ms.runtime.compiled", lambda method: method)
    network = BestForGaussian(create_schedule("cosine", STEPS), share)
    return GaussianDiffusion(network, image_size=4, objective="pred_x0", timesteps=STEPS, **keywords)


def grey_levels(count):
    pixels = np.random.default_rng(0).normal(0, WIDTH, (count, 1, 4, 4)).clip(-1, 1)
    return np.round((pixels + 1) / 2 * 255).astype(np.float32) / 255


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_bound_of_the_best_network_is_its_closed_form_and_above_the_entropy(monkeypatch, variance):
    diffusion, images = best(monkeypatch, variance=variance), grey_levels(1024)
    bound, s = diffusion.bits_per_dim(images), diffusion.schedule
    assert bound.vb.shape == bound.mse.shape == (1024, STEPS) and diffusion.model.evaluations == STEPS
    np.testing.assert_allclose(bound.total, bound.prior + bound.vb.sum(1))
    # The means differ by the error of x0 times its coefficient; the variances by what was chosen.
    error = WIDTH**2 * (1 - s.alphas_cumprod) / (s.alphas_cumprod * WIDTH**2 + 1 - s.alphas_cumprod)
    chosen = {"fixed_small": s.posterior_variance, "fixed_large": s.betas}[variance][1:]
    ratio = s.posterior_variance[1:] / chosen
    expected = 0.5 * (ratio - 1 - np.log(ratio) + s.posterior_mean_coef1[1:] ** 2 * error[1:] / chosen) / math.log(2)
    np.testing.assert_allclose(bound.vb[:, 1:].mean(0), expected, rtol=0.05, atol=2e-5)
    entropy = math.log2(WIDTH * math.sqrt(2 * math.pi * math.e)) - math.log2(2 / 255)
    assert entropy < bound.total.mean() < entropy + 1
    np.testing.assert_array_equal(diffusion.bits_per_dim(images[:2]).vb, bound.vb[:2])


def test_the_decoder_is_a_distribution_over_grey_levels():
    levels = np.linspace(-1, 1, 256)
    for mean, deviation in ((0.1, 0.02), (-0.95, 0.3), (0.99, 0.005)):
        x, shape = Tensor(levels, ms.float32), (256,)
        nll = discretized_gaussian_nll(x, Tensor(np.full(shape, mean), ms.float32),
                                       Tensor(np.full(shape, 2 * math.log(deviation)), ms.float32)).asnumpy()
        assert np.exp(-nll.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)
        edges = [np.array([math.erf((level + half / 255 - mean) / deviation / math.sqrt(2)) for level in levels])
                 for half in (-1, 1)]
        exact = (edges[1] - edges[0]) / 2
        likely = (exact > 1e-4)[1:-1]
        np.testing.assert_allclose(np.exp(-nll[1:-1][likely]), exact[1:-1][likely], rtol=2e-3)


def test_divergences_are_their_closed_forms():
    a, b = Tensor([0.3], ms.float32), Tensor([-0.2], ms.float32)
    ours = normal_kl(a, Tensor([math.log(0.5)], ms.float32), b, Tensor([math.log(2.0)], ms.float32)).asnumpy()[0]
    assert ours == pytest.approx(0.5 * (math.log(4) + 0.25 + 0.25 / 2 - 1), rel=1e-5)
    assert prior_kl(np.array(0.5), 0.1) == pytest.approx(0.5 * (0.9 - 1 - math.log(0.9) + 0.1 * 0.25))


class TwoHalves(nn.Cell):
    """Predicts two parameters: the noise, and the variance's share."""

    channels, out_dim = 1, 2

    def __init__(self):
        super().__init__()
        self.noise = Parameter(Tensor(np.full((1, 1, 1, 1), 0.2), ms.float32), name="noise")
        self.share = Parameter(Tensor(np.full((1, 1, 1, 1), 0.3), ms.float32), name="share")

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        return ops.cat((ops.zeros_like(x) + self.noise, ops.zeros_like(x) + self.share), 1)


def test_the_bound_teaches_the_variance_and_leaves_the_mean_to_the_simple_loss():
    random = np.random.default_rng(0)
    inputs = [Tensor(random.uniform(0, 1, (3, 1, 4, 4)).astype(np.float32)), Tensor(np.array([0, 10, 900], np.int32)),
              Tensor(random.standard_normal((3, 1, 4, 4)).astype(np.float32))]

    def gradients(weight):
        network = TwoHalves()
        diffusion = GaussianDiffusion(network, image_size=4, objective="pred_noise", vb_loss_weight=weight)
        both = ms.grad(lambda *x: diffusion.losses(*x).mean(), None, [network.noise, network.share])(*inputs)
        return [float(g.asnumpy().squeeze()) for g in both]

    (mean_without, share_without), (mean_with, share_with) = gradients(0.0), gradients(0.001)
    assert mean_with == mean_without != 0
    assert share_without == 0 != share_with


@pytest.mark.parametrize(("share", "fixed"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_learned_variance_at_its_ends_is_the_fixed_one(monkeypatch, share, fixed):
    images = grey_levels(4)
    expected = best(monkeypatch, variance=fixed).bits_per_dim(images)
    learned = best(monkeypatch, share).bits_per_dim(images)
    # The decoder's variance differs: fixed ones take the posterior's of the second step, as Improved DDPM does.
    np.testing.assert_allclose(learned.vb[:, 1:], expected.vb[:, 1:], rtol=1e-4, atol=1e-6)
