"""The DDPM network: every option, every refusal, how it begins, how large the published ones are, and that it trains."""

import json
import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from ddpm_ms import DDPMUnet, GaussianDiffusion, Trainer, load_diffusion, runtime
from ddpm_ms.data import ArrayDataset
from ddpm_ms.errors import InputError
from ddpm_ms.interop import ddpm_unet_names
from ddpm_ms.models import DDPMUnetConfig, create_model, describe_model
from ddpm_ms.models.layers import CosineFirstPosEmb, GroupNorm, SinusoidalPosEmb
from ddpm_ms.models.precision import set_precision


def small(**changes):
    """A network whose last convolutions are not 0, so that everything in it is heard."""
    runtime.seed_weights(0)
    model = DDPMUnet(**{**dict(dim=8, dim_mults=(1, 2), channels=1, num_res_blocks=1, norm_groups=4), **changes})
    random = np.random.default_rng(0)
    for parameter in model.get_parameters():
        if len(parameter.shape) == 4 and not parameter.asnumpy().any():
            parameter.set_data(Tensor(random.standard_normal(parameter.shape) / np.prod(parameter.shape[1:]) ** 0.5, ms.float32))
    return model


def inputs(batch=2, channels=1, size=(4, 6)):
    x = np.random.default_rng(0).standard_normal((batch, channels, *size)).astype(np.float32)
    return Tensor(x), Tensor(np.arange(3, 3 + batch, dtype=np.int32))


ADM = dict(use_scale_shift_norm=True, resblock_updown=True, time_embedding="cos_sin", norm_eps=1e-5, num_head_channels=4)


@pytest.mark.parametrize("options", [
    {}, {"attention_levels": True, "num_heads": 2}, {"attention_levels": (False, True), "num_head_channels": 16},
    {"downsample_padding": "around", "channels": 3}, {"num_res_blocks": 2, "dim_mults": (2, 1, 3)},
    {**ADM, "attention_levels": (True, False), "learned_variance": True},
])
def test_every_option_gives_the_right_shape_and_hears_the_time(options):
    model = small(**options)
    x, time = inputs(channels=options.get("channels", 1), size=(4, 8))
    out = model(x, time).asnumpy()
    assert out.shape == (2, model.out_dim, 4, 8) and np.isfinite(out).all()
    assert np.abs(out - model(x, time + 500).asnumpy()).max() > 1e-4


def test_options_that_leave_the_weights_change_the_function():
    x, time = inputs()
    plain = small()(x, time).asnumpy()
    for options in ({"downsample_padding": "around"}, {"time_embedding": "cos_sin"}, {"norm_groups": 2}, {"norm_eps": 0.1},
                    {"num_heads": 2}):
        assert np.abs(small(**options)(x, time).asnumpy() - plain).max() > 1e-4, options


def test_heads_can_be_counted_or_measured():
    x, time = inputs()
    counted, measured = small(num_heads=4), small(num_head_channels=4)  # 16 channels in the middle
    np.testing.assert_array_equal(counted(x, time).asnumpy(), measured(x, time).asnumpy())


def test_conditions_change_the_output_and_their_absence_is_neutral():
    x, time = inputs()
    model = small(self_condition=True, num_classes=3)
    plain = model(x, time).asnumpy()
    np.testing.assert_array_equal(model(x, time, Tensor(np.zeros_like(x.asnumpy()))).asnumpy(), plain)
    assert np.abs(model(x, time, x).asnumpy() - plain).max() > 1e-4
    none = Tensor(np.array([3, 3], np.int32))
    np.testing.assert_array_equal(model(x, time, None, none).asnumpy(), plain)
    assert np.abs(model(x, time, None, none - 1).asnumpy() - plain).max() > 1e-4


def test_dropout_acts_in_training_with_a_key_and_only_then():
    x, time = inputs()
    model = small(dropout=0.5)
    key = Tensor(np.array([1.25, 1.75], np.float32))
    resting = model.set_train(False)(x, time, None, None, key).asnumpy()
    model.set_train(True)
    np.testing.assert_array_equal(model(x, time).asnumpy(), resting)
    dropped = model(x, time, None, None, key).asnumpy()
    assert np.abs(dropped - resting).max() > 1e-4
    np.testing.assert_array_equal(model(x, time, None, None, key).asnumpy(), dropped)


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    x, time = inputs(batch=3)
    model = small(attention_levels=True)
    np.testing.assert_allclose(model(x, time).asnumpy()[:1], model(x[:1], time[:1]).asnumpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("options", [{"attention_levels": True}, ADM])
def test_half_precision_stays_near_and_the_step_stays_exact(options, level):
    x, time = inputs()
    model = small(**options).set_train(False)
    steps = Tensor([997.0, 998.0, 999.0], ms.float32)
    exact, embedded = model(x, time).asnumpy(), model.time_emb(steps).asnumpy()
    set_precision(model, "fp16", level)
    found = model(x, time).asnumpy().astype(np.float32)
    assert 0 < np.abs(found - exact).max() < 0.02 * np.abs(exact).max()
    if level == "O2":
        np.testing.assert_array_equal(model.time_emb(steps).asnumpy(), embedded)


@pytest.mark.parametrize(("options", "message"), [
    ({"norm_groups": 32}, "norm_groups is 32, allowed: divisors of 8, 16, the widths that dim and dim_mults give$"),
    ({"num_heads": 3}, "num_heads is 3, allowed: divisors of 16, the widths"),
    ({"num_head_channels": 16, "attention_levels": True}, "num_head_channels is 16, allowed: divisors of 8, 16, the widths"),
    ({"attention_levels": (True, False, True)}, "attention_levels has 3 entries, allowed: one, or 2"),
    ({"downsample_padding": "same"}, "downsample_padding is 'same', allowed: after, around"),
    ({"time_embedding": "learned"}, "time_embedding is 'learned', allowed: sin_cos, cos_sin"),
    ({"dim": 4, "norm_groups": 1, "dropout": 1.0}, "dropout is 1.0"), ({"num_res_blocks": 0}, "num_res_blocks is 0"),
])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message) as error:
        small(**options)
    assert "\n" not in str(error.value)


def test_sizes_that_do_not_divide_are_refused_with_the_nearest_that_do():
    model = small(dim_mults=(1, 1, 1))
    with pytest.raises(InputError, match=r"image width is 27, .* multiples of 4 \(nearest: 24 or 28\)"):
        model.check_image_size(28, 27)
    with pytest.raises(InputError, match=r"image width is 6, .*nearest: 4 or 8"):
        model(*inputs(size=(4, 6)))


def test_it_begins_as_its_shortcuts_with_weights_of_glorot():
    runtime.seed_weights(0)
    model = DDPMUnet(dim=32, dim_mults=(1, 2), channels=3, attention_levels=True)
    x, time = inputs(channels=3)
    assert not model(x, time).asnumpy().any()
    t = model.time_emb(Tensor(np.array([3, 4], np.float32)))
    h = Tensor(np.random.default_rng(1).standard_normal((2, 64, 2, 3)), ms.float32)
    np.testing.assert_array_equal(model.mid_attn(model.mid_block1(h, t)).asnumpy(), h.asnumpy())

    def limit(parameter, outputs):
        shape = parameter.shape
        return (6 / (np.prod(shape[1:]) + outputs * np.prod(shape[2:]))) ** 0.5

    block, attention = model.downs[1].blocks[0], model.mid_attn
    for parameter, outputs in ((block.conv1.weight, 64), (block.shortcut.weight, 64), (block.time_proj.weight, 64),
                               (attention.to_qkv.weight, 64), (model.conv_in.weight, 32)):
        bound = limit(parameter, outputs)
        assert 0.97 * bound < np.abs(parameter.asnumpy()).max() <= bound
        np.testing.assert_allclose(parameter.asnumpy().std(), bound / 3**0.5, rtol=0.05)
    assert not any(p.asnumpy().any() for p in model.get_parameters() if p.name.endswith("bias"))


def test_initial_weights_follow_from_the_seed():
    for a, b in zip(small().get_parameters(), small().get_parameters()):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_the_two_embeddings_of_the_step():
    time, k = np.array([0, 7, 999]), np.arange(4)
    ours = Tensor(time, ms.float32)
    angles = time[:, None] / 10000 ** (k / 3)
    np.testing.assert_allclose(SinusoidalPosEmb(8)(ours).asnumpy(), np.hstack([np.sin(angles), np.cos(angles)]), atol=1e-4)
    angles = time[:, None] / 10000 ** (k / 4)
    np.testing.assert_allclose(CosineFirstPosEmb(8)(ours).asnumpy(), np.hstack([np.cos(angles), np.sin(angles)]), atol=1e-4)


def test_the_group_norm_has_its_epsilon_and_its_activation():
    x = Tensor(np.random.default_rng(0).standard_normal((2, 8, 3, 5)) + 1, ms.float32)
    norm = GroupNorm(8, 2, eps=0.5, act=True)
    y = norm.norm(x).asnumpy()
    np.testing.assert_allclose(norm(x).asnumpy(), y / (1 + np.exp(-y)), rtol=1e-4, atol=1e-5)


DDPM = dict(dim=128, num_res_blocks=2)
GUIDED = dict(num_head_channels=64, use_scale_shift_norm=True, resblock_updown=True, learned_variance=True)
# Network: (keywords, levels with attention, where its names are from, parameters, tensors), all of them published.
PUBLISHED = {
    "ddpm-cifar10-32": (dict(DDPM, dim_mults=(1, 2, 2, 2)), {1}, "diffusers", 35_746_307, 328),
    "ddpm-cat-256": (dict(DDPM, dim_mults=(1, 1, 2, 2, 4, 4)), {4}, "diffusers", 113_673_219, 450),
    "celeba-64": (dict(DDPM, dim_mults=(1, 2, 2, 2, 4)), {2}, "pytorch_diffusion", 78_700_803, 390),
    "p2": (dict(GUIDED, dim=128, num_res_blocks=1, dim_mults=(1, 1, 2, 2, 4, 4)), {4}, "guided_diffusion", 93_563_910, 362),
    "adm-64": (dict(GUIDED, dim=192, num_res_blocks=3, dim_mults=(1, 2, 3, 4), num_classes=1000), {1, 2, 3}, "guided_diffusion",
               295_904_454, 541),
    "adm-128": (dict(GUIDED, dim=256, dim_mults=(1, 1, 2, 3, 4), num_heads=4, num_head_channels=None, num_classes=1000),
                {2, 3, 4}, "guided_diffusion", 421_529_606, 493),
    "adm-256-unconditional": (dict(GUIDED, dim=256, dim_mults=(1, 1, 2, 2, 4, 4)), {3, 4, 5}, "guided_diffusion",
                              552_814_086, 566),
    "adm-256": (dict(GUIDED, dim=256, dim_mults=(1, 1, 2, 2, 4, 4), num_classes=1000), {3, 4, 5}, "guided_diffusion",
                553_838_086, 567),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_have_their_parameters_and_tensors(name, without_values):
    keywords, attends, project, parameters, tensors = PUBLISHED[name]
    levels = len(keywords["dim_mults"])
    model = DDPMUnet(**keywords, attention_levels=tuple(level in attends for level in range(levels)))
    ours = {parameter.name: parameter.size for parameter in model.get_parameters()}
    no_class = 4 * keywords["dim"] if model.num_classes else 0  # a row that theirs have not
    assert sum(ours.values()) - no_class == parameters

    theirs = ddpm_unet_names(project, levels, model.config.num_res_blocks)
    if project == "guided_diffusion":
        assert set(theirs.values()) >= set(ours) and len(ours) == tensors
    else:  # query, key and value apart
        apart = [re.sub(r"\.to_[qkv]\.", ".to_qkv.", own) for own in theirs.values() if ".to_qkv." not in own]
        assert set(apart) >= set(ours) and sum(own in ours for own in apart) == tensors


@pytest.mark.usefixtures("without_graphs")
def test_it_is_rebuilt_from_its_section_and_works_in_the_process():
    config = DDPMUnetConfig(**{**ADM, **dict(dim=8, dim_mults=(1, 2), num_res_blocks=1, norm_groups=4, self_condition=True)})
    model = create_model(config, 1, 4, 20)
    assert type(model) is DDPMUnet and describe_model(model) == config
    diffusion = GaussianDiffusion(model, image_size=4, timesteps=20, objective="pred_noise")
    x, time = inputs(size=(4, 4))
    losses = diffusion.losses(ops.clamp(x, 0, 1), time, x, True).asnumpy()
    np.testing.assert_allclose(losses, np.square(x.asnumpy()).mean((1, 2, 3)), rtol=1e-4)  # a new network says 0
    assert diffusion.sample(2, steps=2, seed=0).shape == (2, 1, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"dropout": 0.1, "attention_levels": (False, True)}, ADM])
def test_it_trains_saves_and_is_rebuilt_from_its_checkpoint(options, tmp_path):
    config = DDPMUnetConfig(**{**dict(dim=8, dim_mults=(1, 2), num_res_blocks=1, norm_groups=4, num_classes=2), **options})
    runtime.seed_weights(0)
    model = create_model(config, 1, 4, 20)
    diffusion = GaussianDiffusion(model, image_size=4, timesteps=20, objective="pred_noise")
    kinds = np.arange(64) % 2
    images = np.broadcast_to((0.2 + 0.6 * kinds)[:, None, None], (64, 4, 4)).astype(np.float32)
    trainer = Trainer(diffusion, ArrayDataset(images, 1, kinds), train_batch_size=16, train_num_steps=40, train_lr=1e-2,
                      num_samples=0, save_and_sample_every=40, log_every=10, ema_decay=0.9, ema_update_every=1,
                      results_folder=tmp_path / "run")
    run = trainer.train()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.85 * rows[0]["loss"]

    rebuilt, found = load_diffusion(run)
    assert type(rebuilt.model) is DDPMUnet and found.config.model == config
    x, time = inputs(size=(4, 4))
    np.testing.assert_allclose(rebuilt.model(x, time).asnumpy(), model.set_train(False)(x, time).asnumpy(), rtol=1e-4, atol=1e-5)
    assert rebuilt.sample(2, steps=2, seed=0).shape == (2, 1, 4, 4)
