"""The small networks: every option, the noise level at every resolution, transposed convolution, training, checkpoints."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from ddpm_ms import GaussianDiffusion, SimpleUnet, TinyUnet, Trainer, Unet, load_diffusion, runtime
from ddpm_ms.config import config_from_dict
from ddpm_ms.data import ArrayDataset
from ddpm_ms.errors import InputError
from ddpm_ms.models import SimpleUnetConfig, TinyUnetConfig, UnetConfig, create_model
from ddpm_ms.models.layers import GroupNorm, SinusoidalPosEmb, TransposedConv
from ddpm_ms.models.precision import set_precision
from ddpm_ms.models.tiny_unet import InterleavedPosEmb
from ddpm_ms.parts import SAMPLERS


def inputs(batch=2, channels=1, size=(8, 8)):
    x = np.random.default_rng(0).standard_normal((batch, channels, *size)).astype(np.float32)
    return Tensor(x), Tensor(np.arange(3, 3 + batch, dtype=np.int32))


def simple(**changes):
    runtime.seed_weights(0)
    return SimpleUnet(**{**dict(dim=8, dim_mults=(1, 2), channels=1, timesteps=30), **changes})


def tiny(**changes):
    runtime.seed_weights(0)
    return TinyUnet(**{**dict(dim=8, image_size=8, dim_mults=(1, 2), channels=1), **changes})


@pytest.mark.parametrize(("make", "options", "size"), [
    (simple, {}, (8, 8)), (simple, {"time_embedding": "learned", "down": "pool", "norm": "none", "activation": "relu"}, (6, 10)),
    (simple, {"dim_mults": (1, 2, 1)}, (4, 12)), (simple, {"dim_mults": (2,)}, (5, 7)),
    (simple, {"learned_variance": True, "channels": 3, "norm": "none"}, (8, 8)), (simple, {"tanh_output": True}, (8, 8)),
    (tiny, {}, (8, 8)), (tiny, {"image_size": (4, 12), "dim_mults": (1, 2, 1), "residual": True}, (4, 12)),
    (tiny, {"learned_variance": True, "channels": 3}, (8, 8)), (tiny, {"dim_mults": (1,), "image_size": 5}, (5, 5)),
])
def test_every_option_gives_the_right_shape_and_hears_the_time(make, options, size):
    model = make(**options)
    x, time = inputs(channels=options.get("channels", 1), size=size)
    out = model(x, time).asnumpy()
    assert out.shape == (2, model.out_dim, *size) and np.isfinite(out).all()
    assert np.abs(out - model(x, time + 20).asnumpy()).max() > 1e-4
    if options.get("tanh_output"):
        assert np.abs(out).max() <= 1


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("time_embedding", ["learned", "sinusoidal"])
def test_the_time_reaches_every_resolution(norm, time_embedding):
    model = simple(dim_mults=(1, 2, 4), norm=norm, time_embedding=time_embedding)
    x, time = inputs()
    blocks = [*model.downs, model.bottom, *model.ups]
    weights = [(block.time_proj.weight, block.time_proj.weight.asnumpy().copy()) for block in blocks]
    for heard, original in weights:
        # Only this block hears of it: each must be enough to change the output in every pixel's neighbourhood.
        for weight, _ in weights:
            weight.set_data(Tensor(np.zeros(weight.shape, np.float32)))
        heard.set_data(Tensor(original))
        change = model(x, time).asnumpy() - model(x, time + 20).asnumpy()
        assert (np.abs(change).max((0, 1)) > 1e-8).all()


@pytest.mark.parametrize("make", [simple, tiny])
def test_conditions_change_the_output_and_their_absence_is_neutral(make):
    x, time = inputs()
    model = make(self_condition=True, num_classes=3)
    plain = model(x, time).asnumpy()
    np.testing.assert_array_equal(model(x, time, ops.zeros_like(x)).asnumpy(), plain)
    assert np.abs(model(x, time, x).asnumpy() - plain).max() > 1e-4
    none = Tensor(np.array([3, 3], np.int32))
    np.testing.assert_array_equal(model(x, time, None, none).asnumpy(), plain)
    assert np.abs(model(x, time, None, none - 1).asnumpy() - plain).max() > 1e-4


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize(("make", "options"), [
    (simple, {}), (simple, {"time_embedding": "learned", "norm": "none", "down": "pool"}), (tiny, {"num_classes": 3}),
])
def test_half_precision_stays_near(make, options, level):
    x, time = inputs()
    model = make(**options).set_train(False)
    exact = model(x, time).asnumpy()
    set_precision(model, "fp16", level)
    found = model(x, time).asnumpy().astype(np.float32)
    assert 0 < np.abs(found - exact).max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize("changes", [{}, {"learned_sinusoidal_cond": True}])
def test_the_embedding_of_the_step_stays_float32_in_half_precision(tiny_unet, changes):
    networks = [tiny_unet(**changes), simple()]
    for embedding, model in zip((networks[0].time_mlp, networks[1].time_emb), networks):
        steps = Tensor([997.0, 998.0, 999.0], ms.float32)
        exact = embedding(steps).asnumpy()
        set_precision(model, "fp16", "O2")
        np.testing.assert_array_equal(embedding(steps).asnumpy(), exact)


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    x, time = inputs(batch=3)
    for model in (simple(), tiny()):
        np.testing.assert_allclose(model(x, time).asnumpy()[:1], model(x[:1], time[:1]).asnumpy(), rtol=1e-5, atol=1e-6)


def transposed(x, weight):
    """By definition: every pixel of x (B, C, H, W) adds its multiple of weight (C, D, 2, 2) at twice its place."""
    out = np.zeros((len(x), weight.shape[1], 2 * x.shape[2], 2 * x.shape[3]), np.float64)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            out[:, :, 2 * i:2 * i + 2, 2 * j:2 * j + 2] += np.einsum("bc,cdkl->bdkl", x[:, :, i, j], weight)
    return out


def test_the_transposed_convolution_is_one_and_so_is_its_gradient():
    layer, random = TransposedConv(3, 5), np.random.default_rng(0)
    x, seed = random.standard_normal((2, 3, 4, 6)), random.standard_normal((2, 5, 8, 12))
    # (2 * 2 * D, C): row and column in the square, output channel, input channel.
    weight = layer.conv.weight.asnumpy().reshape(2, 2, 5, 3).transpose(3, 2, 0, 1).astype(np.float64)
    np.testing.assert_allclose(layer(Tensor(x, ms.float32)).asnumpy(), transposed(x, weight), rtol=1e-5, atol=1e-5)

    def loss(x):
        return (layer(x) * Tensor(seed, ms.float32)).sum()

    dx, dweight = ms.grad(loss, 0, layer.conv.weight)(Tensor(x, ms.float32))
    # Linear in x and in the weight: the gradient is the adjoint.
    want = np.einsum("bdikjl,cdkl->bcij", seed.reshape(2, 5, 4, 2, 6, 2), weight)
    np.testing.assert_allclose(dx.asnumpy(), want, rtol=1e-4, atol=1e-4)
    want = np.einsum("bdikjl,bcij->kldc", seed.reshape(2, 5, 4, 2, 6, 2), x)
    np.testing.assert_allclose(dweight.asnumpy().reshape(2, 2, 5, 3), want, rtol=1e-4, atol=1e-4)


def test_the_group_norm_is_mindspores_with_the_scale_behind_it():
    ours, random = GroupNorm(8, 2), np.random.default_rng(0)
    for parameter in (ours.norm.gamma, ours.norm.beta):
        parameter.set_data(Tensor(random.standard_normal(8), ms.float32))
    x = Tensor(random.standard_normal((2, 8, 3, 5)) + 2, ms.float32)
    scale_shift = random.standard_normal((2, 16))
    scale, shift = (Tensor(part, ms.float32) for part in np.split(scale_shift, 2, 1))
    plain = ours.norm(x)
    np.testing.assert_allclose(ours(x).asnumpy(), plain.asnumpy(), rtol=1e-4, atol=1e-5)
    scaled = plain * (scale + 1).reshape((2, 8, 1, 1)) + shift.reshape((2, 8, 1, 1))
    np.testing.assert_allclose(ours(x, Tensor(scale_shift, ms.float32)).asnumpy(), scaled.asnumpy(), rtol=1e-4, atol=1e-4)

    seed = Tensor(random.standard_normal(x.shape), ms.float32)
    weights = (ours.norm.gamma, ours.norm.beta)
    found, want = (ms.grad(lambda x, f=f: (f(x) * seed).sum(), 0, weights)(x) for f in (ours, ours.norm))
    for ours_grad, grad in zip((found[0], *found[1]), (want[0], *want[1])):
        np.testing.assert_allclose(ours_grad.asnumpy(), grad.asnumpy(), rtol=1e-3, atol=1e-4)


def test_the_tiny_embedding_has_sine_and_cosine_in_turn():
    found = InterleavedPosEmb(6)(Tensor(np.array([0, 7], np.float32))).asnumpy()
    angles = 7 / 10000 ** (np.array([0, 2, 4]) / 6)
    np.testing.assert_allclose(found[0], [0, 1, 0, 1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(found[1], np.stack([np.sin(angles), np.cos(angles)], 1).ravel(), atol=1e-5)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: simple(norm="batch"), "norm is 'batch', allowed: group, none"),
    (lambda: simple(down="mean"), "down is 'mean', allowed: conv, pool"),
    (lambda: simple(time_embedding="learned", timesteps=None), "timesteps is None, allowed with time_embedding='learned'"),
    (lambda: simple().check_image_size(8, 7), r"image width is 7, allowed for this network: multiples of 2 \(nearest: 6 or 8\)"),
    (lambda: tiny(image_size=9), "image height is 9"),
    (lambda: tiny().check_image_size(8, 16), "image size is 8x16, allowed for this network: 8x8"),
    (lambda: GaussianDiffusion(simple(time_embedding="learned"), image_size=8, timesteps=40), "has 30 rows, .*: 40"),
    (lambda: GaussianDiffusion(simple(tanh_output=True), image_size=8, timesteps=30), "tanh_output is True .* allowed: pred_x0"),
    (lambda: config_from_dict({"model": {"name": "simple_unet", "block": "group"}}), "model.block is 'group', which simple_unet "
     "does not take but unet, allowed: name, dim, dim_mults, self_condition, .*tanh_output$"),
    (lambda: config_from_dict({"model": {"name": "tiny_unet", "dropout": 0.1}}), "model.dropout is 0.1, which tiny_unet does"),
    (lambda: config_from_dict({"model": {"residual": True}}), "model.residual is True, which unet does not take but tiny"),
    (lambda: Unet(8, config=UnetConfig()), "dim beside config, allowed: either a UnetConfig or its keywords"),
])
def test_what_does_not_fit_is_one_line(make, message):
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


RUNS = {
    "simple_unet": (SimpleUnetConfig(dim=8, dim_mults=(1, 2), time_embedding="learned", down="pool", norm="none",
                                activation="relu", num_classes=2), "pred_noise"),
    "simple_unet tanh": (SimpleUnetConfig(dim=8, dim_mults=(1, 2), tanh_output=True, learned_variance=True),
                         "pred_x0"),
    "tiny_unet": (TinyUnetConfig(dim=8, dim_mults=(1, 2), residual=True, self_condition=True), "pred_v"),
}


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.usefixtures("without_graphs")
@pytest.mark.parametrize("make", [simple, tiny])
def test_each_works_with_every_objective_and_sampler(make, objective):
    diffusion = GaussianDiffusion(make(self_condition=True), image_size=8, timesteps=30, objective=objective)
    x, time = inputs(size=(8, 8))
    losses = diffusion.losses(ops.clamp(x, 0, 1), time, x, True).asnumpy()
    assert losses.shape == (len(x),) and np.isfinite(losses).all()
    drawn = {name: diffusion.sample(2, seed=0, sampler=name, steps=4) for name in SAMPLERS}
    assert all(images.shape == (2, 1, 8, 8) and np.isfinite(images).all() for images in drawn.values())
    assert np.abs(drawn["ddim"] - drawn["ddpm"]).max() > 0


def test_a_small_network_needs_what_it_is_made_for():
    with pytest.raises(InputError, match="image_size is None"):
        create_model(TinyUnetConfig(), 1)
    for kind in (UnetConfig, SimpleUnetConfig):
        with pytest.raises(InputError, match="dim is 33, allowed with a sinusoidal embedding of the step: even"):
            create_model(kind(dim=33), 1)


def test_a_learned_table_begins_as_the_sinusoidal_embedding():
    table = simple(dim=8, time_embedding="learned", timesteps=30).time_emb.embedding_table.asnumpy()
    np.testing.assert_allclose(table, SinusoidalPosEmb(16)(ms.Tensor(np.arange(30), ms.float32)).asnumpy(), atol=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_each_trains_saves_and_is_rebuilt_from_its_checkpoint(name, tmp_path):
    config, objective = RUNS[name]
    runtime.seed_weights(0)
    model = create_model(config, 1, 4, 20)
    diffusion = GaussianDiffusion(model, image_size=4, timesteps=20, objective=objective)
    kinds = np.arange(64) % 2
    images = np.broadcast_to((0.2 + 0.6 * kinds)[:, None, None], (64, 4, 4)).astype(np.float32)
    dataset = ArrayDataset(images, 1, kinds if config.num_classes else None)
    trainer = Trainer(diffusion, dataset, train_batch_size=16, train_num_steps=40, train_lr=1e-2, num_samples=0,
                      save_and_sample_every=40, log_every=10, ema_decay=0.9, ema_update_every=1, results_folder=tmp_path / "run")
    run = trainer.train()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.85 * rows[0]["loss"]

    rebuilt, found = load_diffusion(run)
    assert type(rebuilt.model) is type(model) and found.config.model == config
    for (own_name, ours), (their_name, theirs) in zip(model.parameters_and_names(), rebuilt.model.parameters_and_names()):
        assert own_name == their_name
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())
    x, time = inputs(size=(4, 4))
    np.testing.assert_allclose(rebuilt.model(x, time).asnumpy(), model.set_train(False)(x, time).asnumpy(), rtol=1e-4, atol=1e-5)
    assert isinstance(rebuilt.model, nn.Cell) and rebuilt.sample(2, steps=2, seed=0).shape == (2, 1, 4, 4)
