"""The network: every option, sizes, time, dropout."""

import numpy as np
import pytest
from mindspore import Tensor

from ddpm_ms.config import CustomConfig
from ddpm_ms.errors import InputError
from ddpm_ms.models import UnetConfig, create_model, num_parameters


def inputs(batch=2, channels=1, size=(4, 4)):
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, channels, *size)).astype(np.float32)
    return Tensor(x), Tensor(np.array([3, 40][:batch], np.int32))


@pytest.mark.parametrize("options", [
    {}, {"block": "group"}, {"random_fourier_features": True}, {"learned_sinusoidal_cond": True},
    {"init_dim": 12, "channels": 3},
    {"learned_variance": True}, {"full_attn": True, "block": "group"}, {"attn_heads": (1, 2), "full_attn": (True, False)},
    {"self_condition": True}, {"num_classes": 3}, {"out_dim": 5},
])
def test_every_option_gives_the_right_shape_and_hears_the_time(tiny_unet, options):
    model = tiny_unet(**options)
    x, time = inputs(channels=options.get("channels", 1), size=(4, 6))
    out = model(x, time).asnumpy()
    assert out.shape == (2, model.out_dim, 4, 6) and np.isfinite(out).all()
    assert np.abs(out - model(x, time + 500).asnumpy()).max() > 1e-4


def test_conditions_change_the_output_and_their_absence_is_neutral(tiny_unet):
    x, time = inputs()
    model = tiny_unet(self_condition=True, num_classes=3)
    plain = model(x, time).asnumpy()
    np.testing.assert_array_equal(model(x, time, Tensor(np.zeros_like(x.asnumpy()))).asnumpy(), plain)
    assert np.abs(model(x, time, x).asnumpy() - plain).max() > 1e-4
    none = Tensor(np.array([3, 3], np.int32))
    np.testing.assert_array_equal(model(x, time, None, none).asnumpy(), plain)
    assert np.abs(model(x, time, None, none - 1).asnumpy() - plain).max() > 1e-4


def test_dropout_acts_in_training_with_a_key_and_only_then(tiny_unet):
    x, time = inputs()
    model = tiny_unet(dropout=0.5)
    key = Tensor(np.array([1.25, 1.75], np.float32))
    resting = model.set_train(False)(x, time, None, None, key).asnumpy()
    model.set_train(True)
    np.testing.assert_array_equal(model(x, time).asnumpy(), resting)
    dropped = model(x, time, None, None, key).asnumpy()
    assert np.abs(dropped - resting).max() > 1e-4
    np.testing.assert_array_equal(model(x, time, None, None, key).asnumpy(), dropped)


def test_sizes_that_do_not_divide_are_refused_with_the_nearest_that_do(tiny_unet):
    model = tiny_unet(dim_mults=(1, 1, 1))
    with pytest.raises(InputError, match=r"image width is 27, .* multiples of 4 \(nearest: 24 or 28\)"):
        model.check_image_size(28, 27)
    x, time = inputs(size=(4, 6))
    with pytest.raises(InputError, match=r"image width is 6, .*nearest: 4 or 8"):
        model(x, time)


@pytest.mark.parametrize(("options", "message"), [
    ({"attn_heads": (1, 2, 3)}, "attn_heads has 3 entries, allowed: one, or 2"),
    ({"block": "batch"}, "block is 'batch', allowed: rms, group"),
    ({"fourier_dim": 7}, "fourier_dim is 7, allowed: even"),
    ({"dropout": 1.0}, "dropout is 1.0"), ({"dim": 2}, "dim is 2"),
])
def test_wrong_options_are_refused(tiny_unet, options, message):
    with pytest.raises(InputError, match=message):
        tiny_unet(**options)


def test_initial_weights_follow_from_the_seed(tiny_unet):
    first, second = tiny_unet(), tiny_unet()
    for a, b in zip(first.get_parameters(), second.get_parameters()):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_the_default_recipe_has_the_size_of_its_model():
    assert num_parameters(create_model(UnetConfig(dim=8, dim_mults=(1, 2)), channels=3)) > 10_000
    with pytest.raises(InputError, match=r"model.name is 'custom'"):
        create_model(CustomConfig(), channels=3)
