"""Muon: its steps against the textbook's, and the native ones against the plain ones."""

import mindspore as ms
import numpy as np
import pytest
from bare_network import Diffusion, Network, saved
from mindspore import Tensor, ops

from ddpm_ms import EMA, Unet, runtime
from ddpm_ms.errors import InputError
from ddpm_ms.ops.muon import ITERATIONS, MOMENTUM, SCALE, A, B, C, Muon, is_matrix, orthogonal
from ddpm_ms.training.train_step import TrainStep

needs_native = pytest.mark.skipif("runtime.native_library() is None", reason="no native operators on this machine")
SHAPES = ((3,), (16, 16), (64, 32, 3, 3), (64, 32, 3, 3), (48, 16, 1, 1), (16, 200), (4, 5), (1, 64, 1, 1), (272, 300))


@pytest.fixture(scope="session", autouse=True)
def _runtime(cpu_runtime):
    return cpu_runtime


def make_step(shapes=SHAPES, **keywords):
    network = Network(shapes)
    optimizer, average = Muon(network.trainable_params(), 1e-3), EMA(network, 0.5, 1)
    return TrainStep(Diffusion(network), optimizer, average, max_grad_norm=0.0, **keywords)


def gradients_of(step, number):
    random = np.random.default_rng(number)
    return [random.standard_normal(accumulator.shape).astype(np.float32) for accumulator in step.accumulators]


def update(step, number, rate=0.01, ema_rate=0.3):
    for accumulator, gradient in zip(step.accumulators, gradients_of(step, number)):
        ops.assign(accumulator, Tensor(gradient))
    finite, _, _ = step.update(Tensor(rate, ms.float32), Tensor(ema_rate, ms.float32), Tensor(1.0, ms.float32))
    return bool(finite.asnumpy())


def plain(monkeypatch, *arguments, **keywords):
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "native_library", lambda: None)
        return make_step(*arguments, **keywords)


def textbook(x):
    """Newton and Schulz as Jordan writes it, on the whole matrix and in float64."""
    x = x.reshape(x.shape[0], -1).astype(np.float64)
    turned = x.shape[0] > x.shape[1]
    x = (x.T if turned else x) / np.linalg.norm(x)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.T if turned else x


def test_a_step_is_the_textbooks(monkeypatch):
    step = plain(monkeypatch, weight_decay=0.5)
    matrices = range(step.optimizer.count)
    expected = [step.weights[i].asnumpy().astype(np.float64) for i in matrices]
    momentum = [np.zeros(weight.shape) for weight in expected]
    for number in range(3):
        assert update(step, number)
        for i, gradient in zip(matrices, gradients_of(step, number)):
            momentum[i] = MOMENTUM * momentum[i] + (1 - MOMENTUM) * gradient
            found = textbook(MOMENTUM * momentum[i] + (1 - MOMENTUM) * gradient)
            expected[i] *= 1 - 0.01 * 0.5
            expected[i] -= 0.01 * SCALE * max(found.shape) ** 0.5 * found.reshape(gradient.shape)
    assert [weight.shape for weight in expected] == [SHAPES[i] for i in (1, 2, 3, 4, 5, 8)]
    for i in matrices:
        np.testing.assert_allclose(step.weights[i].asnumpy(), expected[i], atol=2e-5)


@pytest.mark.parametrize("shape", [(2, 64, 288), (1, 96, 32), (3, 16, 16)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = orthogonal(Tensor(x)).asnumpy()
    for one, before in zip(found, x):
        values = np.linalg.svd(one, compute_uv=False)
        assert 0.3 < values.min() and values.max() < 1.3
        u, _, v = np.linalg.svd(before, full_matrices=False)
        assert np.diag(u.T @ one @ v.T).min() > 0.3 and np.abs(u.T @ one @ v.T - np.diag(np.diag(u.T @ one @ v.T))).max() < 1e-3


def test_no_gradient_is_no_step():
    assert (orthogonal(Tensor(np.zeros((1, 16, 32), np.float32))).asnumpy() == 0).all()


@needs_native
@pytest.mark.parametrize(("mode", "keywords"), [
    ("graph", {}), ("graph", {"weight_decay": 0.1}), ("graph", {"accumulate_every": 2}), ("pynative", {"weight_decay": 0.1})])
def test_the_native_step_is_the_plain_one_to_rounding(mode, keywords, monkeypatch):
    monkeypatch.setattr("ddpm_ms.runtime.graphs._mode", mode)
    native, other = make_step(**keywords), plain(monkeypatch, **keywords)
    assert native.native_muon is not None and other.native_muon is None
    begun = saved(native)
    for number, ema_rate in ((0, 0.3), (1, 0.0), (2, 1.0)):
        assert update(native, number, ema_rate=ema_rate) and update(other, number, ema_rate=ema_rate)
    found, expected = saved(native), saved(other)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=2e-5, err_msg=name)
        assert (array != begun[name]).any(), name


@needs_native
def test_the_native_step_leaves_the_same_bits_every_time_and_none_after_a_gradient_that_is_not_finite():
    steps = make_step(), make_step()
    for step in steps:
        assert update(step, 0) and update(step, 1)
    first, second = map(saved, steps)
    assert all((first[name] == second[name]).all() for name in first)
    ops.assign(steps[0].accumulators[2], Tensor(np.full(SHAPES[3], np.nan, np.float32)))
    finite, _, _ = steps[0].update(Tensor(0.01, ms.float32), Tensor(0.3, ms.float32), Tensor(1.0, ms.float32))
    assert not bool(finite.asnumpy())
    assert all((array == first[name]).all() for name, array in saved(steps[0]).items())


def test_matrices_are_the_layers_between_features():
    network = Unet(16, dim_mults=(1, 2), channels=3, num_classes=20)
    matrices = {name for name, weight in network.parameters_and_names() if is_matrix(weight)}
    assert all(name.endswith("weight") for name in matrices)
    others = {name for name, weight in network.parameters_and_names() if weight.ndim > 1} - matrices
    assert {"init_conv.weight", "final_conv.weight", "class_emb.embedding_table"} <= others
    assert sum(w.size for n, w in network.parameters_and_names() if n in matrices) > 0.9 * sum(
        w.size for w in network.trainable_params())


def test_a_network_of_nothing_but_matrices_is_refused():
    with pytest.raises(InputError, match=r"training\.optimizer is muon for a network of nothing but matrices, allowed: adam"):
        Muon(Network(((16, 16),)).trainable_params(), 1e-3)
