"""Noise schedules and which steps are visited."""

import numpy as np
import pytest

from ddpm_ms.config import DiffusionConfig, replace
from ddpm_ms.diffusion.loss_weights import create_loss_weight
from ddpm_ms.diffusion.schedules import NoiseSchedule, create_schedule, schedule_keys, schedule_of
from ddpm_ms.errors import InputError
from ddpm_ms.parts import LOSS_WEIGHTS, SCHEDULES, SPACINGS
from ddpm_ms.sampling.spacing import sampling_steps


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


def test_the_sigmoid_schedule_goes_from_its_start_to_its_end_as_steeply_as_tau_says():
    config = DiffusionConfig(beta_schedule="sigmoid", sigmoid_start=-2.0, sigmoid_end=4.0, sigmoid_tau=0.5)
    curve = 1 / (1 + np.exp(-(np.arange(1001) / 1000 * 6 - 2) / 0.5))
    exact = (curve[-1] - curve) / (curve[-1] - curve[0])
    np.testing.assert_allclose(schedule_of(config).alphas_cumprod[:999], exact[1:1000], rtol=1e-9)


def test_the_offset_of_the_cosine_schedule_is_an_option():
    time = np.arange(1, 1000) / 1000
    exact = np.cos((time + 0.1) / 1.1 * np.pi / 2) ** 2 / np.cos(0.1 / 1.1 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule_of(DiffusionConfig(cosine_s=0.1)).alphas_cumprod[:999], exact, rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_defaults_of_the_options_are_those_of_the_schedules(name):
    np.testing.assert_array_equal(schedule_of(DiffusionConfig(beta_schedule=name)).betas, create_schedule(name, 1000).betas)


def test_options_that_the_schedule_does_not_have_are_refused():
    with pytest.raises(InputError, match=r"sigmoid_tau is 0.5 with beta_schedule cosine, allowed: 1, or beta_schedule sigmoid"):
        schedule_of(DiffusionConfig(sigmoid_tau=0.5))
    with pytest.raises(InputError, match="sigmoid_start is 3 and sigmoid_end 3, allowed: an end above the start"):
        schedule_of(DiffusionConfig(beta_schedule="sigmoid", sigmoid_start=3.0))
    assert schedule_keys("sigmoid", {"tau": 0.5, "end": 2}) == {"sigmoid_tau": 0.5, "sigmoid_end": 2}
    with pytest.raises(InputError, match="schedule_fn_kwargs has 's', allowed with beta_schedule sigmoid: end, start, tau"):
        schedule_keys("sigmoid", {"s": 0.1})
    with pytest.raises(InputError, match="schedule_fn_kwargs has 'tau', allowed with beta_schedule linear: nothing"):
        schedule_keys("linear", {"tau": 1})


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
    ([1.0, 0.1], "beta of step 0"),
    ([0.1, 1.1], "beta of step 1"), ([0.0, 0.1], "beta of step 0"), ([0.1, np.nan], "beta of step 1"), ([], "at least one"),
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
    np.testing.assert_allclose(create_loss_weight(DiffusionConfig(loss_weight="p2"), s.snr), 1 - s.alphas_cumprod, rtol=1e-12)
    assert (create_loss_weight(DiffusionConfig(loss_weight="none"), s.snr) == 1).all()


def closed_form(name, objective, abar):
    """Every weight as its paper writes it, in alphas_cumprod."""
    signal, noise = abar, 1 - abar
    per_error = {"pred_x0": 1, "pred_noise": noise / signal, "pred_v": noise}[objective]  # squared error of x0 per unit
    return {
        "snr": signal / noise * per_error,
        "none": np.ones_like(abar),
        "p2": (2 + signal / noise) ** -0.5,
        "min_snr": np.where(signal < 5 * noise, signal / noise, 5) * per_error,
        "soft_min_snr": 1 / (noise / signal + 1 / 5) * per_error,
        "truncated_snr": np.where(signal > noise, signal / noise, 1) * per_error,
    }[name]


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("name", LOSS_WEIGHTS)
def test_every_weight_is_its_closed_form_for_every_objective(name, objective):
    for kind in ("linear", "cosine"):
        s = create_schedule(kind, 1000)
        config = DiffusionConfig(loss_weight=name, objective=objective, p2_loss_weight_gamma=0.5 if name == "p2" else None,
                                 p2_loss_weight_k=2, min_snr_gamma=5)
        weight = create_loss_weight(config, s.snr)
        np.testing.assert_allclose(weight, closed_form(name, objective, s.alphas_cumprod), rtol=1e-9)
        normal = create_loss_weight(replace(config, normalize_loss_weight=True), s.snr)
        assert normal.mean() == pytest.approx(1)
        np.testing.assert_allclose(normal / normal[0], weight / weight[0], rtol=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("timesteps", [20, 137, 1000])
def test_n_steps_asked_for_are_n_distinct_falling_steps(spacing, timesteps):
    schedule = create_schedule("cosine", timesteps)
    for n in range(1, timesteps + 1, 1 if timesteps < 1000 else 37):
        *steps, end = sampling_steps(schedule, n, spacing)
        assert end == -1 and len(steps) == n and steps == sorted(set(steps), reverse=True)
        assert 0 <= steps[-1] and steps[0] < timesteps
    assert sampling_steps(schedule, timesteps, spacing) == list(range(-1, timesteps))[::-1]


@pytest.mark.parametrize(("spacing", "expected"), [
    ("linspace", [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
    ("leading", [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
    ("trailing", [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
    ("both_ends", [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
    ("quadratic", [999, 789, 604, 444, 308, 197, 111, 49, 12, 0]),
])
def test_spacings_are_their_definitions(spacing, expected):
    assert sampling_steps(create_schedule("cosine", 1000), 10, spacing) == [*expected, -1]


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(InputError, match=f"steps is {steps}, allowed: 1 to 1000"):
        sampling_steps(create_schedule("cosine", 1000), steps)


def test_quadratic_schedules_are_even_in_the_root_of_beta():
    for name, ends in (("scaled_linear", (0.00085, 0.012)), ("quadratic", (1e-4, 0.02))):
        betas = create_schedule(name, 1000).betas
        np.testing.assert_allclose((betas[0], betas[-1]), ends, rtol=1e-12)
        assert np.ptp(np.diff(np.sqrt(betas))) < 1e-12
        # The same process whatever its number of steps: the signal that is left agrees.
        ends = [create_schedule(name, timesteps).alphas_cumprod[-1] for timesteps in (1000, 4000)]
        assert ends[0] == pytest.approx(ends[1], rel=0.2)


def test_explicit_betas_are_taken_as_they_are():
    np.testing.assert_array_equal(create_schedule("cosine", 3, betas=(0.1, 0.2, 0.3)).betas, [0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="there are 3 betas, allowed with timesteps=4: 4"):
        create_schedule("cosine", 4, betas=(0.1, 0.2, 0.3))


@pytest.mark.parametrize("name", SCHEDULES)
def test_zero_terminal_snr_moves_the_end_to_zero_and_leaves_the_beginning(name):
    plain, rescaled = create_schedule(name, 1000), create_schedule(name, 1000, rescale_betas_zero_snr=True)
    assert rescaled.alphas_cumprod[-1] == 0 and rescaled.betas[-1] == 1 and rescaled.snr[-1] == 0
    assert rescaled.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0], rel=1e-12)
    # Algorithm 1 is linear in sqrt(alphas_cumprod).
    slopes = np.diff(rescaled.sqrt_alphas_cumprod) / np.diff(plain.sqrt_alphas_cumprod)
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-6)
    assert np.isfinite(rescaled.posterior_variance).all() and np.isfinite(rescaled.posterior_mean_coef1).all()


@pytest.mark.parametrize(("spacing", "time"), [("karras", lambda s: s.snr ** (-1 / 14)), ("log_snr", lambda s: np.log(s.snr))])
def test_uneven_spacings_are_even_in_their_own_time(spacing, time):
    schedule = create_schedule("cosine", 1000)
    along, visited = time(schedule), sampling_steps(schedule, 12, spacing)[:-1]
    noisiest = np.flatnonzero(schedule.snr >= 80**-2)[-1]  # of those in which an image shows; T - 1 stands for it
    ideal = np.linspace(along[noisiest], along[0], 12)
    nearest = np.abs(along[:, None] - ideal).argmin(0)
    assert np.abs(nearest - visited)[1:].max() <= 1 and visited[0] == 999 and visited[-1] == 0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_spacings_survive_a_last_step_without_signal(spacing):
    schedule = create_schedule("linear", 1000, rescale_betas_zero_snr=True)
    steps = sampling_steps(schedule, 10, spacing)
    assert len(set(steps)) == 11 and steps[0] == (900 if spacing == "leading" else 999)
