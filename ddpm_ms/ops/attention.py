"""Attention of every pixel to every pixel, softmax and linear: one native operator on CPUs where it could be built, MindSpore's
flash attention on Ascend in 16 bits, matrix products and softmax elsewhere.

All keep the layout (batch * heads, head dim, pixels), so that every product is one batched matrix product with a transpose
flag and nothing is copied. The flash path was held against the plain one in its arguments and shapes alone. It has not run on
a device, and nothing about its speed was measured.
"""

from __future__ import annotations

from typing import Any, Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms import runtime
from ddpm_ms.errors import InputError
from ddpm_ms.ops.convolution import Convolution


class _HeadsAttention(nn.Cell):
    """What both kinds share: the projection to queries, keys and values, and the learned memory.

    Args:
        heads, dim_head: how many heads, and how many features each has.

    Inputs:
        x (B, C, H, W); weight (3 * heads * dim_head, C, 1, 1), whose rows are all queries, all keys, all values, and within each
        of them head after head; memory, learned keys and values that every image attends to, or None; bias, as many numbers as
        weight has rows, or None.

    Outputs:
        (B, heads * dim_head, H, W), in the type of x.
    """

    def __init__(self, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.dim_head, self.scale = heads, dim_head, dim_head**-0.5
        self.project = Convolution(heads * dim_head, 1)
        self.native: Any = None
        self.native_with_memory: Any = None
        self.split, self.reshape, self.concat = ops.Split(0, 3), ops.Reshape(), ops.Concat(2)
        self.cast, self.tile = ops.Cast(), ops.Tile()

    def plain(self, x: Tensor, weight: Tensor, memory: Tensor | None, bias: Tensor | None = None) -> Tensor:
        """By operators that every device has."""
        batch, _, height, width = x.shape
        q, k, v = self.project_heads(x, weight, bias)
        if memory is not None:
            k, v = self.append(k, memory[0], batch), self.append(v, memory[1], batch)
        return self.reshape(self.attend(q, k, v), (batch, self.heads * self.dim_head, height, width))

    def project_heads(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Three of (B * heads, dim_head, H * W). The weight is split instead of what it makes, which is much larger."""
        shape = (-1, self.dim_head, x.shape[2] * x.shape[3])
        weights, biases = self.split(self.cast(weight, x.dtype)), (None, None, None)
        if bias is not None:
            biases = self.split(self.cast(bias, x.dtype))
        q = self.reshape(self.project(x, weights[0], biases[0]), shape)
        k = self.reshape(self.project(x, weights[1], biases[1]), shape)
        v = self.reshape(self.project(x, weights[2], biases[2]), shape)
        return q, k, v

    def append(self, x: Tensor, memory: Tensor, batch: int) -> Tensor:
        """``memory`` (heads, dim_head, M) behind the pixels of ``x`` (B * heads, dim_head, pixels)."""
        return self.concat((x, self.cast(self.tile(memory, (batch, 1, 1)), x.dtype)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Q (B * heads, dim_head, N), k and v (B * heads, dim_head, M), all of one type -> as q."""
        raise NotImplementedError


class ScaledDotProductAttention(_HeadsAttention):
    """v softmax(q^T k / sqrt(dim_head))^T for every head (arXiv:1706.03762, equation 1), statistics in float32. Memory is
    (2, heads, M, dim_head)."""

    def __init__(self, heads: int, dim_head: int) -> None:
        super().__init__(heads, dim_head)
        if library := runtime.native_library():
            self.native = _NativeSoftmax(library, heads, self.scale)
            self.native_with_memory = _NativeSoftmaxWithMemory(library, heads, self.scale)
        self.on_ascend = runtime.device_target() == "Ascend"
        self.scores, self.mix = ops.BatchMatMul(transpose_a=True), ops.BatchMatMul(transpose_b=True)
        self.softmax, self.transpose = nn.Softmax(-1), ops.Transpose()

    def construct(self, x: Tensor, weight: Tensor, memory: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        if self.native is None or x.dtype != ms.float32:
            return self.plain(x, weight, memory, bias)
        qkv = self.project(x, weight, bias)
        return self.native(qkv) if memory is None else self.native_with_memory(qkv, memory)

    def append(self, x: Tensor, memory: Tensor, batch: int) -> Tensor:
        return super().append(x, self.transpose(memory, (0, 2, 1)), batch)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.on_ascend and flash_attention_takes(q.dtype, q.shape, k.shape, self.heads):
            return self.flash(q, k, v)
        weights = self.softmax(self.cast(self.scores(q * self.scale, k), ms.float32))  # (B * heads, N, M)
        return self.mix(v, self.cast(weights, v.dtype))

    def flash(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same in one operator, which never holds the N x M weights (arXiv:2205.14135)."""
        out = ops.flash_attention_score(self.to_bnsd(q), self.to_bnsd(k), self.to_bnsd(v), self.heads,
                                        scalar_value=self.scale, input_layout="BNSD")
        return self.reshape(self.transpose(out, (0, 1, 3, 2)), q.shape)

    def to_bnsd(self, x: Tensor) -> Tensor:
        """(B * heads, head dim, N) -> (B, heads, N, head dim)."""
        return self.transpose(self.reshape(x, (-1, self.heads, *x.shape[1:])), (0, 1, 3, 2))


class EfficientAttention(_HeadsAttention):
    """(softmax(k) v^T / sqrt(dim_head))^T softmax(q) for every head, with softmax of keys along the pixels and of queries along
    the features: its cost is linear in the number of pixels (arXiv:1812.01243, section 3.2). Memory is (2, heads, dim_head, M);
    without it values are divided by the number of pixels. There is no bias."""

    def __init__(self, heads: int, dim_head: int) -> None:
        super().__init__(heads, dim_head)
        if library := runtime.native_library():
            self.native = _NativeLinear(library, heads, self.scale, self.project.native)
            self.native_with_memory = _NativeLinearWithMemory(library, heads, self.scale, self.project.native)
        self.softmax, self.softmax_features = nn.Softmax(-1), nn.Softmax(-2)
        self.outer, self.gather = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul(transpose_a=True)

    def construct(self, x: Tensor, weight: Tensor, memory: Tensor | None = None) -> Tensor:
        if self.native is None or x.dtype != ms.float32:
            return self.plain(x, weight, memory)
        return self.native(x, weight) if memory is None else self.native_with_memory(x, weight, memory)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pixels = q.shape[2]
        if k.shape[2] == pixels:
            v = v / pixels
        # Softmax computes in float32 even where the rest has 16 bits.
        k, q = self.cast(self.softmax(k), v.dtype), self.cast(self.softmax_features(q), v.dtype)
        return self.gather(self.outer(k, v) * self.scale, q)  # the product in the middle is (B * heads, dim_head, dim_head)


class _Native(nn.Cell):
    """What the native forms share: two operators of attention.cpp, of which the functions say what they make of the shapes, or
    types, of their inputs: the result, and the gradients."""

    def __init__(self, name: str, heads: int, scale: float, result: Callable, gradients: Callable) -> None:
        super().__init__()
        self.config = Tensor(np.array([heads, scale], np.float32))
        self.forward = ops.Custom(f"{name}_forward", result, _first, func_type="aot")
        self.backward = ops.Custom(f"{name}_backward", gradients, gradients, func_type="aot")


class _NativeSoftmax(_Native):
    """Of the projections (B, 3 * heads * dim_head, H, W)."""

    def __init__(self, library: str, heads: int, scale: float) -> None:
        super().__init__(f"{library}:attention", heads, scale, _third, _first)

    def construct(self, qkv):
        return self.forward(qkv, self.config)

    def bprop(self, qkv, out, dout):
        return (self.backward(qkv, self.config, dout),)


class _NativeSoftmaxWithMemory(_Native):
    def __init__(self, library: str, heads: int, scale: float) -> None:
        super().__init__(f"{library}:attention_memory", heads, scale, _third, _first_and_memory)

    def construct(self, qkv, memory):
        return self.forward(qkv, memory, self.config)

    def bprop(self, qkv, memory, out, dout):
        return self.backward(qkv, memory, self.config, dout)


class _NativeLinear(_Native):
    """Of the images, whose projections it makes itself; for their gradients it takes the operators of the ``projection``."""

    def __init__(self, library: str, heads: int, scale: float, projection: Any, name: str = "linear_attention",
                 gradients: Callable | None = None) -> None:
        super().__init__(f"{library}:{name}", heads, scale, _third_of_weight, gradients or _projected)
        self.data, self.weights, self.how = projection.backward_data, projection.backward_weights, projection.config

    def construct(self, x, weight):
        return self.forward(x, weight, self.config)

    def bprop(self, x, weight, out, dout):
        dqkv = self.backward(x, weight, self.config, dout)
        return self.data(x, weight, self.how, dqkv), self.weights(x, weight, self.how, dqkv)


class _NativeLinearWithMemory(_NativeLinear):
    def __init__(self, library: str, heads: int, scale: float, projection: Any) -> None:
        super().__init__(library, heads, scale, projection, "linear_attention_memory", _projected_and_memory)

    def construct(self, x, weight, memory):  # type: ignore[override]
        return self.forward(x, weight, memory, self.config)

    def bprop(self, x, weight, memory, out, dout):  # type: ignore[override]
        dqkv, dmemory = self.backward(x, weight, memory, self.config, dout)
        return self.data(x, weight, self.how, dqkv), self.weights(x, weight, self.how, dqkv), dmemory


def _first(x, *others):
    return x


def _first_and_memory(x, memory, *others):
    return x, memory


def _third(qkv, *others):
    return (qkv[0], qkv[1] // 3, *qkv[2:])


def _third_of_weight(x, weight, *others):
    if x[1] != weight[1]:  # the library would read past the weights
        raise InputError(f"attention is given {x[1]} channels, allowed: {weight[1]}")
    return (x[0], weight[0] // 3, *x[2:])


def _projected(x, weight, *others):
    """The shape of the projections, or their type."""
    return (x[0], weight[0], *x[2:]) if isinstance(x, (list, tuple)) else x


def _projected_and_memory(x, weight, memory, *others):
    return _projected(x, weight), memory


def flash_attention_takes(dtype: ms.Type, q_shape: tuple, k_shape: tuple, heads: int) -> bool:
    """Whether these are types and shapes that MindSpore documents for ``ops.flash_attention_score``."""
    return (dtype in (ms.float16, ms.bfloat16) and q_shape[1] % 16 == 0 and q_shape[1] <= 512 and heads <= 256
            and q_shape[0] <= 2048 * heads and q_shape[2] <= 512 * 1024 and k_shape[2] <= 512 * 1024)
