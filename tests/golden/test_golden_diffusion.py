"""Our samplers and losses against arrays that diffusers and denoising-diffusion-pytorch made (see the two make_*.py)."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from ddpm_ms import GaussianDiffusion
from ddpm_ms.diffusion.objectives import Prediction
from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.parts import SAMPLERS

DIFFUSERS = np.load(Path(__file__).parent / "diffusers_samplers.npz")
LUCIDRAINS = np.load(Path(__file__).parent / "lucidrains_diffusion.npz")
NEAR = dict(rtol=1e-5, atol=1e-5)


def formula(x, t):
    return 0.8 * np.tanh(x + 0.3) * np.cos(t / 300) + 0.4 * x


def denoiser(schedule, clip):
    """The formula as predicted noise, float64; x0 clipped and the noise derived again, or neither."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha_sigma(t)
        noise = formula(x, t)
        x_start = (x - sigma * noise) / alpha
        if clip:
            x_start = np.clip(x_start, -1, 1)
            noise = (x - alpha * x_start) / sigma
        return Prediction(noise, x_start, (np.sin(3 * x) + 1) / 2)

    return denoise


def ours(sampler, steps, timesteps=1000, clip=False, start=None, **options):
    schedule = create_schedule("linear", timesteps, betas=np.linspace(1e-4, 0.02, timesteps))
    start = DIFFUSERS["start"] if start is None else start
    *_, last = SAMPLERS[sampler](denoiser(schedule, clip), start, steps, schedule, lambda i: DIFFUSERS["noise"][i], **options)
    return last


@pytest.mark.parametrize(("case", "sampler", "options"), [
    ("ddpm_fixed_small", "ddpm", dict(variance="fixed_small")),
    ("ddpm_fixed_large", "ddpm", dict(variance="fixed_large", clip=True)),
    ("ddpm_learned", "ddpm", dict(variance="learned")),
    ("ddim_eta0", "ddim", dict(eta=0.0)),
    ("ddim_eta05", "ddim", dict(eta=0.5, clip=True)),
    ("dpmpp_2m", "dpmpp_2m", {}),
    ("dpmpp_2m_sde", "dpmpp_2m_sde", {}),
    ("heun", "heun", dict(timesteps=1001)),
    ("unipc", "unipc", {}),
])
def test_samplers_equal_the_schedulers_of_diffusers(case, sampler, options):
    steps = [*DIFFUSERS[f"{case}.steps"].astype(int).tolist(), -1]
    theirs = DIFFUSERS[f"{case}.result"]
    np.testing.assert_allclose(ours(sampler, steps, **options), theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_ddim_goes_to_the_next_visited_step_where_diffusers_goes_elsewhere():
    # With trailing spacing diffusers moves from t to t - T // n, which it then does not visit: 999 -> 857, but visits 856.
    visited = DIFFUSERS["ddim_trailing7.steps"].astype(int).tolist()
    theirs = DIFFUSERS["ddim_trailing7.result"]
    x = DIFFUSERS["start"]
    for t in visited:
        x = ours("ddim", [t, max(t - 1000 // 7, -1)], start=x)
    np.testing.assert_allclose(x, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    assert np.abs(ours("ddim", [*visited, -1]) - theirs).max() > 1e-3


class Formula(nn.Cell):
    """`formula` as a network; with learned variance sin(3 x) as the second half."""

    channels = 1

    def __init__(self, learned_variance=False):
        super().__init__()
        self.out_dim = 1 + learned_variance

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        output = 0.8 * ops.tanh(x + 0.3) * ops.cos(time.astype(ms.float32) / 300).reshape((-1, 1, 1, 1)) + 0.4 * x
        return output if self.out_dim == 1 else ops.cat((output, ops.sin(3 * x)), 1)


def batch():
    return [Tensor(LUCIDRAINS["image"]), Tensor(LUCIDRAINS["t"].astype(np.int32)), Tensor(LUCIDRAINS["noise"])]


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_losses_equal_denoising_diffusion_pytorch(objective):
    # Its default, which weighs x0 by SNR and v by SNR / (SNR + 1) without saying so, is our "snr".
    default = GaussianDiffusion(Formula(), image_size=4, objective=objective, beta_schedule="linear", loss_weight="snr")
    np.testing.assert_allclose(default.losses(*batch()).asnumpy(), LUCIDRAINS[f"loss.{objective}.default"], rtol=2e-5)
    assert (LUCIDRAINS[f"weight.{objective}.default"] == 1).all() == (objective == "pred_noise")
    min_snr = GaussianDiffusion(Formula(), image_size=4, objective=objective, beta_schedule="linear", min_snr_loss_weight=True)
    np.testing.assert_allclose(min_snr.losses(*batch()).asnumpy(), LUCIDRAINS[f"loss.{objective}.min_snr"], rtol=2e-5)


def test_the_posterior_equals_denoising_diffusion_pytorchs():
    image, t, noise = batch()
    mean, variance, log_variance = GaussianDiffusion(Formula(), image_size=4, beta_schedule="linear").q_posterior(image, noise, t)
    np.testing.assert_allclose(mean.asnumpy(), LUCIDRAINS["posterior.mean"], **NEAR)
    np.testing.assert_allclose(variance.asnumpy(), LUCIDRAINS["posterior.variance"], **NEAR)
    # At t = 0 the variance is 0: theirs takes the logarithm of 1e-20, ours, as Improved DDPM does, that of the next step.
    np.testing.assert_allclose(log_variance.asnumpy()[1:], LUCIDRAINS["posterior.log_variance"][1:], **NEAR)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_a_ddim_run_equals_denoising_diffusion_pytorchs(objective, monkeypatch):
    monkeypatch.setattr("ddpm_ms.runtime.compiled", lambda method: method)
    diffusion = GaussianDiffusion(Formula(), image_size=4, objective=objective, beta_schedule="linear")
    images = diffusion.sample(4, sampler="ddim", steps=13, latents=LUCIDRAINS["start"])
    np.testing.assert_allclose(images, LUCIDRAINS[f"ddim.{objective}"], **NEAR)


def test_the_variational_bound_equals_denoising_diffusion_pytorchs():
    learned = GaussianDiffusion(Formula(True), image_size=4, objective="pred_noise")
    simple = GaussianDiffusion(Formula(), image_size=4, objective="pred_noise")
    bound = learned.losses(*batch()).asnumpy() - simple.losses(*batch()).asnumpy()
    # Its weight 0.001 forgets the T of the paper's sum over steps; ours is 0.001 T.
    for k in (1, 2, 3):
        np.testing.assert_allclose(bound[k] / 0.001 / 1000, LUCIDRAINS[f"vb.{k}"], rtol=2e-4, atol=1e-6)
