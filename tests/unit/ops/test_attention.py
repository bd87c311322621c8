"""Attention: the formulas, 16 bits, and the path that only Ascend takes."""

import inspect

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from ddpm_ms import runtime
from ddpm_ms.models.attention import Attention, LinearAttention
from ddpm_ms.models.precision import set_precision
from ddpm_ms.ops.attention import EfficientAttention, ScaledDotProductAttention, flash_attention_takes

HEADS, WIDTH, SCALE = 2, 16, 0.25
flash_attention_score = ops.flash_attention_score


def inputs(kind=ms.float32, head_dim=WIDTH, queries=9, keys=13):
    random = np.random.default_rng(0)
    return [Tensor(random.standard_normal((3 * HEADS, head_dim, n)), kind) for n in (queries, keys, keys)]


def expected(q, k, v):
    q, k, v = (x.asnumpy().astype(np.float64) for x in (q, k, v))
    return np.einsum("bnm,bdm->bdn", softmax(np.einsum("bdn,bdm->bnm", q, k) * SCALE, -1), v)


def softmax(x, axis):
    weights = np.exp(x - x.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


@pytest.fixture
def on_ascend(monkeypatch):
    """The Cell as it is built on an Ascend. Its operators still compute here."""
    monkeypatch.setattr(runtime, "device_target", lambda: "Ascend")
    cell = ScaledDotProductAttention(HEADS, WIDTH)
    monkeypatch.undo()
    return cell


def stand_in(query, key, value, head_num, scalar_value=1.0, input_layout="BSH"):
    """The formula in the documentation of ``ops.flash_attention_score``, for the layout BNSD."""
    scores = ops.BatchMatMul(transpose_b=True)(ops.cast(query, ms.float32), ops.cast(key, ms.float32)) * scalar_value
    return ops.cast(ops.BatchMatMul()(ops.Softmax(-1)(scores), ops.cast(value, ms.float32)), query.dtype)


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(ms.float32, 1e-5), (ms.float16, 5e-3)])
@pytest.mark.parametrize("kind", [ScaledDotProductAttention, EfficientAttention])
def test_attention_is_its_formula(kind, dtype, tolerance, remembers):
    random, full = np.random.default_rng(0), kind is ScaledDotProductAttention
    x, weight, bias = (random.standard_normal(s) for s in ((3, 6, 2, 5), (3 * HEADS * WIDTH, 6, 1, 1), 3 * HEADS * WIDTH))
    weight = weight / 3
    qkv = np.einsum("bchw,dc->bdhw", x, weight[..., 0, 0]) + (bias[:, None, None] if full else 0)
    q, k, v = (part.reshape(3, HEADS, WIDTH, 10) for part in np.split(qkv, 3, 1))
    learned = random.standard_normal((2, HEADS, 4, WIDTH))  # keys and values, each WIDTH numbers long
    memory = Tensor(learned if full else learned.transpose(0, 1, 3, 2), ms.float32) if remembers else None
    if remembers:
        k, v = (np.concatenate((pixels, np.tile(m.transpose(0, 2, 1), (3, 1, 1, 1))), -1) for pixels, m in zip((k, v), learned))
    if full:
        wanted = np.einsum("bhnm,bhem->bhen", softmax(np.einsum("bhdn,bhdm->bhnm", q, k) * SCALE, -1), v)
    else:
        context = np.einsum("bhdm,bhem->bhde", softmax(k, -1), v if remembers else v / 10) * SCALE
        wanted = np.einsum("bhde,bhdn->bhen", context, softmax(q, -2))
    out = kind(HEADS, WIDTH)(Tensor(x, dtype), Tensor(weight, dtype), memory, *([Tensor(bias, dtype)] if full else []))
    assert out.dtype == dtype and out.shape == (3, HEADS * WIDTH, 2, 5)
    np.testing.assert_allclose(out.asnumpy().reshape(wanted.shape), wanted, atol=tolerance * max(1, np.abs(wanted).max()))


def test_the_flash_path_is_called_as_documented_and_gives_the_same(on_ascend, monkeypatch):
    q, k, v = inputs(ms.float16)
    calls = []

    def recording(*arguments, **options):
        calls.append(inspect.signature(flash_attention_score).bind(*arguments, **options).arguments)
        return stand_in(*arguments, **options)

    monkeypatch.setattr(ops, "flash_attention_score", recording)
    out = on_ascend.attend(q, k, v)
    given = calls.pop()
    assert (given["input_layout"], given["head_num"], given["scalar_value"]) == ("BNSD", HEADS, SCALE)
    assert [given[name].shape for name in ("query", "key", "value")] == [(3, HEADS, n, WIDTH) for n in (9, 13, 13)]
    assert {given[name].dtype for name in ("query", "key", "value")} == {ms.float16} and out.dtype == ms.float16
    assert given.keys() <= {"query", "key", "value", "head_num", "scalar_value", "input_layout"}
    np.testing.assert_allclose(out.asnumpy(), expected(q, k, v), atol=5e-3)


def test_the_flash_path_is_the_same_as_a_graph_with_its_gradients(on_ascend, monkeypatch):
    monkeypatch.setattr(ops, "flash_attention_score", stand_in)

    def value_and_gradients(cell):
        def sum_of_squares(q, k, v):
            return ops.square(ops.cast(cell.attend(q, k, v), ms.float32)).sum()

        return ms.jit(ms.value_and_grad(sum_of_squares, (0, 1, 2)))(*inputs(ms.float16))

    flash, plain = value_and_gradients(on_ascend), value_and_gradients(ScaledDotProductAttention(HEADS, WIDTH))
    assert flash[0].asnumpy() == pytest.approx(plain[0].asnumpy(), rel=1e-2)
    for ours, theirs in zip(flash[1], plain[1]):
        np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), atol=2e-2)


def test_mindspore_accepts_the_call_and_misses_nothing_but_the_kernel(on_ascend):
    with pytest.raises(RuntimeError, match=r"Unsupported op \[FlashAttentionScore\] on CPU"):
        ms.jit(on_ascend.attend)(*inputs(ms.float16))


@pytest.mark.parametrize(("kind", "head_dim"), [(ms.float32, 16), (ms.float16, 8), (ms.float16, 528)])
def test_what_the_operator_does_not_take_goes_the_plain_way(on_ascend, monkeypatch, kind, head_dim):
    monkeypatch.setattr(ops, "flash_attention_score", None)
    q, k, v = inputs(kind, head_dim)
    np.testing.assert_allclose(on_ascend.attend(q, k, v).asnumpy(), expected(q, k, v), atol=3e-2)


@pytest.mark.parametrize("kind", [ms.float32, ms.float16])
def test_no_other_device_takes_the_flash_path(monkeypatch, kind):
    monkeypatch.setattr(ops, "flash_attention_score", None)
    for device in ("CPU", "GPU"):
        monkeypatch.setattr(runtime, "device_target", lambda device=device: device)
        assert not ScaledDotProductAttention(HEADS, WIDTH).on_ascend
    ScaledDotProductAttention(HEADS, WIDTH).attend(*inputs(kind))


def test_the_limits_are_those_of_the_documentation():
    text = " ".join(flash_attention_score.__doc__.split())
    for stated in ("B: Batch size. Value range 1 to 2k", "S1: Sequence length of `query`. Value range 1 to 512k",
                   "N1: Num heads of `query`. Value range 1 to 256", "a multiple of 16, with the max value of 512",
                   "The supported dtype is float16 and bfloat16"):
        assert stated in text

    def takes(kind=ms.bfloat16, batch=2048, heads=256, head_dim=512, queries=512 * 1024, keys=512 * 1024):
        return flash_attention_takes(kind, (batch * heads, head_dim, queries), (batch * heads, head_dim, keys), heads)

    assert takes() and takes(ms.float16, 1, 1, 16, 1, 1)
    for beyond in (dict(kind=ms.float32), dict(batch=2049), dict(heads=257), dict(head_dim=528), dict(head_dim=24),
                   dict(queries=512 * 1024 + 1), dict(keys=512 * 1024 + 1)):
        assert not takes(**beyond), beyond


@pytest.mark.parametrize("kind", [Attention, LinearAttention])
def test_softmax_computes_in_float32_in_a_16_bit_graph(kind, monkeypatch):
    seen = []

    @ops.constexpr
    def note(dtype):
        seen.append(str(dtype))
        return True

    def construct(self, x):
        note(x.dtype)
        return self.softmax(x)

    monkeypatch.setattr(nn.Softmax, "construct", construct)
    cell = kind(8, HEADS, 16)
    set_precision(cell, "fp16", "O2")
    ms.jit(cell.construct)(Tensor(np.ones((1, 8, 2, 2)), ms.float32))
    assert seen and set(seen) == {"Float32"}
