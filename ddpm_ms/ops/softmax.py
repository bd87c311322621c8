"""Softmax of batches of matrices, native on CPUs where it could be built."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ddpm_ms import runtime


class Softmax(nn.Cell):
    """Softmax of (B, M, N) over ``axis`` -1 or -2."""

    in_float32 = True

    def __init__(self, axis: int) -> None:
        super().__init__()
        library = runtime.native_library()
        self.native = _Native(library, "along" if axis == -1 else "down") if library else None
        self.softmax = ops.Softmax(axis)

    def construct(self, x: Tensor) -> Tensor:
        if self.native is not None and x.dtype == ms.float32:
            return self.native(x)
        return self.softmax(x)


class _Native(nn.Cell):
    """The operators of kernels.cpp."""

    def __init__(self, library: str, name: str) -> None:
        super().__init__()
        self.forward = ops.Custom(f"{library}:softmax_{name}", _first, _first, func_type="aot")
        self.backward = ops.Custom(f"{library}:softmax_{name}_backward", _first, _first, func_type="aot")

    def construct(self, x):
        return self.forward(x)

    def bprop(self, x, out, dout):
        return (self.backward(out, dout),)


def _first(x, *others):
    return x
