"""Guidance, clipping and self-conditioning: what stands between the network and the samplers."""

import numpy as np
import pytest
from mindspore import Tensor

from ddpm_ms.config import SamplingConfig
from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.errors import InputError
from ddpm_ms.sampling.denoiser import Denoiser

SCHEDULE = create_schedule("cosine", 1000)
NO_CLASS = 10


class Network:
    """Answers its label's number over 10 (0 without), and remembers its calls."""

    def __init__(self, extra=0):
        self.calls, self.extra = [], extra

    def __call__(self, x, t, x_self_cond, classes):
        self.calls.append((x.shape[0], None if x_self_cond is None else x_self_cond.asnumpy(), classes.asnumpy()))
        labels = classes.asnumpy().reshape(-1, 1, 1, 1)
        gradient = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)
        output = np.where(labels == NO_CLASS, 0.1, labels / 10) * (1 + gradient)
        return Tensor(np.concatenate([output] + [labels / 10 + 0 * gradient] * self.extra, 1).astype(np.float32))


def make(objective="pred_noise", network=None, self_condition=False, guidance_fn=None, **options):
    network = network or Network()
    options = SamplingConfig(**{"clip_x_start": False, **options})
    labels = Tensor(np.array([3, 7], np.int32))
    return Denoiser(network, SCHEDULE, objective, options, labels, NO_CLASS, self_condition, guidance_fn)


def image():
    return Tensor(np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32))


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_noise_and_x0_belong_together_for_every_objective(objective):
    x = image()
    noise, x_start, _ = make(objective)(x, 400)
    alpha, sigma = SCHEDULE.alpha_sigma(400)
    np.testing.assert_allclose(alpha * x_start.asnumpy() + sigma * noise.asnumpy(), x.asnumpy(), atol=1e-5)
    noise, x_start, _ = make(objective, clip_x_start=True)(x, 400)
    assert np.abs(x_start.asnumpy()).max() <= 1
    np.testing.assert_allclose(alpha * x_start.asnumpy() + sigma * noise.asnumpy(), x.asnumpy(), atol=1e-5)


def test_without_rederivation_the_noise_is_the_networks_own():
    raw = make()(image(), 999).pred_noise.asnumpy()
    kept = make(clip_x_start=True, rederive_pred_noise=False)(image(), 999)
    np.testing.assert_array_equal(kept.pred_noise.asnumpy(), raw)
    assert np.abs(make(clip_x_start=True)(image(), 999).pred_noise.asnumpy() - raw).max() > 0.1


def test_scale_one_is_one_evaluation_and_no_guidance():
    network = Network()
    make(network=network)(image(), 400)
    assert [size for size, *_ in network.calls] == [2]


def test_scale_w_is_one_evaluation_of_both_and_extrapolates():
    network = Network()
    denoise = make(network=network, guidance_scale=3.0)
    guided = denoise(image(), 400).pred_noise.asnumpy()
    assert denoise.nfe == 1
    (size, _, labels), = network.calls
    assert size == 4 and labels.tolist() == [3, 7, NO_CLASS, NO_CLASS]
    shape = 1 + np.linspace(-1, 1, 16).reshape(1, 4, 4)
    np.testing.assert_allclose(guided[0], (0.1 + 3 * (0.3 - 0.1)) * shape, rtol=1e-5)
    np.testing.assert_allclose(guided[1], (0.1 + 3 * (0.7 - 0.1)) * shape, rtol=1e-5)


def test_scale_zero_is_the_unconditional_network():
    np.testing.assert_allclose(make(guidance_scale=0.0)(image(), 400).pred_noise.asnumpy().mean(), 0.1, rtol=1e-5)


def test_rescaling_restores_the_contrast_of_the_class():
    plain, guided = (make(guidance_scale=w)(image(), 400).pred_noise.asnumpy() for w in (1.0, 3.0))
    rescaled, half = (make(guidance_scale=3.0, guidance_rescale=r)(image(), 400).pred_noise.asnumpy() for r in (1.0, 0.5))
    np.testing.assert_allclose(rescaled.std((1, 2, 3)), plain.std((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(half, (rescaled + guided) / 2, rtol=1e-4)


def test_guidance_keeps_to_its_interval():
    network = Network()
    denoise = make(network=network, guidance_scale=2.0, guidance_interval=(0.3, 0.6))
    for t in (100, 300, 599, 700):
        denoise(image(), t)
    assert [size for size, *_ in network.calls] == [2, 4, 4, 2]


def test_the_learned_variance_is_that_of_the_class():
    seen = make(network=Network(extra=1), guidance_scale=2.0)(image(), 400)
    np.testing.assert_allclose(seen.variance_fraction.asnumpy()[:, 0, 0, 0], [(0.3 + 1) / 2, (0.7 + 1) / 2], rtol=1e-6)


def test_classifier_guidance_moves_the_score_by_its_gradient():
    alpha, sigma = SCHEDULE.alpha_sigma(400)
    asked = []

    def gradient(x, t, classes):
        asked.append((t, classes.asnumpy().tolist()))
        return x * 0.5

    x = image()
    plain, guided = make()(x, 400), make(guidance_fn=gradient)(x, 400)
    assert asked == [(400, [3, 7])]
    np.testing.assert_allclose(guided.pred_noise.asnumpy(), plain.pred_noise.asnumpy() - sigma * 0.5 * x.asnumpy(), atol=1e-5)
    noised = alpha * guided.pred_x_start.asnumpy() + sigma * guided.pred_noise.asnumpy()
    np.testing.assert_allclose(noised, x.asnumpy(), atol=1e-5)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1.0])
def test_dynamic_thresholding_clips_at_the_quantile_and_scales(quantile):
    raw = make()(image(), 900).pred_x_start.asnumpy()
    size = np.maximum(np.quantile(np.abs(raw), quantile, axis=(1, 2, 3), keepdims=True), 1)
    assert (size > 1).all()
    seen = make(clip_x_start=True, dynamic_threshold=quantile)(image(), 900).pred_x_start.asnumpy()
    np.testing.assert_allclose(seen, np.clip(raw, -size, size) / size, rtol=1e-5)


def test_self_conditioning_hands_the_guided_and_clipped_x0_to_both_halves():
    network = Network()
    denoise = make(network=network, self_condition=True, guidance_scale=2.0, clip_x_start=True)
    first = denoise(image(), 900).pred_x_start.asnumpy()
    denoise(image(), 800)
    (_, before, _), (_, after, _) = network.calls
    assert (before == 0).all()
    np.testing.assert_array_equal(after, np.concatenate([first, first]))


def test_after_forgetting_the_network_is_conditioned_on_nothing():
    network = Network()
    denoise = make(network=network, self_condition=True)
    for t in (900, 800):
        denoise(image(), t)
        denoise.forget()
    assert all((conditioned == 0).all() for _, conditioned, _ in network.calls)


def test_guidance_needs_a_conditional_network(tiny_unet):
    from ddpm_ms import GaussianDiffusion

    with pytest.raises(InputError, match="guidance_scale is 2, allowed with a network that is not class-conditional: 1"):
        GaussianDiffusion(tiny_unet(), image_size=4).sample(1, steps=1, guidance_scale=2.0)
