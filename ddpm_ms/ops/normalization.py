"""Normalisation over channels, all or groups of them, with gain, shift and activation; native on CPUs where it could be built."""

from __future__ import annotations

from typing import Any, Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms import runtime


class UnitChannels(nn.Cell):
    """x / |x|_2 over the channels, times sqrt(C) gain (1 + scale), plus shift; then SiLU with ``act``, and what is added.

    Inputs: x (B, C, H, W), gain with C numbers in any shape, scale beside shift (B, 2 C) or None, plus (B, C, H, W) or None;
    float32.
    """

    in_float32 = True

    def __init__(self, dim: int, act: bool = False) -> None:
        super().__init__()
        library = runtime.native_library()
        # All are there or none is.
        self.native: Any = _NativeChannels(library, act) if library else None
        self.native_plus: Any = _NativePlusChannels(library, act) if library else None
        self.native_scaled: Any = _NativeScaledChannels(library, act) if library else None
        self.compute, self.act, self.root = _Formulated(dim), nn.SiLU() if act else nn.Identity(), dim**0.5
        self.reshape, self.tile, self.zeros_like, self.split = ops.Reshape(), ops.Tile(), ops.ZerosLike(), ops.Split(1, 2)

    def construct(self, x: Tensor, gain: Tensor, scale_shift: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
        if self.native is not None and scale_shift is None:
            return self.native(x, gain) if plus is None else self.native_plus(x, gain, plus)
        y = self.plain(x, gain, scale_shift) if self.native is None else self.native_scaled(x, gain, scale_shift)
        return y if plus is None else y + plus

    def plain(self, x: Tensor, gain: Tensor, scale_shift: Tensor | None) -> Tensor:
        """By operators that every device has."""
        gain = self.tile(self.reshape(gain * self.root, (1, -1)), (x.shape[0], 1))
        if scale_shift is None:
            shift = self.zeros_like(gain)
        else:
            scale, shift = self.split(scale_shift)
            gain = gain * (scale + 1.0)
        return self.act(self.compute(x, gain, shift))


class UnitGroups(nn.Cell):
    """(x - mean) / standard deviation over each group of channels of each image, times gamma (1 + scale), plus beta (1 + scale) +
    shift; then SiLU with ``act``.

    Inputs: x (B, C, H, W), gamma and beta (C,), scale beside shift (B, 2 C) or None; float32.
    """

    in_float32 = True

    def __init__(self, groups: int, eps: float, act: bool = False) -> None:
        super().__init__()
        library = runtime.native_library()
        # Both are there or neither is.
        self.native: Any = _NativePlainGroups(library, groups, eps, act) if library else None
        self.native_scaled: Any = _NativeScaledGroups(library, groups, eps, act) if library else None
        self.unit, self.act = _FormulatedGroups(groups, eps), nn.SiLU() if act else nn.Identity()
        self.reshape, self.tile, self.split = ops.Reshape(), ops.Tile(), ops.Split(1, 2)

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        if self.native is not None:
            return self.native(x, gamma, beta) if scale_shift is None else self.native_scaled(x, gamma, beta, scale_shift)
        batch, channels = x.shape[0], x.shape[1]
        gain = self.tile(self.reshape(gamma, (1, channels)), (batch, 1))
        offset = self.tile(self.reshape(beta, (1, channels)), (batch, 1))
        if scale_shift is not None:
            scale, shift = self.split(scale_shift)
            scale = scale + 1.0
            gain, offset = gain * scale, offset * scale + shift
        rows = self.reshape(self.unit(x), (batch * channels, -1))  # whose sums are the gradients of gain and offset
        rows = rows * self.reshape(gain, (batch * channels, 1)) + self.reshape(offset, (batch * channels, 1))
        return self.act(self.reshape(rows, x.shape))


class _NativeNorm(nn.Cell):
    """What native norms share: two operators, the second of which returns the gradients of all ``inputs`` but the settings."""

    def __init__(self, library: str, name: str, config: np.ndarray, inputs: Callable) -> None:
        super().__init__()
        self.config = Tensor(config)
        self.forward = ops.Custom(f"{library}:{name}_forward", _first, _first, func_type="aot")
        self.backward = ops.Custom(f"{library}:{name}_backward", inputs, inputs, func_type="aot")


class _NativeChannels(_NativeNorm):
    """The operators of kernels.cpp."""

    def __init__(self, library: str, act: bool) -> None:
        super().__init__(library, "norm", np.array([act], np.int32), _first_two)

    def construct(self, x, gain):
        return self.forward(x, gain, self.config)

    def bprop(self, x, gain, out, dout):
        return self.backward(x, gain, self.config, dout)


class _NativePlusChannels(_NativeNorm):
    """The operators of kernels.cpp; what is added has the gradient of the result."""

    def __init__(self, library: str, act: bool) -> None:
        super().__init__(library, "norm", np.array([act], np.int32), _first_two)
        self.forward = ops.Custom(f"{library}:norm_plus_forward", _first, _first, func_type="aot")

    def construct(self, x, gain, plus):
        return self.forward(x, gain, plus, self.config)

    def bprop(self, x, gain, plus, out, dout):
        dx, dgain = self.backward(x, gain, self.config, dout)
        return dx, dgain, dout


class _NativeScaledChannels(_NativeNorm):
    """The operators of kernels.cpp."""

    def __init__(self, library: str, act: bool) -> None:
        super().__init__(library, "norm_scaled", np.array([act], np.int32), _first_three)

    def construct(self, x, gain, scale_shift):
        return self.forward(x, gain, scale_shift, self.config)

    def bprop(self, x, gain, scale_shift, out, dout):
        return self.backward(x, gain, scale_shift, self.config, dout)


class _NativePlainGroups(_NativeNorm):
    """The operators of group_norm.cpp."""

    def __init__(self, library: str, groups: int, eps: float, act: bool) -> None:
        super().__init__(library, "group_norm", np.array([groups, eps, act], np.float32), _first_three)

    def construct(self, x, gamma, beta):
        return self.forward(x, gamma, beta, self.config)

    def bprop(self, x, gamma, beta, out, dout):
        return self.backward(x, gamma, beta, self.config, dout)


class _NativeScaledGroups(_NativeNorm):
    """The operators of group_norm.cpp."""

    def __init__(self, library: str, groups: int, eps: float, act: bool) -> None:
        super().__init__(library, "group_norm_scaled", np.array([groups, eps, act], np.float32), _first_four)

    def construct(self, x, gamma, beta, scale_shift):
        return self.forward(x, gamma, beta, scale_shift, self.config)

    def bprop(self, x, gamma, beta, scale_shift, out, dout):
        return self.backward(x, gamma, beta, scale_shift, self.config, dout)


class _FormulatedGroups(nn.Cell):
    """(x - mean) / standard deviation over each group of channels of each image: (B, C, H, W) -> the same.

    Computed over rows (B * groups, values of a group) with the gradient written out, for the reason that `_Formulated`
    gives; on CPUs several times as fast as ``nn.GroupNorm``.
    """

    def __init__(self, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.mean, self.rsqrt, self.square = ops.ReduceMean(keep_dims=True), inverse_root(), ops.Square()
        self.reshape = ops.Reshape()

    def construct(self, x):
        centred, inverse = self._centred_and_inverse(x)
        return self.reshape(centred * inverse, x.shape)

    def bprop(self, x, out, dout):
        centred, inverse = self._centred_and_inverse(x)
        unit, dunit = centred * inverse, self.reshape(dout, centred.shape)
        dx = (dunit - self.mean(dunit, 1) - unit * self.mean(unit * dunit, 1)) * inverse
        return (self.reshape(dx, x.shape),)

    def _centred_and_inverse(self, x):
        batch, channels, height, width = x.shape
        rows = self.reshape(x, (batch * self.groups, channels // self.groups * height * width))
        centred = rows - self.mean(rows, 1)
        return centred, self.rsqrt(self.mean(self.square(centred), 1) + self.eps)


class _Formulated(nn.Cell):
    """x / |x|_2 over the channels, times gain, plus shift (B, C), with the gradient written out.

    Automatic differentiation would sum over axes of 4-D arrays, which is slow on CPUs. Here sums over channels are a
    1x1 convolution with ones and sums over pixels are sums along rows of a matrix.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ones = Tensor(np.ones((1, dim, 1, 1)), ms.float32)
        self.sum_channels, self.sum_rows = ops.Conv2D(1, (1, 1)), ops.ReduceSum()
        self.rsqrt, self.square, self.maximum, self.reshape = inverse_root(), ops.Square(), ops.Maximum(), ops.Reshape()

    def construct(self, x, gain, shift):
        batch, channels, height, width = x.shape
        rows, column = (batch * channels, height * width), (batch * channels, 1)
        unit = x * self.rsqrt(self.maximum(self.sum_channels(self.square(x), self.ones), 1e-24))
        out = self.reshape(unit, rows) * self.reshape(gain, column) + self.reshape(shift, column)
        return self.reshape(out, x.shape)

    def bprop(self, x, gain, shift, out, dout):
        batch, channels, height, width = x.shape
        rows, column = (batch * channels, height * width), (batch * channels, 1)
        inverse = self.rsqrt(self.maximum(self.sum_channels(self.square(x), self.ones), 1e-24))
        unit = x * inverse
        scaled = self.reshape(self.reshape(dout, rows) * self.reshape(gain, column), x.shape)
        along = self.sum_channels(unit * scaled, self.ones)
        dx = (scaled - unit * along) * inverse
        dgain = self.sum_rows(self.reshape(dout * unit, rows), 1)
        dshift = self.sum_rows(self.reshape(dout, rows), 1)
        return dx, self.reshape(dgain, (batch, channels)), self.reshape(dshift, (batch, channels))


class _InverseRoot(nn.Cell):
    """1 / sqrt(x), of two operators."""

    in_float32 = True

    def __init__(self) -> None:
        super().__init__()
        self.pow = ops.Pow()

    def construct(self, x):
        return self.pow(x, -0.5)


def inverse_root() -> Any:
    """1 / sqrt(x): one operator, but in a portable network two, because MindSpore cannot say ``Rsqrt`` in ONNX."""
    return _InverseRoot() if runtime.is_portable() else ops.Rsqrt()


def _first(x, *others):
    return x


def _first_two(x, y, *others):
    return x, y


def _first_three(x, y, z, *others):
    return x, y, z


def _first_four(x, y, z, w, *others):
    return x, y, z, w
