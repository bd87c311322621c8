"""GaussianDiffusion against closed forms."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from ddpm_ms import GaussianDiffusion
from ddpm_ms.errors import InputError
from ddpm_ms.sampling.spacing import sampling_steps

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")


class Answer(nn.Cell):
    """A network that always answers a given array, and remembers what it was asked."""

    channels, out_dim = 1, 1

    def __init__(self, answer, self_condition=False):
        super().__init__()
        self.answer, self.self_condition, self.asked = answer, self_condition, []

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        self.asked.append((x, time, x_self_cond))
        return self.answer


def arrays(batch=4, seed=0):
    random = np.random.default_rng(seed)
    image = random.uniform(0, 1, (batch, 1, 4, 4)).astype(np.float32)
    noise = random.standard_normal((batch, 1, 4, 4)).astype(np.float32)
    t = np.array([0, 300, 700, 999][:batch], np.int32)
    return image, noise, t


def tensors(*values):
    return [Tensor(v) for v in values]


@pytest.fixture
def diffusion(tiny_unet):
    return GaussianDiffusion(tiny_unet(), image_size=4)


def test_prediction_formulas_invert_each_other(diffusion):
    image, noise, t = tensors(*arrays())
    t = Tensor(np.array([5, 300, 600, 900], np.int32))
    x = diffusion.q_sample(image, t, noise)
    close = dict(rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(diffusion.predict_start_from_noise(x, t, noise).asnumpy(), image.asnumpy(), **close)
    np.testing.assert_allclose(diffusion.predict_noise_from_start(x, t, image).asnumpy(), noise.asnumpy(), **close)
    v = diffusion.predict_v(image, t, noise)
    np.testing.assert_allclose(diffusion.predict_start_from_v(x, t, v).asnumpy(), image.asnumpy(), **close)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("loss_type", ["l1", "l2", "huber"])
def test_loss_is_the_distance_to_the_target_of_the_objective(objective, loss_type):
    image, noise, t = arrays()
    answer = np.random.default_rng(1).standard_normal(image.shape).astype(np.float32) * 2
    diffusion = GaussianDiffusion(Answer(Tensor(answer)), image_size=4, objective=objective, loss_type=loss_type,
                                  loss_weight="none")
    abar = diffusion.schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    x0 = image * 2 - 1
    target = {"pred_noise": noise, "pred_x0": x0, "pred_v": np.sqrt(abar) * noise - np.sqrt(1 - abar) * x0}[objective]
    error = np.abs(answer - target)
    distance = {"l1": error, "l2": error**2, "huber": np.where(error < 1, error**2 / 2, error - 0.5)}[loss_type]
    loss = diffusion(*tensors(image, t, noise), False)
    assert loss.dtype == ms.float32 and loss.shape == ()
    np.testing.assert_allclose(loss.asnumpy(), distance.mean(), rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_p2_weights_each_image_by_its_own_noise_level(objective):
    image, noise, t = arrays(batch=4)
    answer = Tensor(np.zeros_like(image))
    plain = GaussianDiffusion(Answer(answer), image_size=4, objective=objective, loss_weight="none")
    p2 = GaussianDiffusion(Answer(answer), image_size=4, objective=objective, p2_loss_weight_gamma=1)
    each = plain.losses(*tensors(image, t, noise)).asnumpy()
    expected = ((1 - plain.schedule.alphas_cumprod[t]) * each).mean()
    np.testing.assert_allclose(p2(*tensors(image, t, noise), False).asnumpy(), expected, rtol=1e-5)
    assert abs(expected - (1 - plain.schedule.alphas_cumprod[t]).mean() * each.mean()) > 1e-3 * expected


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_self_conditioning_feeds_the_clipped_x0_in_training_as_in_sampling(objective):
    image, noise, t = arrays()
    network = Answer(Tensor(np.full_like(image, 3.0)), self_condition=True)
    diffusion = GaussianDiffusion(network, image_size=4, objective=objective)
    diffusion.losses(*tensors(image, t, noise), True)
    (x, time, first), (_, _, second) = network.asked
    assert first is None
    expected = diffusion.model_predictions(x, time).pred_x_start.asnumpy()
    assert np.abs(expected).max() <= 1
    np.testing.assert_array_equal(second.asnumpy(), expected)


@pytest.mark.parametrize(("keywords", "name"), [
    ({}, "snr"), (dict(p2_loss_weight_gamma=0), "none"), (dict(p2_loss_weight_gamma=0.5), "p2"), (dict(loss_weight="p2"), "p2"),
    (dict(min_snr_loss_weight=True), "min_snr"), (dict(loss_weight="min_snr", min_snr_loss_weight=True), "min_snr"),
])
def test_the_keywords_of_scripts_choose_one_weight_of_the_loss(tiny_unet, keywords, name):
    diffusion = GaussianDiffusion(tiny_unet(), image_size=4, **keywords)
    gamma = keywords.get("p2_loss_weight_gamma") or None
    named = GaussianDiffusion(tiny_unet(), image_size=4, loss_weight=name, p2_loss_weight_gamma=gamma)
    np.testing.assert_array_equal(diffusion.loss_weight.asnumpy(), named.loss_weight.asnumpy())
    assert diffusion.config.loss_weight == name


def test_calling_with_images_alone_draws_the_rest(tiny_unet):
    diffusion = GaussianDiffusion(tiny_unet(self_condition=True), image_size=4)
    image = Tensor(arrays()[0])
    assert diffusion(image).asnumpy() != diffusion(image).asnumpy()


@pytest.mark.parametrize("steps", [7, 10, 13, 50, 128])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_steps_visited_are_the_steps_asked_for(steps, sampler, monkeypatch):
    network = Answer(Tensor(np.zeros((2, 1, 4, 4), np.float32)))
    diffusion = GaussianDiffusion(network, image_size=4)
    monkeypatch.setattr("ddpm_ms.runtime.compiled", lambda method: method)
    diffusion.sample(2, sampler=sampler, steps=steps, spacing="trailing", seed=0)
    assert [int(t.asnumpy()[0]) for _, t, _ in network.asked] == sampling_steps(diffusion.schedule, steps, "trailing")[:-1]


def test_ddim_with_eta_1_and_all_steps_is_ddpm_with_the_small_variance(tiny_unet):
    diffusion = GaussianDiffusion(tiny_unet(), image_size=4, timesteps=50)
    ddim = diffusion.sample(2, sampler="ddim", eta=1.0, seed=3)
    np.testing.assert_allclose(ddim, diffusion.sample(2, sampler="ddpm", seed=3), atol=2e-5)
    assert np.abs(ddim - diffusion.sample(2, sampler="ddpm", variance="fixed_large", seed=3)).max() > 1e-2


def test_the_default_eta_is_that_of_samplers_that_take_one(tiny_unet):
    diffusion = GaussianDiffusion(tiny_unet(), image_size=4, timesteps=50, ddim_sampling_eta=1.0)
    how = dict(seed=3, steps=5)
    np.testing.assert_array_equal(diffusion.sample(2, **how), diffusion.sample(2, sampler="ddim", eta=1.0, **how))
    assert np.abs(diffusion.sample(2, **how) - diffusion.sample(2, sampler="ddim", eta=0.0, **how)).max() > 1e-2
    diffusion.sample(2, sampler="heun", **how)
    with pytest.raises(InputError, match=r"sampling\.eta is 0\.5, which heun does not take but ddim, allowed: null"):
        diffusion.sample(2, sampler="heun", eta=0.5, **how)


def test_an_image_depends_on_its_seed_and_number_and_not_on_the_batch(tiny_unet):
    diffusion = GaussianDiffusion(tiny_unet(self_condition=True), image_size=4, timesteps=20)
    whole = diffusion.sample(5, seed=7, sampler="ddpm")
    assert whole.shape == (5, 1, 4, 4) and whole.min() >= 0 and whole.max() <= 1
    np.testing.assert_allclose(diffusion.sample(2, seed=7, sampler="ddpm", first_index=3), whole[3:], atol=1e-5)
    assert np.abs(diffusion.sample(5, seed=8, sampler="ddpm") - whole).max() > 0.1


def test_the_callback_sees_every_transition_and_self_conditioning_carries_x0(monkeypatch):
    network = Answer(Tensor(np.full((1, 1, 4, 4), 0.25, np.float32)), self_condition=True)
    diffusion = GaussianDiffusion(network, image_size=4, objective="pred_x0", timesteps=20)
    monkeypatch.setattr("ddpm_ms.runtime.compiled", lambda method: method)
    seen = []
    diffusion.sample(1, steps=3, seed=0, callback=lambda done, of, x: seen.append((done, of, x.shape)))
    assert seen == [(k, 3, (1, 1, 4, 4)) for k in range(4)]
    assert [float(c.asnumpy().max()) for _, _, c in network.asked] == [0.0, 0.25, 0.25]


@pytest.mark.parametrize(("keywords", "message"), [
    (dict(objective="v"), "objective is 'v', allowed: pred_noise"),
    (dict(beta_schedule="cos"), "beta_schedule is 'cos', allowed: linear, scaled_linear, cosine, sigmoid, quadratic, did"),
    (dict(timesteps=0), "timesteps is 0"),
    (dict(ddim_sampling_eta=2), "ddim_sampling_eta is 2, allowed: 0 to 1"),
    (dict(image_size=7), r"image height is 7, allowed for this network: multiples of 2 \(nearest: 6 or 8\)"),
    (dict(p2_loss_weight_gamma=-1), "p2_loss_weight_gamma is -1"),
    (dict(loss_weight="snr", p2_loss_weight_gamma=0.5), "loss weights are p2, snr .*, allowed: one of them"),
    (dict(p2_loss_weight_gamma=0.5, min_snr_loss_weight=True), "loss weights are min_snr, p2"),
    (dict(rescale_betas_zero_snr=True), r"loss_weight is 'snr' where the last step has no signal .*, allowed: .* such as none"),
])
def test_wrong_keywords_are_refused(tiny_unet, keywords, message):
    with pytest.raises(InputError, match=message):
        GaussianDiffusion(tiny_unet(), **{"image_size": 4, **keywords})


@pytest.mark.parametrize(("keywords", "message"), [
    (dict(sampler="euler2"), "sampler is 'euler2'"), (dict(steps=-1), "steps is -1"), (dict(steps=1001), "steps is 1001"),
    (dict(eta=-0.1), "eta is -0.1"), (dict(spacing="cubic"), "spacing is 'cubic'"), (dict(batch_size=0), "batch_size is 0"),
])
def test_wrong_sampling_arguments_are_refused(diffusion, keywords, message):
    with pytest.raises(InputError, match=message):
        diffusion.sample(**{"batch_size": 1, **keywords})


def test_a_class_conditional_network_is_told_the_labels(tiny_unet):
    diffusion = GaussianDiffusion(tiny_unet(num_classes=3), image_size=4, timesteps=20)
    how = dict(steps=3, seed=0)
    in_turn = diffusion.sample(4, **how)
    np.testing.assert_array_equal(diffusion.sample(4, classes=[0, 1, 2, 0], **how), in_turn)
    assert np.abs(diffusion.sample(4, classes=[1, 1, 2, 3], **how) - in_turn)[[0, 3]].max() > 1e-5
    for classes, message in (([4, 0], "class is 4, allowed: 0 to 2, or 3 for no class"),
                             ([0], "there are 1 classes for 2 images")):
        with pytest.raises(InputError, match=message):
            diffusion.sample(2, classes=classes, **how)
    with pytest.raises(InputError, match="not class-conditional"):
        GaussianDiffusion(tiny_unet(), image_size=4).sample(1, classes=[0], steps=1)
