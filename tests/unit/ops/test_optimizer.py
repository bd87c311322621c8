"""The native update of all weights against the plain one."""

import platform

import mindspore as ms
import numpy as np
import pytest
from bare_network import Diffusion, Network, saved
from mindspore import Tensor, nn, ops

from ddpm_ms import EMA, runtime
from ddpm_ms.ops.optimizer import SquareSum, native_steps
from ddpm_ms.training.train_step import TrainStep

needs_native = pytest.mark.skipif("runtime.native_library() is None", reason="no native operators on this machine")
# MindSpore's Adam computes the last elements of each thread's share in another precision. Of these sizes every thread has a
# multiple of eight, or nothing but such elements.
SHAPES = ((1,), (3,), (2, 3), (16, 4, 3, 3), (64,), (32, 9, 8), (128, 64, 3, 3))


@pytest.fixture(scope="session", autouse=True)
def _runtime(cpu_runtime):
    return cpu_runtime


def make_step(shapes=SHAPES, **keywords):
    network = Network(shapes)
    return TrainStep(Diffusion(network), nn.Adam(network.trainable_params(), 1e-3, 0.9, 0.99), EMA(network, 0.5, 1), **keywords)


def update(step, number, size=1.0, ema_rate=0.3):
    random = np.random.default_rng(number)
    for accumulator in step.accumulators:
        ops.assign(accumulator, Tensor((random.standard_normal(accumulator.shape) * size).astype(np.float32)))
    finite, norm, _ = step.update(Tensor(0.01, ms.float32), Tensor(ema_rate, ms.float32), Tensor(8.0, ms.float32))
    return bool(finite.asnumpy()), float(norm.asnumpy())


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        if platform.machine() == "x86_64":
            np.testing.assert_array_equal(found[name], array, name)
        else:
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-7, err_msg=name)


def both(monkeypatch, *arguments, **keywords):
    native = make_step(*arguments, **keywords)
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "native_library", lambda: None)
        plain = make_step(*arguments, **keywords)
    assert native.native_adam is not None and native.square_sum.native is not None
    assert plain.native_adam is None and plain.square_sum.native is None
    return native, plain


@needs_native
@pytest.mark.parametrize(("mode", "keywords"), [
    ("graph", {}), ("graph", {"weight_decay": 0.1, "max_grad_norm": 0.0}), ("graph", {"accumulate_every": 2}),
    ("pynative", {"weight_decay": 0.1}),
], ids=["clipped", "decayed", "accumulated", "pynative"])
def test_the_native_update_leaves_the_bits_of_the_plain_one(mode, keywords, monkeypatch):
    monkeypatch.setattr("ddpm_ms.runtime.graphs._mode", mode)
    native, plain = both(monkeypatch, **keywords)
    begun = saved(native)
    for number, size, ema_rate in ((0, 1e-3, 0.3), (1, 1.0, 0.3), (2, 30.0, 0.0), (3, 1e-3, 1.0), (4, 0.1, 0.3)):
        results = [update(step, number, size, ema_rate) for step in (native, plain)]
        assert results[0] == results[1]
        assert_same(saved(native), saved(plain))
    assert all((array != begun[name]).any() for name, array in saved(native).items())


@needs_native
def test_a_gradient_that_is_not_finite_changes_nothing_in_the_native_update():
    step = make_step()
    assert step.native_adam is not None and update(step, 0)[0]
    before = saved(step)
    for size in (np.nan, np.inf, 1e30):
        assert not update(step, 1, size)[0]
    for name, array in saved(step).items():
        np.testing.assert_array_equal(array, before[name], name)


@needs_native
@pytest.mark.parametrize("plain_first", [True, False])
def test_what_one_update_leaves_behind_the_other_goes_on_with(plain_first, monkeypatch):
    native, plain = both(monkeypatch)
    first, second = (plain, native) if plain_first else (native, plain)
    whole = both(monkeypatch)[0]
    for number in range(2):
        update(first, number)
        update(second, number + 7)  # whose graph has its memory by now
        update(whole, number)
    for kind in (lambda step: step.weights, lambda step: step.ema.shadow, lambda step: step.optimizer.moment1,
                 lambda step: step.optimizer.moment2, lambda step: (step.optimizer.beta1_power, step.optimizer.beta2_power)):
        for into, out_of in zip(kind(second), kind(first)):
            ops.assign(into, Tensor(out_of.asnumpy().copy()))
    for number in range(2, 4):
        update(second, number)
        update(whole, number)
    assert_same(saved(second), saved(whole))


@needs_native
def test_the_native_update_of_tensors_of_any_size_is_the_plain_one_to_rounding(monkeypatch):
    native, plain = both(monkeypatch, ((7,), (13, 9, 3, 3), (33, 17), (1, 1, 1, 1), (1053,), (511, 7)), weight_decay=0.1)
    for number in range(3):
        results = [update(step, number) for step in (native, plain)]
        assert results[0] == pytest.approx(results[1], rel=1e-6)
    for (name, found), expected in zip(saved(native).items(), saved(plain).values()):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8, err_msg=name)


@needs_native
def test_the_native_sum_of_squares_is_that_of_float64():
    arrays = [np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in (*SHAPES, (1, 65, 3), ())]
    found = SquareSum()(tuple(Tensor(array) for array in arrays))
    assert found.shape == ()
    assert float(found.asnumpy()) == pytest.approx(sum((array.astype(float)**2).sum() for array in arrays), rel=1e-6)


class AnotherAdam(nn.Adam):
    """May do anything."""


@pytest.mark.parametrize("make", [
    nn.AdamWeightDecay, nn.SGD, AnotherAdam,
    lambda weights: nn.Adam(weights, use_nesterov=True), lambda weights: nn.Adam(weights, use_amsgrad=True),
    lambda weights: nn.Adam(weights, weight_decay=0.1), lambda weights: nn.Adam(weights, loss_scale=2.0),
    lambda weights: nn.Adam(weights, learning_rate=nn.ExponentialDecayLR(0.1, 0.9, 4)),
    lambda weights: nn.Adam([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.1}]),
    lambda weights: nn.Adam(weights[::-1]), lambda weights: nn.Adam(weights[:1]),
])
def test_what_is_not_plain_adam_is_left_to_mindspore(make):
    network = Network(((2,), (3,)))
    weights = network.trainable_params()
    assert native_steps(make(weights), tuple(weights), 0.0) == (None, None)
    assert bool(native_steps(nn.Adam(weights), tuple(weights), 0.0)[1]) == bool(runtime.native_library())
