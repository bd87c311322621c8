"""How t is drawn in training."""

import numpy as np
import pytest

from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.errors import InputError
from ddpm_ms.parts import TIMESTEP_SAMPLERS
from ddpm_ms.training.timesteps import HISTORY, TimestepSampler


@pytest.mark.parametrize("name", [name for name in TIMESTEP_SAMPLERS if name != "log_normal"])
def test_every_draw_is_uniform_in_the_long_run_and_a_function_of_the_step(name):
    sampler = TimestepSampler(name, 20, seed=3)
    drawn = np.concatenate([sampler.draw(step, 7)[0] for step in range(6000)])
    assert drawn.dtype == np.int32
    counts = np.bincount(drawn, minlength=20)
    assert len(counts) == 20 and abs(counts / counts.mean() - 1).max() < 0.08
    again = TimestepSampler(name, 20, seed=3)
    np.testing.assert_array_equal(again.draw(5, 7)[0], sampler.draw(5, 7)[0])
    assert (again.draw(5, 70)[0] != again.draw(6, 70)[0]).any()


def test_antithetic_draws_pairs():
    t, weights = TimestepSampler("antithetic", 1000, 0).draw(0, 7)
    assert weights is None and len(t) == 7 and (t[0:6:2] + t[1:6:2] == 999).all()


def test_stratified_draws_one_from_each_part_in_random_order():
    t, _ = TimestepSampler("stratified", 1000, 0).draw(0, 10)
    assert sorted(t // 100) == list(range(10)) and list(t) != sorted(t)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_log_normal_draws_make_log_sigma_normal_whatever_the_schedule(schedule):
    snr = create_schedule(schedule, 4000).snr
    sampler = TimestepSampler("log_normal", 4000, 3, snr)
    t, weights = sampler.draw(0, 100_000)
    log_sigma = -0.5 * np.log(snr[t])
    assert weights is None and t.dtype == np.int32
    assert log_sigma.mean() == pytest.approx(-1.2, abs=0.02) and log_sigma.std() == pytest.approx(1.2, abs=0.02)
    assert np.quantile(log_sigma, 0.84) == pytest.approx(-0.0, abs=0.05)
    np.testing.assert_array_equal(TimestepSampler("log_normal", 4000, 3, snr).draw(0, 9)[0], sampler.draw(0, 9)[0])


def test_log_normal_is_refused_where_sigma_is_infinite():
    with pytest.raises(InputError, match="timestep_sampling is 'log_normal' where the last step has no signal"):
        TimestepSampler("log_normal", 1000, 0, create_schedule("linear", 1000, rescale_betas_zero_snr=True).snr)


def test_importance_follows_the_losses_and_its_weights_undo_it():
    sampler = TimestepSampler("loss_second_moment", 4, 0)
    truth = np.array([1.0, 2.0, 4.0, 1.0])
    assert (sampler.draw(0, 5)[1] == 1).all()  # uniform until every t has its history
    for _ in range(HISTORY + 3):
        sampler.report(np.arange(4), truth)
    np.testing.assert_allclose(sampler.probabilities(), truth / 8, rtol=2e-3)
    t, weights = sampler.draw(1, 40_000)
    np.testing.assert_allclose(np.bincount(t) / 40_000, truth / 8, atol=0.01)
    assert (weights * truth[t]).mean() == pytest.approx(truth.mean(), rel=0.01)  # the mean loss is unbiased


def test_only_the_last_losses_count_and_a_checkpoint_holds_them():
    sampler = TimestepSampler("loss_second_moment", 2, 0)
    for loss in (100.0, *[1.0] * HISTORY):
        sampler.report(np.array([0, 1]), np.array([loss, 3.0]))
    np.testing.assert_array_equal(sampler.losses, [[1.0] * HISTORY, [3.0] * HISTORY])
    np.testing.assert_allclose(sampler.probabilities(), [0.25, 0.75], rtol=2e-3)
    again = TimestepSampler("loss_second_moment", 2, 0)
    again.restore(sampler.state())
    np.testing.assert_array_equal(again.draw(7, 50)[0], sampler.draw(7, 50)[0])
    assert TimestepSampler("uniform", 2, 0).state() == {}


def test_an_unknown_draw_is_refused():
    with pytest.raises(InputError, match="timestep_sampling is 'importance', allowed: uniform, antithetic"):
        TimestepSampler("importance", 10, 0)
