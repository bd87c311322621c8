"""Samplers against data whose diffusion is known exactly, in float64."""

import numpy as np
import pytest

from ddpm_ms.diffusion.objectives import Prediction
from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.evaluation.exact import IMAGES, GaussianMixture, run
from ddpm_ms.parts import SAMPLERS, options_of
from ddpm_ms.sampling.samplers.ddim import ddim_inversion
from ddpm_ms.sampling.samplers.order import order_of
from ddpm_ms.sampling.samplers.repaint import repaint_path, sample_repaint
from ddpm_ms.sampling.spacing import sampling_steps

MOONS = GaussianMixture(np.array([0.3, 0.7]), np.array([[-1.0, 0.4], [0.8, -0.5]]), np.array([[0.2, 0.5], [0.4, 0.1]]))
DETERMINISTIC = [name for name in SAMPLERS if order_of(SAMPLERS[name]) is not None]


@pytest.fixture(scope="module")
def schedule():
    return create_schedule("cosine", 3200)


def test_the_samplers_of_an_sde_are_these():
    assert set(SAMPLERS) - set(DETERMINISTIC) == {"ddpm", "dpmpp_2m_sde"}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_converge_to_the_exact_flow_at_the_order_they_declare(schedule, name):
    order = order_of(SAMPLERS[name])
    x = np.random.default_rng(0).standard_normal((50, 4))
    high, low = 2880, 320  # where the flow is smooth, so that the order can show
    counts = [10, 20, 40, 80, 160, 320]
    exact = IMAGES.flow(x, schedule, high, low)
    errors = [np.abs(run(name, IMAGES, schedule, np.linspace(high, low, n + 1).astype(int).tolist(), x)[0] - exact).max()
              for n in counts]
    slope = -np.polyfit(np.log(counts[2:]), np.log(errors[2:]), 1)[0]
    assert slope == pytest.approx(order, abs=0.15), errors
    assert errors[-1] < 0.02 / 10 ** (order - 1)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_reach_the_exact_image_from_pure_noise(name):
    schedule = create_schedule("linear", 1000)
    x = np.random.default_rng(0).standard_normal((50, 4))
    steps = sampling_steps(schedule, 250, "log_snr")
    result, _ = run(name, IMAGES, schedule, steps, x)
    np.testing.assert_allclose(result, IMAGES.flow(x, schedule, 999, -1), atol=0.02 if name == "ddim" else 0.004)


@pytest.mark.parametrize(("name", "options"), [
    ("ddpm", {"variance": "fixed_small"}), ("ddpm", {"variance": "fixed_large"}), ("ddim", {"eta": 0.5}), ("ddim", {"eta": 1.0}),
    ("dpmpp_2m_sde", {}), *((name, {}) for name in DETERMINISTIC),
])
@pytest.mark.parametrize("data", [IMAGES, MOONS], ids=["gaussian", "mixture"])
def test_every_sampler_reaches_the_mean_and_covariance_of_the_data(name, options, data):
    schedule = create_schedule("cosine", 1000)
    x = np.random.default_rng(3).standard_normal((20_000, data.means.shape[1]))
    result, _ = run(name, data, schedule, sampling_steps(schedule, 250, "linspace"), x, **options)
    truth = data.draw(400_000, np.random.default_rng(4))
    np.testing.assert_allclose(result.mean(0), truth.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(result.T), np.cov(truth.T), atol=0.02)
    if data is MOONS:
        left = (result[:, 0] < 0).mean()
        assert left == pytest.approx((truth[:, 0] < 0).mean(), abs=0.015)


@pytest.mark.parametrize(("name", "nfe"), [("heun", 19), *((name, 10) for name in SAMPLERS if name != "heun")])
def test_the_evaluations_are_as_many_as_the_table_says(name, nfe):
    schedule = create_schedule("cosine", 1000)
    assert run(name, IMAGES, schedule, sampling_steps(schedule, 10), np.zeros((1, 4)))[1] == nfe


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_every_sampler_survives_few_steps_and_a_start_without_signal(name, steps):
    schedule = create_schedule("linear", 1000, rescale_betas_zero_snr=True)
    x = np.random.default_rng(0).standard_normal((500, 4))
    visited = sampling_steps(schedule, steps, "trailing")
    assert schedule.alpha_cumprod(visited[0]) == 0
    result, _ = run(name, IMAGES, schedule, visited, x)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result.mean(0), IMAGES.means[0], atol=0.15)


def test_ddpm_with_a_learned_variance_interpolates_between_the_two_fixed_ones():
    schedule = create_schedule("cosine", 1000)
    steps, x = sampling_steps(schedule, 5), np.random.default_rng(0).standard_normal((20, 4))
    exact = IMAGES.denoiser(schedule)

    def final(variance, fraction=None):
        noise = np.random.default_rng(1)
        *_, last = SAMPLERS["ddpm"](lambda x, t: Prediction(*exact(x, t)[:2], fraction), x, steps, schedule,
                                    lambda i: noise.standard_normal(x.shape), variance=variance)
        return last

    np.testing.assert_allclose(final("learned", np.zeros(4)), final("fixed_small"), rtol=1e-12)
    np.testing.assert_allclose(final("learned", np.ones(4)), final("fixed_large"), rtol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_transition_adds_no_noise(name):
    schedule = create_schedule("cosine", 1000)
    x, noisiest = np.ones((2, 4)), {"eta": 1.0, "variance": "fixed_large"}
    *_, last = SAMPLERS[name](IMAGES.denoiser(schedule), x, [3, -1], schedule, lambda i: pytest.fail("noise was asked for"),
                              **{key: noisiest[key] for key in options_of(SAMPLERS[name])})
    np.testing.assert_allclose(last, IMAGES.denoiser(schedule)(x, 3).pred_x_start, rtol=1e-12)


def test_inversion_and_ddim_are_inverse_up_to_an_error_that_falls_with_the_steps(schedule):
    x = IMAGES.draw(50, np.random.default_rng(0))
    exact = IMAGES.denoiser(schedule)
    errors = []
    for count in (20, 80, 320):
        steps = sampling_steps(schedule, count)
        *_, latent = ddim_inversion(exact, x, steps[::-1], schedule)
        back, _ = run("ddim", IMAGES, schedule, steps, latent)
        errors.append(np.sqrt(((back - x) ** 2).mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.005, errors


def test_the_repaint_path_is_the_papers():
    # Ten transitions, stretches of three, each walked twice.
    path = repaint_path(list(range(9, -2, -1)), jump_length=3, resamplings=2)
    assert path == [9, 8, 7, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, -1]
    assert repaint_path([5, 3, 1, -1], 1, 1) == [5, 3, 1, -1]
    assert repaint_path([5, 3, 1, -1], 10, 2) == [5, 3, 1, 3, 5, 3, 1, -1]  # no stretch is longer than the path


def test_repaint_draws_the_unknown_from_the_conditional_distribution():
    # Two correlated pixels: given the first, the second is known up to its own part.
    data = GaussianMixture(np.full(2, 0.5), np.array([[-0.8, -0.8], [0.8, 0.8]]), np.full((2, 2), 0.1))
    schedule = create_schedule("cosine", 1000)
    count, noise = 2000, np.random.default_rng(0)
    known, mask = np.tile([[0.75, 0.0]], (count, 1)), np.array([[1.0, 0.0]])
    path = repaint_path(sampling_steps(schedule, 50), 5, 5)
    *_, last = sample_repaint(data.denoiser(schedule), noise.standard_normal((count, 2)), path, schedule,
                              lambda i: noise.standard_normal((count, 2)), known=known, mask=mask)
    np.testing.assert_array_equal(last[:, 0], 0.75)
    assert (last[:, 1] > 0).mean() > 0.97 and last[last[:, 1] > 0, 1].mean() == pytest.approx(0.8, abs=0.03)
