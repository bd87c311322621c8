"""Redrawing, interpolating, filling in and inverting images."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from ddpm_ms import GaussianDiffusion
from ddpm_ms.config import SamplingConfig
from ddpm_ms.errors import InputError
from ddpm_ms.sampling.editing import slerp

WIDTH = 0.3


class BestForGaussian(nn.Cell):
    """E[x0 | x] of pixels that are normal with deviation `WIDTH` around 0: alpha w^2 / (alpha^2 w^2 + sigma^2) x."""

    channels, out_dim = 1, 1

    def __init__(self):
        super().__init__()
        self.gain = None

    def fit(self, schedule):
        signal = schedule.alphas_cumprod
        self.gain = Tensor(np.sqrt(signal) * WIDTH**2 / (signal * WIDTH**2 + 1 - signal), ms.float32)

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        return x * ops.gather(self.gain, time, 0).reshape((-1, 1, 1, 1))


@pytest.fixture
def diffusion(monkeypatch):
    monkeypatch.setattr("ddpm_ms.runtime.compiled", lambda method: method)
    made = GaussianDiffusion(BestForGaussian(), image_size=4, objective="pred_x0")
    made.model.fit(made.schedule)
    return made


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0.3, 0.7, (3, 1, 4, 4)).astype(np.float32)


def test_strength_says_how_much_of_an_image_is_redrawn(diffusion, images):
    how = dict(seed=1, sampler="ddim", steps=50)
    distances = [np.abs(diffusion.sample(3, init_images=images, strength=s, **how) - images).mean() for s in (0.1, 0.4, 0.9)]
    assert 0 < distances[0] < distances[1] < distances[2]
    seen = []
    diffusion.sample(3, init_images=images, strength=0.4, callback=lambda done, of, x: seen.append(of), **how)
    assert seen == [20] * 21
    whole = diffusion.sample(3, init_images=images, strength=1.0, **how)
    np.testing.assert_allclose(whole, diffusion.sample(3, **how), atol=1e-2)  # nothing of the image is left at T


def test_one_init_image_stands_for_the_whole_batch_and_every_image_has_its_own_noise(diffusion, images):
    drawn = diffusion.sample(2, init_images=images[:1], strength=0.5, seed=1, steps=10)
    assert np.abs(drawn[0] - drawn[1]).max() > 0.05
    again = diffusion.sample(1, init_images=images[:1], strength=0.5, seed=1, steps=10, first_index=1)
    np.testing.assert_allclose(again[0], drawn[1], atol=1e-5)


@pytest.mark.parametrize(("steps", "error"), [(50, 0.02), (250, 0.005)])
def test_inversion_and_sampling_give_the_image_back(diffusion, images, steps, error):
    how = dict(steps=steps, sampler="ddim", clip_x_start=False)
    latents = diffusion.invert(images, **how)
    assert latents.shape == images.shape and 0.5 < latents.std() < 2
    assert np.abs(diffusion.sample(3, latents=latents, **how) - images).max() < error
    # The same through `sample` alone.
    assert np.abs(diffusion.sample(3, init_images=images, invert=True, strength=1.0, **how) - images).max() < error


@pytest.mark.parametrize("invert", [False, True])
def test_interpolation_begins_with_one_image_and_ends_with_the_other(diffusion, images, invert):
    how = dict(seed=1, sampler="ddim", steps=100, strength=0.3, invert=invert)
    strip = diffusion.interpolate(images[:1], images[1:2], [0, 0.25, 0.5, 0.75, 1], **how)
    assert strip.shape == (5, 1, 4, 4)
    redrawn = diffusion.sample(1, init_images=images[:1], **how)
    np.testing.assert_allclose(strip[0], redrawn[0], atol=1e-4)
    moved = [np.abs(strip[k] - strip[0]).mean() for k in range(5)]
    assert moved == sorted(moved) and np.abs(strip[2] - (strip[0] + strip[4]) / 2).mean() < 0.2
    if invert:
        np.testing.assert_allclose(strip[[0, -1]], images[:2], atol=0.05)


def test_slerp_keeps_the_length_of_noise_and_its_ends():
    a, b = np.random.default_rng(0).standard_normal((2, 3, 1, 16, 16))
    share = np.array([0.0, 0.5, 1.0])
    between = slerp(a, b, share)
    np.testing.assert_allclose(between[0], a[0], rtol=1e-12)
    np.testing.assert_allclose(between[2], b[2], atol=1e-12)
    assert np.linalg.norm(between[1]) == pytest.approx(16, rel=0.1)  # the straight line would give 11.3
    np.testing.assert_allclose(slerp(a, a, share), a, rtol=1e-12)


def test_inpainting_keeps_known_pixels_exactly_and_draws_the_others(diffusion, images):
    mask = np.zeros((4, 4))
    mask[:2] = 1
    how = dict(steps=20, jump_length=5, resamplings=2, seed=0)
    drawn = diffusion.inpaint(images, mask, **how)
    np.testing.assert_array_equal(diffusion.inpaint(images, mask, sampler="heun", variance="fixed_small", **how), drawn)
    np.testing.assert_array_equal(drawn[:, :, :2], images[:, :, :2])
    assert np.abs(drawn[:, :, 2:] - images[:, :, 2:]).mean() > 0.05
    many = diffusion.inpaint(images[:1], mask, batch_size=64, **{**how, "steps": 100})
    assert many[:, :, 2:].std() == pytest.approx(WIDTH / 2, rel=0.15) and (many[:, :, :2] == images[:1, :, :2]).all()


def test_the_trajectory_begins_with_noise_and_ends_with_the_image(diffusion):
    how = dict(seed=0, steps=7, sampler="dpmpp_2m", spacing="log_snr")
    states = diffusion.sample(2, return_all_timesteps=True, **how)
    assert states.shape == (2, 8, 1, 4, 4)
    np.testing.assert_array_equal(states[:, -1], diffusion.sample(2, **how))


def test_the_pipeline_says_what_its_images_took(diffusion, images):
    options = SamplingConfig(sampler="heun", steps=7, seed=11)
    drawn = diffusion.pipeline.sample(2, options)
    assert (drawn.nfe, drawn.seed) == (13, 11)
    np.testing.assert_array_equal(drawn.images, diffusion.sample(2, sampler="heun", steps=7, seed=11))
    # What brings the images there counts as well.
    redraw = SamplingConfig(steps=10, strength=0.5, invert=True)
    assert diffusion.pipeline.sample(3, redraw, init_images=images).nfe == 10
    assert diffusion.pipeline.interpolate(images[:1], images[1:2], 0.5, redraw).nfe == 15


@pytest.mark.parametrize(("call", "message"), [
    (lambda d, x: d.sample(2, init_images=x), r"images have shape \(3, 1, 4, 4\), allowed: \(2, 1, 4, 4\)"),
    (lambda d, x: d.sample(3, init_images=x[:, :, :3]), r"images have shape \(3, 1, 3, 4\)"),
    (lambda d, x: d.sample(3, init_images=x, strength=1.5), "strength is 1.5, allowed: 0.0 to 1.0"),
    (lambda d, x: d.inpaint(x, np.ones((3, 4))), r"the mask has shape \(3, 4\), allowed: \(4, 4\)"),
    (lambda d, x: d.inpaint(x, np.full((4, 4), 0.5)), "values other than 0 and 1"),
    (lambda d, x: d.interpolate(x[:1], x[1:2], 1.5), "lam is 1.5, allowed: 0 to 1"),
    (lambda d, x: d.interpolate(x, x, [0.1, 0.2]), "lam has 2 entries for 3 images"),
    (lambda d, x: d.sample(3, init_images=x * 255), "images have values from .* allowed: 0 to 1"),
    (lambda d, x: d.sample(3, init_images=x, latents=x), "both init_images and latents"),
    (lambda d, x: d.sample(1, guidance_interval=(0.8, 0.2)), "guidance_interval is 0.8 to 0.2"),
    (lambda d, x: d.sample(1, stepz=3), "unknown key 'sampling.stepz', did you mean 'sampling.steps'"),
    (lambda d, x: d.sample(1, variance="learned"), "variance is 'learned', allowed with a network"),
    (lambda d, x: d.sample(1, sampler="heun", eta=0.5), "sampling.eta is 0.5, which heun does not take but ddim, allowed: null"),
    (lambda d, x: d.sample(1, sampler="ddim", variance="fixed_large"),
     "sampling.variance is .fixed_large., which ddim does not take but ddpm"),
    (lambda d, x: d.sample(1, guidance_interval=(0, 2)), "guidance_interval is 2, allowed: 0.0 to 1.0"),
])
def test_what_does_not_fit_is_refused(diffusion, images, call, message):
    with pytest.raises(InputError, match=message):
        call(diffusion, images)
