"""The native CPU operators against MindSpore's own."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from ddpm_ms import EMA, GaussianDiffusion, runtime
from ddpm_ms.data import ArrayDataset
from ddpm_ms.errors import InputError
from ddpm_ms.native import build
from ddpm_ms.ops.attention import EfficientAttention, ScaledDotProductAttention
from ddpm_ms.ops.convolution import Conv2d, Convolution, ConvolutionReLU
from ddpm_ms.ops.normalization import UnitChannels, UnitGroups
from ddpm_ms.ops.pooling import Pool
from ddpm_ms.ops.upsampling import AverageDownsample, NearestUpsample
from ddpm_ms.training.batches import BatchSource
from ddpm_ms.training.timesteps import TimestepSampler
from ddpm_ms.training.train_step import TrainStep

needs_native = pytest.mark.skipif("runtime.native_library() is None", reason="no native operators on this machine")


@pytest.fixture(scope="session", autouse=True)
def _runtime(cpu_runtime):
    return cpu_runtime


def gradients(cell, arrays):
    tensors = [Tensor(a) for a in arrays]
    weigh = Tensor(np.random.default_rng(9).standard_normal(cell(*tensors).shape).astype(np.float32))
    grad = ms.grad(lambda *inputs: (cell(*inputs) * weigh).sum(), tuple(range(len(tensors))))
    return [cell(*tensors).asnumpy(), *(g.asnumpy() for g in grad(*tensors))]


@needs_native
@pytest.mark.parametrize("added", ["nothing", "bias", "images", "elements"])
@pytest.mark.parametrize("shape", [
    # batch, channels, height, width, out, kernel, stride, padding
    (4, 8, 8, 8, 16, 3, 1, 1), (1, 3, 9, 7, 5, 7, 1, 3), (2, 16, 8, 6, 8, 2, 2, 0), (3, 5, 9, 9, 4, 4, 2, 1),
    (2, 8, 5, 3, 12, 1, 1, 0), (3, 8, 9, 8, 12, 1, 1, 0), (1, 5, 8, 10, 3, 1, 1, 0),
    (2, 1, 8, 8, 1, 3, 1, 1), (2, 33, 7, 7, 17, 3, 2, 1), (2, 6, 8, 10, 9, 3, 2, (0, 1)),
    # Winograd's form: odd sides, channels that fill no vector, few tiles, rows longer than a block
    (3, 20, 15, 33, 27, 3, 1, 1), (9, 64, 7, 8, 36, 3, 1, 1), (2, 128, 4, 4, 130, 3, 1, 1), (1, 16, 13, 250, 17, 3, 1, 1),
])
def test_native_convolution_and_its_gradients_equal_the_stock_ones(shape, added, monkeypatch):
    batch, channels, height, width, out, kernel, stride, padding = shape
    random = np.random.default_rng(0)
    native = Convolution(out, kernel, stride, padding)
    arrays = [random.standard_normal(s).astype(np.float32) for s in
              ((batch, channels, height, width), (out, channels, kernel, kernel), (out,))][: 2 if added == "nothing" else 3]
    if added in ("images", "elements"):
        y = native(*map(Tensor, arrays)).shape
        arrays.append(random.standard_normal(y[:2] if added == "images" else y).astype(np.float32))
    assert native.native is not None
    monkeypatch.setattr(runtime, "native_library", lambda: None)
    stock = Convolution(out, kernel, stride, padding)
    assert stock.native is None
    for ours, theirs in zip(gradients(native, arrays), gradients(stock, arrays)):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@needs_native
@pytest.mark.parametrize("size", [4, 8, 14])
def test_what_a_native_convolution_makes_of_an_image_does_not_depend_on_the_batch(size):
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal(s).astype(np.float32) for s in ((24, 128, size, size), (128, 128, 3, 3)))
    layer = Convolution(128, 3, 1, 1)
    together = layer(Tensor(x), Tensor(weight)).asnumpy()
    for first, last in ((0, 1), (1, 4), (4, 24)):
        assert (layer(Tensor(x[first:last]), Tensor(weight)).asnumpy() == together[first:last]).all()


@needs_native
def test_three_by_three_convolutions_are_as_exact_as_float32_allows():
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal(s) for s in ((2, 64, 16, 16), (64, 64, 3, 3)))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    exact = sum(np.einsum("nchw,oc->nohw", padded[:, :, i:i + 16, j:j + 16], weight[:, :, i, j])
                for i in range(3) for j in range(3))
    found = Convolution(64, 3, 1, 1)(Tensor(x, ms.float32), Tensor(weight, ms.float32)).asnumpy()
    assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < 1e-6


@needs_native
def test_native_convolutions_that_differ_in_stride_or_padding_alone_are_told_apart():
    arrays = [np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in ((2, 8, 16, 12), (8, 8, 3, 3), (8,))]
    x, weight, bias = map(Tensor, arrays)
    same, around, after = Convolution(8, 3, 1, 1), Convolution(8, 3, 2, 1), Convolution(8, 3, 2, (0, 1))
    full = same(x, weight, bias).asnumpy()
    np.testing.assert_allclose(around(x, weight, bias).asnumpy(), full[:, :, ::2, ::2], atol=1e-5)
    np.testing.assert_allclose(after(x, weight, bias).asnumpy(), full[:, :, 1::2, 1::2], atol=1e-5)


@needs_native
@pytest.mark.parametrize("shape", [
    # batch, channels, height, width, out, kernel, stride, padding
    (2, 3, 9, 7, 5, (3, 3), 2, (0, 0)), (2, 8, 9, 7, 4, (1, 7), 1, (0, 3)), (2, 8, 9, 7, 4, (7, 1), 1, (3, 0)),
    (2, 8, 9, 7, 4, (1, 7), 1, (1, 3)), (1, 33, 5, 6, 20, (1, 1), 1, (0, 0)), (2, 6, 8, 10, 9, (5, 5), 1, (2, 2)),
])
def test_the_native_convolution_with_a_rectifier_equals_the_stock_one(shape, monkeypatch):
    batch, channels, height, width, out, kernel, stride, padding = shape
    random = np.random.default_rng(0)
    arrays = [Tensor(random.standard_normal(s).astype(np.float32)) for s in
              ((batch, channels, height, width), (out, channels, *kernel), (out,))]
    native, stock = both(lambda: ConvolutionReLU(out, kernel, stride, padding), monkeypatch)
    assert native.native is not None and stock.native is None
    ours, theirs = native(*arrays).asnumpy(), stock(*arrays).asnumpy()
    assert ours.shape == theirs.shape and ours.min() == 0 < ours.max()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.max())


@needs_native
@pytest.mark.parametrize("kind", ["mean", "max", "halve"])
def test_native_pools_equal_the_stock_ones(kind, monkeypatch):
    native, stock = both(lambda: Pool(kind), monkeypatch)
    assert native.native is not None and stock.native is None
    for size in ((3, 3), (8, 5), (17, 35)):
        x = np.random.default_rng(0).standard_normal((2, 5, *size)).astype(np.float32) - 3  # a maximum below 0 knows no padding
        np.testing.assert_allclose(native(Tensor(x)).asnumpy(), stock(Tensor(x)).asnumpy(), rtol=1e-5, err_msg=str(size))
    x = Tensor(np.ones((1, 1, 6, 4), np.float32))
    assert (native(x).asnumpy() == pytest.approx(1)) and native(x).shape == ((1, 1, 2, 1) if kind == "halve" else x.shape)


def both(make, monkeypatch):
    """(the native Cell, the one without the library)."""
    native = make()
    monkeypatch.setattr(runtime, "native_library", lambda: None)
    return native, make()


def assert_alike(native, stock, arrays):
    for ours, theirs in zip(gradients(native, arrays), gradients(stock, arrays)):
        assert ours.shape == theirs.shape and np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(np.abs(theirs).max(), 1))


@needs_native
@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("shape", [(4, 8, 8, 8), (1, 3, 5, 7), (2, 33, 9, 13), (3, 1, 1, 1), (2, 130, 16, 16)])
def test_native_norm_and_its_gradients_equal_the_stock_ones(shape, added, scaled, act, monkeypatch):
    random = np.random.default_rng(0)
    x, gain, scale_shift, plus = (random.standard_normal(s).astype(np.float32)
                                  for s in (shape, shape[1:2], (shape[0], 2 * shape[1]), shape))
    cells = both(lambda: UnitChannels(shape[1], act), monkeypatch)
    native, stock = (Given(cell, scaled, added) for cell in cells)
    assert_alike(native, stock, [x, gain, *([scale_shift] if scaled else []), *([plus] if added else [])])


class Given(nn.Cell):
    """A norm with those of its inputs that are given."""

    def __init__(self, norm, scaled, added):
        super().__init__()
        self.norm, self.scaled, self.added = norm, scaled, added

    def construct(self, x, gain, *others):
        return self.norm(x, gain, others[0] if self.scaled else None, others[-1] if self.added else None)


def of_group_norm(shape, scaled, mean=2.0):
    """Inputs of `UnitGroups`."""
    random = np.random.default_rng(0)
    shapes = (shape, shape[1:2], shape[1:2], *(((shape[0], 2 * shape[1]),) if scaled else ()))
    x, *others = (random.standard_normal(s).astype(np.float32) for s in shapes)
    return [x * 3 + mean, *others]


GROUPED = [
    # shape, groups: also one channel per group, one group, one pixel
    ((4, 8, 8, 8), 2), ((1, 6, 5, 7), 3), ((2, 33, 9, 13), 33), ((3, 5, 4, 4), 1), ((2, 4, 1, 1), 2), ((2, 64, 32, 32), 8),
]


@needs_native
@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("shape", "groups"), GROUPED)
def test_native_group_norm_and_its_gradients_equal_the_plain_ones(shape, groups, scaled, act, monkeypatch):
    native, plain = both(lambda: UnitGroups(groups, 1e-5, act), monkeypatch)
    assert_alike(native, plain, of_group_norm(shape, scaled))


@needs_native
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_native_group_norm_is_its_formula_in_float64(mean):
    # Far from zero a variance as the mean of squares less the squared mean would have no digit left.
    x, gamma, beta, scale_shift = of_group_norm((2, 8, 64, 64), True, mean)
    scale, shift = np.split(scale_shift, 2, 1)
    groups = x.astype(np.float64).reshape(2, 4, -1)
    unit = ((groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-6)).reshape(x.shape)
    z = unit * (gamma * (1 + scale))[..., None, None] + (beta * (1 + scale) + shift)[..., None, None]
    found = UnitGroups(4, 1e-6, act=True)(*map(Tensor, (x, gamma, beta, scale_shift))).asnumpy()
    np.testing.assert_allclose(found, z / (1 + np.exp(-z)), atol=1e-5 if mean == 0 else 1e-3)


SAME_BITS = """if True:
    import hashlib
    import mindspore as ms
    import numpy as np
    from ddpm_ms import runtime
    from ddpm_ms.config import RuntimeConfig
    runtime.setup(RuntimeConfig(device="CPU"))
    from mindspore import Tensor
    from ddpm_ms.ops.attention import EfficientAttention, ScaledDotProductAttention
    from ddpm_ms.ops.normalization import UnitGroups
    random = np.random.default_rng(0)
    arrays = [Tensor(random.standard_normal(s).astype(np.float32)) for s in {shapes}]
    cell = {cell}
    weigh = Tensor(random.standard_normal(cell(*arrays).shape).astype(np.float32))
    gradients = ms.grad(lambda *inputs: (cell(*inputs) * weigh).sum(), tuple(range(len(arrays))))(*arrays)
    print(hashlib.sha256(b"".join(a.asnumpy().tobytes() for a in (cell(*arrays), *gradients))).hexdigest())
"""


@needs_native
@pytest.mark.parametrize(("cell", "shapes"), [
    ("UnitGroups(4, 1e-6, act=True)", [(3, 12, 8, 8), (12,), (12,), (3, 24)]),
    ("EfficientAttention(2, 8)", [(3, 6, 9, 16), (48, 6, 1, 1), (2, 2, 8, 4)]),
    ("ScaledDotProductAttention(2, 8)", [(3, 6, 9, 16), (48, 6, 1, 1), (2, 2, 4, 8), (48,)]),
])
def test_native_operators_give_the_same_bits_on_any_number_of_threads(cell, shapes):
    code = SAME_BITS.format(cell=cell, shapes=shapes)
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3],
                            env={**os.environ, "OMP_NUM_THREADS": threads}).stdout for threads in ("1", "3")}
    assert len(found) == 1 and len(found.pop().strip()) == 64


ATTENTIONS = [ScaledDotProductAttention, EfficientAttention]


def of_attention(kind, images, channels, size, heads, width, memories):
    """Inputs of an attention."""
    random = np.random.default_rng(0)
    shapes = [(images, channels, *size), (3 * heads * width, channels, 1, 1)]
    shapes.append((2, heads, *((memories, width) if kind is ScaledDotProductAttention else (width, memories))))
    return [random.standard_normal(s).astype(np.float32) for s in shapes][: 3 if memories else 2]


@needs_native
@pytest.mark.parametrize("memories", [0, 4])
@pytest.mark.parametrize(("size", "heads", "width"), [((4, 4), 2, 8), ((1, 1), 1, 3), ((5, 7), 3, 16), ((16, 20), 2, 32)])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_native_attention_and_its_gradients_equal_the_plain_ones(kind, size, heads, width, memories, monkeypatch):
    native, plain = both(lambda: kind(heads, width), monkeypatch)
    assert native.native is not None and plain.native is None
    assert_alike(native, plain, of_attention(kind, 3, 6, size, heads, width, memories))


class WithAndWithout(nn.Cell):
    """Attention with its memory, and without it, in one network."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def construct(self, x, weight, memory):
        return self.attention(x, weight, memory) * 2 + self.attention(x, weight)


@needs_native
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_native_attention_with_and_without_memory_goes_into_one_graph(kind, monkeypatch):
    arrays = of_attention(kind, 3, 6, (4, 5), 2, 8, 4)
    native, plain = both(lambda: WithAndWithout(kind(2, 8)), monkeypatch)

    def sums(cell):
        def sum_of_squares(x, weight, memory):
            return ms.ops.square(cell(x, weight, memory)).sum()

        return ms.jit(ms.value_and_grad(sum_of_squares, (0, 1, 2)))(*map(Tensor, arrays))

    (ours, our_gradients), (theirs, their_gradients) = sums(native), sums(plain)
    assert ours.asnumpy() == pytest.approx(theirs.asnumpy(), rel=1e-4)
    for one, other in zip(our_gradients, their_gradients):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-3, atol=1e-4 * np.abs(other.asnumpy()).max())


@needs_native
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_native_attention_bears_numbers_whose_exponentials_overflow_or_vanish(kind, monkeypatch):
    native, plain = both(lambda: kind(2, 8), monkeypatch)
    x, *others = of_attention(kind, 2, 6, (4, 5), 2, 8, 4)
    ours, theirs = (cell(Tensor(x * 1000), *map(Tensor, others)).asnumpy() for cell in (native, plain))
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@needs_native
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_what_native_attention_makes_of_an_image_does_not_depend_on_the_batch(kind):
    x, *others = map(Tensor, of_attention(kind, 5, 6, (9, 16), 2, 8, 4))
    cell = kind(2, 8)
    together = cell(x, *others).asnumpy()
    for first, last in ((0, 1), (1, 5)):
        np.testing.assert_array_equal(cell(x[first:last], *others).asnumpy(), together[first:last])


@needs_native
@pytest.mark.parametrize("place", [0, 17, 36])
@pytest.mark.parametrize("cell", [lambda: UnitChannels(3, True), lambda: UnitGroups(1, 1e-5, True),
                                  lambda: ScaledDotProductAttention(1, 4), lambda: EfficientAttention(1, 4)])
def test_what_is_no_number_remains_so_and_divergence_is_noticed(cell, place):
    """Comparisons with NaN are false, so a maximum may lose one."""
    x = np.random.default_rng(0).standard_normal((1, 3, 37, 1)).astype(np.float32)
    x[0, 1, place] = np.nan
    operator = cell()
    if isinstance(operator, (UnitChannels, UnitGroups)):
        others = [np.ones(3, np.float32)] * (2 if isinstance(operator, UnitGroups) else 1)
    else:
        others = [np.ones((12, 3, 1, 1), np.float32)]
    assert np.isnan(operator(Tensor(x), *map(Tensor, others)).asnumpy()[0, 1, place])


@needs_native
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 1, 1), (3, 5, 7, 3)])
def test_native_upsampling_and_its_gradient_equal_the_stock_ones(shape, monkeypatch):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    native, stock = both(NearestUpsample, monkeypatch)
    assert_alike(native, stock, [x])
    np.testing.assert_array_equal(native(Tensor(x)).asnumpy(), x.repeat(2, 2).repeat(2, 3))
    np.testing.assert_array_equal(stock(Tensor(x)).asnumpy(), x.repeat(2, 2).repeat(2, 3))


@needs_native
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 2, 2), (3, 5, 6, 10)])
def test_native_halving_and_its_gradient_equal_the_stock_ones(shape, monkeypatch):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    native, stock = both(AverageDownsample, monkeypatch)
    assert_alike(native, stock, [x])
    batch, channels, height, width = shape
    means = x.reshape(batch, channels, height // 2, 2, width // 2, 2).mean((3, 5))
    np.testing.assert_allclose(native(Tensor(x)).asnumpy(), means, atol=1e-6)


@needs_native
def test_native_operators_take_what_a_transposition_made(monkeypatch):
    x = Tensor(np.random.default_rng(0).standard_normal((2, 6, 5, 4)).astype(np.float32)).transpose(0, 3, 2, 1)
    native, stock = both(lambda: UnitChannels(4, True), monkeypatch)
    one = Tensor(np.ones(4, np.float32))
    np.testing.assert_allclose(native(x, one).asnumpy(), stock(x, one).asnumpy(), atol=1e-5)


@needs_native
@pytest.mark.slow
def test_ten_thousand_calls_leak_nothing():
    conv, norm = Convolution(8, 3, 1, 1), UnitChannels(8, True)
    x, weight = Tensor(np.ones((2, 8, 16, 16), np.float32)), Tensor(np.ones((8, 8, 3, 3), np.float32))
    one = Tensor(np.ones(8, np.float32))

    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def call(times):
        for n in range(times):
            y = norm(conv(x, weight), one)
            if n % 100 == 0:
                y.asnumpy()  # so that not too many calls are waiting

    call(5_000)  # allocators settle
    before = resident()
    call(10_000)
    assert resident() - before < 1


@needs_native
@pytest.mark.slow
def test_training_with_and_without_the_native_operators_has_the_same_loss_curve(tiny_unet, monkeypatch):
    images = np.random.default_rng(0).uniform(0, 1, (64, 8, 8)).astype(np.float32)

    def curve():
        network = tiny_unet()
        diffusion = GaussianDiffusion(network, image_size=8)
        step = TrainStep(diffusion, nn.Adam(network.trainable_params(), 1e-3, 0.9, 0.99), EMA(network, 0.99, 1)).set_train(True)
        batches, times = BatchSource(ArrayDataset(images, 1), 16, 1, seed=0), TimestepSampler("uniform", 1000, 0)
        one, losses = Tensor(1.0, ms.float32), []
        for n in range(200):
            batch, = batches.step(n)
            t = Tensor(times.draw(n, 16)[0])
            loss = step.gradient(Tensor(batch.images), t, Tensor(batch.noise), False, None, None, None, one)
            losses.append(loss.asnumpy().mean())
            step.update(Tensor(1e-3, ms.float32), Tensor(0.01, ms.float32), one)
        return np.array(losses)

    native = curve()
    monkeypatch.setattr(runtime, "native_library", lambda: None)
    stock = curve()
    np.testing.assert_allclose(native[:20], stock[:20], rtol=1e-4)
    np.testing.assert_allclose(native, stock, rtol=2e-2)  # rounding differs, and training amplifies it
    assert native[-50:].mean() < 0.9 * native[:10].mean()


@needs_native
@pytest.mark.slow
def test_the_sanitizers_find_nothing():
    done = subprocess.run(["bash", "scripts/sanitize_native.sh"], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0 and done.stdout.strip().endswith("clean"), done.stderr


@needs_native
def test_two_graphs_may_run_in_two_threads_at_once():
    # Graphs, not single operators: MindSpore keeps one launch record for equal custom operators called one by one.
    weight = Tensor(np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32))
    inputs = [Tensor(np.random.default_rng(i).standard_normal((2, 4, 8, 8)).astype(np.float32)) for i in range(2)]
    graphs = [ms.jit(Convolution(8, 3, 1, 1).construct) for _ in range(2)]
    expected = [graph(x, weight).asnumpy() for graph, x in zip(graphs, inputs)]
    wrong = []

    def work(i):
        for _ in range(300):
            if not np.array_equal(graphs[i](inputs[i], weight).asnumpy(), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_other_types_take_mindsporess_own_path():
    x = Tensor(np.ones((1, 2, 4, 4)), ms.float16)
    y = Convolution(3, 1)(x, Tensor(np.ones((3, 2, 1, 1)), ms.float16))
    assert y.dtype == ms.float16 and (y.asnumpy() == 2).all()


def test_a_convolution_refuses_channels_that_its_weights_do_not_have():
    convolution = Conv2d(3, 4, 3, 1, 1, True)
    for channels in (1, 4):
        with pytest.raises(InputError, match=f"the convolution is given {channels} channels, allowed: 3"):
            convolution(Tensor(np.zeros((1, channels, 8, 8), np.float32)))


@needs_native
def test_attention_refuses_other_channels_than_its_weights_have():
    x, weight, memory = map(Tensor, of_attention(EfficientAttention, 2, 6, (4, 4), 2, 8, 4))
    for given in ((weight,), (weight, memory)):
        with pytest.raises(InputError, match="attention is given 5 channels, allowed: 6"):
            EfficientAttention(2, 8)(x[:, :5], *given)


def test_without_a_compiler_or_library_the_reason_is_named(tmp_path, monkeypatch):
    with pytest.raises(build.BuildError, match="does not ship oneDNN 3"):
        build.build(None, tmp_path)
    library = tmp_path / "libdnnl.so.3"
    library.write_bytes(b"not a library")
    if shutil.which("g++"):
        with pytest.raises(build.BuildError, match=r"g\+\+ failed"):
            build.build(library, tmp_path / "cache")
        assert not list((tmp_path / "cache").glob("*.so"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(build.BuildError, match="install g"):
        build.build(library, tmp_path)


def test_it_is_off_by_request(monkeypatch):
    monkeypatch.setenv("DDPM_MS_NATIVE", "0")
    assert runtime.native_library() is None
    assert isinstance(Convolution(1, 1), nn.Cell) and Convolution(1, 1).native is None
