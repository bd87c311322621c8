"""Networks that are built to be exported: the same function of operators that other programs have."""

import numpy as np
import pytest
from mindspore import Tensor, ops

from ddpm_ms import DDPMUnet, SimpleUnet, TinyUnet, Unet, runtime
from ddpm_ms.ops.activation import exact_gelu
from ddpm_ms.ops.convolution import Convolution

NETWORKS = {
    "unet": lambda: Unet(dim=8, dim_mults=(1, 2), channels=1, attn_heads=1, attn_dim_head=4),
    "group": lambda: Unet(dim=8, dim_mults=(1, 2), channels=1, attn_heads=1, attn_dim_head=4, block="group"),
    "ddpm_unet": lambda: DDPMUnet(dim=8, dim_mults=(1, 2), channels=1, norm_groups=4, attention_levels=True),
    "adm": lambda: DDPMUnet(dim=8, dim_mults=(1, 2), channels=1, norm_groups=4, use_scale_shift_norm=True, resblock_updown=True),
    "simple_unet": lambda: SimpleUnet(dim=8, dim_mults=(1, 2), channels=1, timesteps=20),
    "tiny_unet": lambda: TinyUnet(dim=8, dim_mults=(1, 2), channels=1, image_size=8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_portable_network_computes_the_same_with_parameters_of_the_same_names(name):
    with runtime.portable():
        portable = NETWORKS[name]().set_train(False)
    native = NETWORKS[name]().set_train(False)
    random = np.random.default_rng(0)
    ours = dict(native.parameters_and_names())
    assert ours.keys() == dict(portable.parameters_and_names()).keys()
    for key, parameter in portable.parameters_and_names():
        values = Tensor(random.standard_normal(parameter.shape, np.float32) * 0.1 + key.endswith(("gamma", ".g")))
        parameter.set_data(values)
        ours[key].set_data(values.copy())
    x, time = Tensor(random.standard_normal((2, 1, 8, 8), np.float32)), Tensor(np.array([0, 19], np.int32))
    wanted = native(x, time).asnumpy()
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(portable(x, time).asnumpy(), wanted, rtol=0, atol=1e-5)


def strangers(network):
    """Operators that MindSpore cannot say in ONNX, or that are this package's own."""
    found = set()
    for _, cell in network.cells_and_names():
        primitives = [*vars(cell).values(), *getattr(cell, "_primitives", {}).values()]
        found |= {value.name for value in primitives if isinstance(value, ops.Primitive)} & {"Custom", "Rsqrt", "Erf"}
        found |= {type(cell).__name__} & {"GELU"}
        if isinstance(cell, Convolution) and len(set(cell.conv2d.pad)) > 1:
            found.add("unequal sides")
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_it_has_none_of_the_operators_that_cannot_leave(name, monkeypatch):
    with runtime.portable():
        assert not strangers(NETWORKS[name]())
    monkeypatch.setattr(runtime, "native_library", lambda: None)
    usual = {"unet": {"Rsqrt", "GELU"}, "group": {"Rsqrt", "GELU"}, "ddpm_unet": {"Rsqrt", "unequal sides"}, "adm": {"Rsqrt"},
             "simple_unet": {"Rsqrt"}, "tiny_unet": set()}
    assert strangers(NETWORKS[name]()) == usual[name]


def test_the_portable_gelu_is_the_exact_one():
    with runtime.portable():
        portable = exact_gelu()
    x = Tensor(np.linspace(-12, 12, 4801, dtype=np.float32))
    np.testing.assert_allclose(portable(x).asnumpy(), exact_gelu()(x).asnumpy(), rtol=1e-6, atol=1e-6)


def test_afterwards_networks_are_native_again_also_after_a_mistake():
    native = runtime.native_library()
    with pytest.raises(KeyError), runtime.portable():
        assert runtime.is_portable() and runtime.native_library() is None
        raise KeyError
    assert not runtime.is_portable() and runtime.native_library() == native
