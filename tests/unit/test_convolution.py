"""The native CPU convolution against MindSpore's own."""

import shutil
import threading

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from ddpm_ms import runtime
from ddpm_ms.ops.convolution import Convolution
from ddpm_ms.ops.cpu import build

needs_native = pytest.mark.skipif("runtime.native_library() is None", reason="no native convolution on this machine")


@pytest.fixture(scope="session", autouse=True)
def _runtime(cpu_runtime):
    return cpu_runtime


def gradients(cell, arrays):
    tensors = [Tensor(a) for a in arrays]
    weigh = Tensor(np.random.default_rng(9).standard_normal(cell(*tensors).shape).astype(np.float32))
    grad = ms.grad(lambda *inputs: (cell(*inputs) * weigh).sum(), tuple(range(len(tensors))))
    return [cell(*tensors).asnumpy(), *(g.asnumpy() for g in grad(*tensors))]


@needs_native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [
    # batch, channels, height, width, out, kernel, stride, padding
    (4, 8, 8, 8, 16, 3, 1, 1), (1, 3, 9, 7, 5, 7, 1, 3), (2, 16, 8, 6, 8, 2, 2, 0), (3, 5, 9, 9, 4, 4, 2, 1),
    (2, 8, 5, 3, 12, 1, 1, 0), (2, 1, 8, 8, 1, 3, 1, 1), (2, 33, 7, 7, 17, 3, 2, 1),
])
def test_native_library_and_its_gradients_equal_the_stock_ones(shape, bias, monkeypatch):
    batch, channels, height, width, out, kernel, stride, padding = shape
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(s).astype(np.float32) for s in
              ((batch, channels, height, width), (out, channels, kernel, kernel), (out,))][: 3 if bias else 2]
    native = Convolution(out, kernel, stride, padding)
    assert native.native is not None
    monkeypatch.setattr(runtime, "native_library", lambda: None)
    stock = Convolution(out, kernel, stride, padding)
    assert stock.native is None
    for ours, theirs in zip(gradients(native, arrays), gradients(stock, arrays)):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@needs_native
def test_two_threads_may_convolve_at_once():
    conv = Convolution(8, 3, 1, 1)
    weight = Tensor(np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32))
    inputs = [Tensor(np.random.default_rng(i).standard_normal((2, 4, 8, 8)).astype(np.float32)) for i in range(2)]
    expected = [conv(x, weight).asnumpy() for x in inputs]
    wrong = []

    def work(i):
        for _ in range(30):
            if not np.array_equal(conv(inputs[i], weight).asnumpy(), expected[i]):
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
