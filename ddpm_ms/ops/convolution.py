"""2-D convolution: MindSpore's on Ascend and GPU, the native one on CPUs where it could be built."""

from __future__ import annotations

from typing import Any, Tuple, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms import runtime
from ddpm_ms.errors import InputError

Padding = Union[int, Tuple[int, int]]


class Convolution(nn.Cell):
    """y = x * weight + bias, as a function of all three.

    Args:
        out_channels, kernel_size, stride: as for ``nn.Conv2d``, square.
        padding: zeros on all sides, or (how many before, how many after) the pixels of each row and column.

    Inputs:
        x (B, C, H, W), weight (out_channels, C, k, k), bias (out_channels,) or None.
    """

    def __init__(self, out_channels: int, kernel_size: int, stride: int = 1, padding: Padding = 0) -> None:
        super().__init__()
        before, after = _both(padding)
        library = runtime.native_library()
        # Both are there or neither is.
        self.native: Any = _NativePlain(library, stride, before, after) if library else None
        self.native_with_bias: Any = _NativeWithBias(library, stride, before, after) if library else None
        self.pad = None
        if runtime.is_portable() and before != after:  # MindSpore takes one side for another when it writes ONNX
            self.pad, before, after = ops.Pad(((0, 0), (0, 0), *((before, after),) * 2)), 0, 0
        self.conv2d = ops.Conv2D(out_channels, (kernel_size, kernel_size), pad_mode="pad", pad=(before, after) * 2, stride=stride)
        self.bias_add = ops.BiasAdd()

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.native is not None and x.dtype == ms.float32 and weight.dtype == ms.float32:
            if bias is None:
                return self.native(x, weight)
            return self.native_with_bias(x, weight, bias)
        y = self.conv2d(x if self.pad is None else self.pad(x), weight)
        return y if bias is None else self.bias_add(y, bias)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` (same parameters, same initial values or those of ``initial``) that computes through `Convolution`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: Padding, has_bias: bool,
                 **initial: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, pad_mode="pad", padding=_both(padding) * 2,
                         has_bias=has_bias, **initial)
        self.compute = Convolution(out_channels, kernel_size, stride, padding)

    def construct(self, x: Tensor) -> Tensor:
        if self.has_bias:
            return self.compute(x, self.weight, self.bias)
        return self.compute(x, self.weight)


class ConvolutionReLU(nn.Cell):
    """max(x * weight + bias, 0) for networks that are only evaluated: one pass on CPUs, always in float32, without a gradient.

    Args:
        kernel_size, padding: (rows, columns); zeros on both sides.

    Inputs:
        x (B, C, H, W), weight (out_channels, C, *kernel_size), bias (out_channels,).
    """

    def __init__(self, out_channels: int, kernel_size: Tuple[int, int], stride: int = 1,
                 padding: Tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        library = runtime.native_library()
        rows, columns = padding
        self.config = Tensor(np.array([stride, rows, columns], np.int32))
        self.native: Any = None

        def out_shape(x, weight, *others):
            height, width = x[2] + 2 * rows - weight[2], x[3] + 2 * columns - weight[3]
            return (x[0], weight[0], height // stride + 1, width // stride + 1)

        if library:
            self.native = ops.Custom(f"{library}:conv2d_relu_forward", out_shape, _first, func_type="aot")
            self.native.add_prim_attr("convolution", f"{stride} {rows} {columns}")
        self.conv2d = ops.Conv2D(out_channels, kernel_size, pad_mode="pad", pad=(rows, rows, columns, columns), stride=stride)
        self.bias_add, self.relu = ops.BiasAdd(), ops.ReLU()

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.native is not None:
            return self.native(x, weight, self.config, bias)
        return self.relu(self.bias_add(self.conv2d(x, weight), bias))


class _Native(nn.Cell):
    """What the two native forms share: the operators of convolution.cpp; float32."""

    prefix = ""  # of the functions' names

    def __init__(self, library: str, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.config = Tensor(np.array([stride, before, after], np.int32))

        def out_shape(x, weight, *others):
            if x[1] != weight[1]:  # the library would read past the weights
                raise InputError(f"the convolution is given {x[1]} channels, allowed: {weight[1]}")
            height, width = ((x[i] + before + after - weight[i]) // stride + 1 for i in (2, 3))
            return (x[0], weight[0], height, width)

        self.forward = ops.Custom(f"{library}:conv2d_{self.prefix}forward", out_shape, _first, func_type="aot")
        # Operator by operator, MindSpore infers a shape once for equal operators on equal shapes; an attribute tells these apart.
        self.forward.add_prim_attr("convolution", f"{stride} {before} {after}")
        self.backward_data = ops.Custom(f"{library}:conv2d_backward_data", _first, _first, func_type="aot")
        shapes, types = self.weight_gradients()
        self.backward_weights = ops.Custom(f"{library}:conv2d_{self.prefix}backward_weights", shapes, types, func_type="aot")


class _NativePlain(_Native):
    def weight_gradients(self):
        return (lambda x, weight, config, dout: weight), _first

    def construct(self, x, weight):
        return self.forward(x, weight, self.config)

    def bprop(self, x, weight, out, dout):
        return self.backward_data(x, weight, self.config, dout), self.backward_weights(x, weight, self.config, dout)


class _NativeWithBias(_Native):
    prefix = "bias_"

    def weight_gradients(self):
        return (lambda x, weight, config, dout: (weight, [weight[0]])), (lambda x, *others: (x, x))

    def construct(self, x, weight, bias):
        return self.forward(x, weight, self.config, bias)

    def bprop(self, x, weight, bias, out, dout):
        dweight, dbias = self.backward_weights(x, weight, self.config, dout)
        return self.backward_data(x, weight, self.config, dout), dweight, dbias


def _both(padding: Padding) -> tuple[int, int]:
    """(before, after)."""
    return (padding, padding) if isinstance(padding, int) else padding


def _first(x, *others):
    return x
