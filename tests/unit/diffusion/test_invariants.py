"""What must hold for any numbers, not for chosen ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor

from ddpm_ms import GaussianDiffusion
from ddpm_ms.diffusion.objectives import noise_and_start, target
from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.parts import SCHEDULES, SPACINGS
from ddpm_ms.sampling.editing import slerp
from ddpm_ms.sampling.spacing import sampling_steps

seeds = st.integers(0, 2**32 - 1)
schedules = st.builds(create_schedule, st.sampled_from(sorted(SCHEDULES)), st.integers(50, 400), st.none(), st.booleans())


def normal(seed, shape=(2, 1, 3, 5)):
    return np.random.default_rng(seed).standard_normal(shape)


@given(schedules, seeds, st.floats(0, 1), st.sampled_from(["pred_noise", "pred_x0", "pred_v"]))
@settings(max_examples=60, deadline=None)
def test_from_any_prediction_the_noise_and_x0_come_back(schedule, seed, share, objective):
    t = round(share * (len(schedule) - 1))
    alpha, sigma = schedule.alpha_sigma(t)
    if objective == "pred_noise" and alpha == 0:
        return
    noise, x_start = normal(seed), normal(seed + 1)
    x = alpha * x_start + sigma * noise
    output = {"pred_noise": noise, "pred_x0": x_start, "pred_v": alpha * noise - sigma * x_start}[objective]
    np.testing.assert_array_equal(target(objective, x_start, noise, alpha, sigma), output)
    seen_noise, seen_start = noise_and_start(objective, output, x, alpha, sigma)
    np.testing.assert_allclose(seen_noise, noise, atol=1e-9 / sigma)
    np.testing.assert_allclose(seen_start, x_start, atol=1e-9 / max(alpha, 1e-5))


@given(schedules, st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_posterior_is_the_product_of_the_forward_step_and_the_marginal(schedule, share):
    t = 1 + round(share * (len(schedule) - 2))
    # N(x_t; sqrt(alpha) x_{t-1}, beta) N(x_{t-1}; sqrt(abar) x_0, 1 - abar) as a Gaussian in x_{t-1}.
    alpha, beta, before = schedule.alphas[t], schedule.betas[t], schedule.alphas_cumprod[t - 1]
    precision = alpha / beta + 1 / (1 - before)
    np.testing.assert_allclose(schedule.posterior_variance[t], 1 / precision, rtol=1e-9)
    np.testing.assert_allclose(schedule.posterior_mean_coef1[t], np.sqrt(before) / (1 - before) / precision, rtol=1e-9)
    np.testing.assert_allclose(schedule.posterior_mean_coef2[t], np.sqrt(alpha) / beta / precision, rtol=1e-9, atol=1e-15)


@given(schedules, st.integers(1, 50), st.sampled_from(sorted(SPACINGS)))
@settings(max_examples=80, deadline=None)
def test_steps_asked_for_are_distinct_falling_steps_to_the_clean_image(schedule, count, spacing):
    steps = sampling_steps(schedule, count, spacing)
    assert len(steps) == count + 1 and steps[-1] == -1 and steps[0] < len(schedule)
    assert all(a > b for a, b in zip(steps, steps[1:]))


@given(seeds, st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_slerp_stays_between_the_lengths_of_its_ends(seed, share):
    a, b = normal(seed), 3 * normal(seed + 1)
    between = np.linalg.norm(slerp(a, b, np.array([share, share])).reshape(2, -1), axis=1)
    lengths = np.sort([np.linalg.norm(x.reshape(2, -1), axis=1) for x in (a, b)], axis=0)
    assert (between <= lengths[1] * 1.5).all() and (between >= lengths[0] * 0.5).all()
    np.testing.assert_allclose(slerp(a, b, np.array([share, share])), slerp(b, a, 1 - np.array([share, share])), atol=1e-9)


@pytest.fixture(scope="module")
def conditional():
    from ddpm_ms import Unet, runtime

    runtime.seed_weights(0)
    network = Unet(dim=8, dim_mults=(1,), channels=1, attn_heads=1, attn_dim_head=4, num_classes=3, self_condition=True)
    return GaussianDiffusion(network, image_size=4, timesteps=20)


@given(seeds, st.sampled_from(["ddpm", "ddim", "heun", "dpmpp_2m_sde", "unipc"]), st.integers(0, 5))
@settings(max_examples=12, deadline=None)
def test_an_image_does_not_depend_on_its_neighbours(conditional, seed, sampler, first):
    how = dict(seed=seed, sampler=sampler, steps=3, guidance_scale=2.0)
    both = conditional.sample(2, first_index=first, **how)
    np.testing.assert_allclose(conditional.sample(1, first_index=first + 1, **how), both[1:], atol=2e-5)


@given(seeds, st.lists(st.booleans(), min_size=16, max_size=16))
@settings(max_examples=8, deadline=None)
def test_inpainting_keeps_what_is_known_bit_by_bit(conditional, seed, known):
    mask = np.array(known, np.float32).reshape(4, 4)
    image = np.random.default_rng(seed).random((1, 1, 4, 4)).astype(np.float32)
    drawn = conditional.inpaint(image, mask, steps=3, jump_length=1, resamplings=2, seed=seed)
    np.testing.assert_array_equal(drawn[0, 0][mask == 1], image[0, 0][mask == 1])


@given(seeds)
@settings(max_examples=5, deadline=None)
def test_guidance_of_scale_one_is_no_guidance(conditional, seed):
    plain = conditional.sample(1, seed=seed, steps=3)
    np.testing.assert_array_equal(conditional.sample(1, seed=seed, steps=3, guidance_scale=1.0, guidance_rescale=0.7), plain)
    nearly = conditional.sample(1, seed=seed, steps=3, guidance_scale=1.0 + 1e-6)
    np.testing.assert_allclose(nearly, plain, atol=1e-4)


@given(seeds, st.integers(1, 49))
@settings(max_examples=20, deadline=None)
def test_q_posterior_of_tensors_is_that_of_the_tables(conditional, seed, t):
    x_start, x = (normal(s, (1, 1, 4, 4)).astype(np.float32) for s in (seed, seed + 1))
    s, t = conditional.schedule, t % 20
    mean, variance, _ = conditional.q_posterior(Tensor(x_start), Tensor(x), Tensor(np.array([t], np.int32)))
    expected = s.posterior_mean_coef1[t] * x_start + s.posterior_mean_coef2[t] * x
    np.testing.assert_allclose(mean.asnumpy(), expected, atol=1e-5)
    np.testing.assert_allclose(variance.asnumpy().item(), s.posterior_variance[t], rtol=1e-6)
