"""Noise schedules and which steps are visited."""

import numpy as np
import pytest

from ddpm_ms.diffusion.loss_weights import min_snr_weight, p2_weight
from ddpm_ms.diffusion.samplers import SPACINGS, sampling_steps
from ddpm_ms.diffusion.schedules import SCHEDULES, NoiseSchedule, create_schedule
from ddpm_ms.errors import InputError


def test_linear_is_the_papers_schedule():
    schedule = create_schedule("linear", 1000)
    assert schedule.betas[0] == 1e-4 and schedule.betas[-1] == 0.02
    assert schedule.alphas_cumprod[-1] == pytest.approx(4.0358e-05, rel=1e-4)  # DDPM's signal at T


def test_cosine_follows_its_closed_form_until_the_clip():
    schedule = create_schedule("cosine", 1000)
    time = np.arange(1, 1000) / 1000
    exact = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alphas_cumprod[:999], exact, rtol=1e-9)
    assert schedule.betas[-1] == 0.999


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", [50, 1000])
def test_tables_are_float64_and_the_posterior_follows_bayes_rule(name, timesteps):
    s = create_schedule(name, timesteps)
    assert s.betas.dtype == np.float64 and (np.diff(s.alphas_cumprod) < 0).all()
    # q(x_{t-1} | x_t, x_0) as the product of two Gaussians in precision form, for t > 0.
    precision = s.alphas[1:] / s.betas[1:] + 1 / (1 - s.alphas_cumprod_prev[1:])
    np.testing.assert_allclose(s.posterior_variance[1:], 1 / precision, rtol=1e-9)
    mean_x0 = np.sqrt(s.alphas_cumprod_prev[1:]) / (1 - s.alphas_cumprod_prev[1:]) / precision
    mean_xt = np.sqrt(s.alphas[1:]) / s.betas[1:] / precision
    np.testing.assert_allclose(s.posterior_mean_coef1[1:], mean_x0, rtol=1e-9)
    np.testing.assert_allclose(s.posterior_mean_coef2[1:], mean_xt, rtol=1e-9)


@pytest.mark.parametrize(("betas", "message"), [
    ([0.1, 1.0], "beta of step 1"), ([0.0, 0.1], "beta of step 0"), ([0.1, np.nan], "beta of step 1"), ([], "at least one"),
    ([1e-20, 1e-20], "does not fall"),
])
def test_betas_that_are_no_schedule_are_refused(betas, message):
    with pytest.raises(InputError, match=message):
        NoiseSchedule(np.array(betas))


def test_linear_with_ten_timesteps_is_refused():
    with pytest.raises(InputError, match="with 10 timesteps, allowed: between 0 and 1"):
        create_schedule("linear", 10)


def test_p2_weight_with_k_1_gamma_1_is_one_minus_alphas_cumprod():
    s = create_schedule("cosine", 1000)
    np.testing.assert_allclose(p2_weight(s.snr, 1, 1), 1 - s.alphas_cumprod, rtol=1e-12)
    assert (p2_weight(s.snr, 0, 1) == 1).all()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("timesteps", [20, 137, 1000])
def test_n_steps_asked_for_are_n_distinct_falling_steps(spacing, timesteps):
    for n in range(1, timesteps + 1, 1 if timesteps < 1000 else 37):
        steps = sampling_steps(timesteps, n, spacing)
        assert len(steps) == n and steps == sorted(set(steps), reverse=True)
        assert 0 <= steps[-1] and steps[0] < timesteps
    assert sampling_steps(timesteps, timesteps, spacing) == list(range(timesteps))[::-1]


@pytest.mark.parametrize(("spacing", "expected"), [
    ("linspace", [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
    ("leading", [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
    ("trailing", [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
    ("quadratic", [999, 789, 604, 444, 308, 197, 111, 49, 12, 0]),
])
def test_spacings_are_their_definitions(spacing, expected):
    assert sampling_steps(1000, 10, spacing) == expected


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(InputError, match=f"steps is {steps}, allowed: 1 to 1000"):
        sampling_steps(1000, steps)


def test_min_snr_weighs_the_error_of_x0_alike_for_every_objective():
    s = create_schedule("cosine", 1000)
    abar, one_minus = s.alphas_cumprod, 1 - s.alphas_cumprod
    # The errors that one unit of error in x0 makes in the noise and in v, squared.
    of_noise, of_v = abar / one_minus, 1 / one_minus
    on_x0 = min_snr_weight(s.snr, 5, "pred_x0")
    np.testing.assert_allclose(on_x0, np.minimum(abar / one_minus, 5), rtol=1e-12)
    np.testing.assert_allclose(min_snr_weight(s.snr, 5, "pred_noise") * of_noise, on_x0, rtol=1e-9)
    np.testing.assert_allclose(min_snr_weight(s.snr, 5, "pred_v") * of_v, on_x0, rtol=1e-9)
