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
    """y = x * weight + bias + plus, as a function of all four.

    Args:
        out_channels, kernel_size, stride: as for ``nn.Conv2d``, square.
        padding: zeros on all sides, or (how many before, how many after) the pixels of each row and column.

    Inputs:
        x (B, C, H, W), weight (out_channels, C, k, k), bias (out_channels,) or None; and with a bias, plus, which is of the shape
        of y or (B, out_channels), or None.
    """

    def __init__(self, out_channels: int, kernel_size: int, stride: int = 1, padding: Padding = 0) -> None:
        super().__init__()
        before, after = _both(padding)
        library = runtime.native_library()
        # All are there or none is.
        self.native: Any = _NativePlain(library, stride, before, after) if library else None
        self.native_with_bias: Any = _NativeWithBias(library, stride, before, after) if library else None
        self.native_plus: Any = _NativePlus(library, stride, before, after) if library else None
        self.pad = None
        if runtime.is_portable() and before != after:  # MindSpore takes one side for another when it writes ONNX
            self.pad, before, after = ops.Pad(((0, 0), (0, 0), *((before, after),) * 2)), 0, 0
        self.conv2d = ops.Conv2D(out_channels, (kernel_size, kernel_size), pad_mode="pad", pad=(before, after) * 2, stride=stride)
        self.bias_add, self.reshape = ops.BiasAdd(), ops.Reshape()

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
        if self.native is not None and x.dtype == ms.float32 and weight.dtype == ms.float32:
            if bias is None:
                return self.native(x, weight)
            return self.native_with_bias(x, weight, bias) if plus is None else self.native_plus(x, weight, bias, plus)
        y = self.conv2d(x if self.pad is None else self.pad(x), weight)
        y = y if bias is None else self.bias_add(y, bias)
        if plus is None:
            return y
        return y + plus if plus.ndim == 4 else self._plus_images(y, plus)

    def _plus_images(self, y: Tensor, plus: Tensor) -> Tensor:
        """Over rows: the gradient of ``plus`` is then a sum along rows of a matrix, which CPUs do several times faster than a sum
        over axes of a 4-D array."""
        batch, channels, height, width = y.shape
        rows = self.reshape(y, (batch * channels, height * width)) + self.reshape(plus, (batch * channels, 1))
        return self.reshape(rows, y.shape)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` (same parameters, same initial values or those of ``initial``) that computes through `Convolution`; with a
    bias it takes what that calls ``plus``."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: Padding, has_bias: bool,
                 **initial: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, pad_mode="pad", padding=_both(padding) * 2,
                         has_bias=has_bias, **initial)
        self.compute = Convolution(out_channels, kernel_size, stride, padding)

    def construct(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        if self.has_bias:
            return self.compute(x, self.weight, self.bias, plus)
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
    """What the native forms share: the operators of convolution.cpp; float32."""

    forward_name, weights_name = "conv2d_forward", "conv2d_backward_weights"

    def __init__(self, library: str, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.config = Tensor(np.array([stride, before, after], np.int32))

        def out_shape(x, weight, *others):
            if x[1] != weight[1]:  # the library would read past the weights
                raise InputError(f"the convolution is given {x[1]} channels, allowed: {weight[1]}")
            height, width = ((x[i] + before + after - weight[i]) // stride + 1 for i in (2, 3))
            return (x[0], weight[0], height, width)

        self.forward = ops.Custom(f"{library}:{self.forward_name}", out_shape, _first, func_type="aot")
        # Operator by operator, MindSpore infers a shape once for equal operators on equal shapes; an attribute tells these apart.
        self.forward.add_prim_attr("convolution", f"{stride} {before} {after}")
        self.backward_data = ops.Custom(f"{library}:conv2d_backward_data", _first, _first, func_type="aot")
        shapes, types = self.weight_gradients()
        self.backward_weights = ops.Custom(f"{library}:{self.weights_name}", shapes, types, func_type="aot")


class _NativePlain(_Native):
    def weight_gradients(self):
        return (lambda x, weight, config, dout: weight), _first

    def construct(self, x, weight):
        return self.forward(x, weight, self.config)

    def bprop(self, x, weight, out, dout):
        return self.backward_data(x, weight, self.config, dout), self.backward_weights(x, weight, self.config, dout)


class _NativeWithBias(_Native):
    forward_name, weights_name = "conv2d_bias_forward", "conv2d_bias_backward_weights"

    def weight_gradients(self):
        return (lambda x, weight, config, dout: (weight, [weight[0]])), (lambda x, *others: (x, x))

    def construct(self, x, weight, bias):
        return self.forward(x, weight, self.config, bias)

    def bprop(self, x, weight, bias, out, dout):
        dweight, dbias = self.backward_weights(x, weight, self.config, dout)
        return self.backward_data(x, weight, self.config, dout), dweight, dbias


class _NativePlus(_Native):
    forward_name, weights_name = "conv2d_plus_forward", _NativeWithBias.weights_name
    weight_gradients = _NativeWithBias.weight_gradients

    def __init__(self, library: str, stride: int, before: int, after: int) -> None:
        super().__init__(library, stride, before, after)
        self.sum, self.reshape = ops.ReduceSum(), ops.Reshape()

    def construct(self, x, weight, bias, plus):
        return self.forward(x, weight, self.config, bias, plus)

    def bprop(self, x, weight, bias, plus, out, dout):
        dweight, dbias = self.backward_weights(x, weight, self.config, dout)
        dplus = dout if plus.ndim == 4 else self.sum(self.reshape(dout, (plus.shape[0], plus.shape[1], -1)), 2)
        return self.backward_data(x, weight, self.config, dout), dweight, dbias, dplus


def _both(padding: Padding) -> tuple[int, int]:
    """(before, after)."""
    return (padding, padding) if isinstance(padding, int) else padding


def _first(x, *others):
    return x
