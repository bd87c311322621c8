"""The small parts of the networks: norms, convolutions, residual blocks, time embeddings, stateless dropout.

Operators are primitives created in ``__init__``: tensor methods such as ``x.sum()`` are parsed anew at every call and
make a graph of this size compile many times slower.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer


def conv(dim_in: int, dim_out: int, kernel: int, stride: int = 1, bias: bool = True, pad: int | None = None) -> nn.Conv2d:
    """Convolution that keeps the size at stride 1 (PyTorch's ``padding=kernel // 2``), kaiming-uniform like PyTorch's."""
    pad = kernel // 2 if pad is None else pad
    return nn.Conv2d(dim_in, dim_out, kernel, stride, pad_mode="pad", padding=pad, has_bias=bias)


class RMSNorm(nn.Cell):
    """x / |x|_2 over the channels, times sqrt(dim) and a learned gain g (1, dim, 1, 1). Input (B, dim, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.g = Parameter(Tensor(np.ones((1, dim, 1, 1)), ms.float32), name="g")
        self.sum = ops.ReduceSum(keep_dims=True)
        self.sqrt, self.square, self.maximum = ops.Sqrt(), ops.Square(), ops.Maximum()

    def construct(self, x: Tensor) -> Tensor:
        norm = self.maximum(self.sqrt(self.sum(self.square(x), 1)), 1e-12)
        return x / norm * (self.g * self.scale)


class ChannelLayerNorm(nn.Cell):
    """(x - mean) / std over the channels with a learned gain g (1, dim, 1, 1). Input (B, dim, H, W)."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.g = Parameter(Tensor(np.ones((1, dim, 1, 1)), ms.float32), name="g")
        self.mean = ops.ReduceMean(keep_dims=True)
        self.rsqrt, self.square = ops.Rsqrt(), ops.Square()

    def construct(self, x: Tensor) -> Tensor:
        centred = x - self.mean(x, 1)
        return centred * self.rsqrt(self.mean(self.square(centred), 1) + self.eps) * self.g


class WeightStandardizedConv(nn.Cell):
    """3x3 convolution whose filters are normalised to mean 0 and variance 1 at every call (arXiv:1903.10520)."""

    def __init__(self, dim_in: int, dim_out: int, eps: float = 1e-5) -> None:
        super().__init__()
        inner = conv(dim_in, dim_out, 3)
        self.weight, self.bias = inner.weight, inner.bias
        self.eps = eps
        self.mean = ops.ReduceMean(keep_dims=True)
        self.rsqrt, self.square = ops.Rsqrt(), ops.Square()
        self.conv2d = ops.Conv2D(dim_out, 3, pad_mode="pad", pad=1)
        self.bias_add = ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        centred = self.weight - self.mean(self.weight, (1, 2, 3))
        weight = centred * self.rsqrt(self.mean(self.square(centred), (1, 2, 3)) + self.eps)
        return self.bias_add(self.conv2d(x, weight), self.bias)


class Dropout(nn.Cell):
    """Dropout whose mask is a pure function of a key per image, so that a resumed run drops the same units.

    MindSpore's own dropout keeps its state inside the kernel, where no checkpoint can reach it. Here the uniform number
    of channel c and position p is frac(K a_c b_p): a_c mixes the image's key with a constant of the channel, b_p is a
    constant of the position, and K = 4096 makes neighbouring products unrelated while float32 still resolves 1/2048.
    """

    def __init__(self, rate: float, dim: int, layer: int) -> None:
        super().__init__()
        self.rate = rate
        constants = np.random.Generator(np.random.Philox(key=[layer, 2203]))
        self.channel = Tensor(constants.uniform(1, 2, (1, dim, 1, 1)), ms.float32)
        self.floor, self.reshape, self.cast = ops.Floor(), ops.Reshape(), ops.Cast()
        self.greater_equal = ops.GreaterEqual()

    def construct(self, x: Tensor, key: Tensor) -> Tensor:
        """``key``: float32 (B,) in [1, 2)."""
        height, width = x.shape[2:]
        golden = 0.6180339887498949
        place = Tensor((1 + np.arange(1, height * width + 1) * golden % 1).reshape(1, 1, height, width), ms.float32)
        mixed = self.reshape(key, (-1, 1, 1, 1)) * self.channel * 997.0
        products = (1.0 + mixed - self.floor(mixed)) * place * 4096.0
        uniform = products - self.floor(products)
        keep = self.cast(self.greater_equal(uniform, self.rate), x.dtype)
        return x * keep * (1.0 / (1.0 - self.rate))


class Block(nn.Cell):
    """Convolution, norm, optional scale and shift, SiLU, optional dropout: (B, dim, H, W) -> (B, dim_out, H, W)."""

    def __init__(self, dim: int, dim_out: int, kind: str, dropout: float = 0.0, layer: int = 0) -> None:
        super().__init__()
        self.proj = conv(dim, dim_out, 3) if kind == "rms" else WeightStandardizedConv(dim, dim_out)
        self.norm = RMSNorm(dim_out) if kind == "rms" else nn.GroupNorm(math.gcd(8, dim_out), dim_out)
        self.act = nn.SiLU()
        self.dropout = Dropout(dropout, dim_out, layer) if dropout > 0 else None

    def construct(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None,
                  dropout_key: Tensor | None = None) -> Tensor:
        x = self.norm(self.proj(x))
        if scale is not None:
            x = x * (scale + 1.0) + shift
        x = self.act(x)
        if self.dropout is not None and self.training and dropout_key is not None:
            x = self.dropout(x, dropout_key)
        return x


class ResnetBlock(nn.Cell):
    """Two blocks and a skip; the time embedding (B, time_dim) scales and shifts inside the first one."""

    def __init__(self, dim: int, dim_out: int, time_dim: int, kind: str, dropout: float, layer: int) -> None:
        super().__init__()
        self.dim_out = dim_out
        self.time_act = nn.SiLU()
        self.time_proj = nn.Dense(time_dim, dim_out * 2)
        self.block1 = Block(dim, dim_out, kind, dropout, layer)
        self.block2 = Block(dim_out, dim_out, kind)
        self.res_conv = conv(dim, dim_out, 1) if dim != dim_out else nn.Identity()
        self.reshape, self.split = ops.Reshape(), ops.Split(1, 2)

    def construct(self, x: Tensor, time_emb: Tensor, dropout_key: Tensor | None = None) -> Tensor:
        scale_shift = self.reshape(self.time_proj(self.time_act(time_emb)), (-1, 2 * self.dim_out, 1, 1))
        scale, shift = self.split(scale_shift)
        h = self.block1(x, scale, shift, dropout_key)
        return self.block2(h) + self.res_conv(x)


class Downsample(nn.Cell):
    """Halve the size.

    kind "rms": the four pixels of every 2x2 square become channels, then a 1x1 convolution; written as the 2x2
    convolution of stride 2 that it is. kind "group": 4x4 convolution of stride 2.
    """

    def __init__(self, dim: int, dim_out: int, kind: str) -> None:
        super().__init__()
        self.conv = conv(dim, dim_out, 2, 2, pad=0) if kind == "rms" else conv(dim, dim_out, 4, 2, pad=1)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Cell):
    """Double the size by nearest neighbour, then a 3x3 convolution."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.conv = conv(dim, dim_out, 3)

    def construct(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        return self.conv(ops.ResizeNearestNeighbor((2 * height, 2 * width))(x))


class SinusoidalPosEmb(nn.Cell):
    """sin and cos of t / theta^(k / (dim/2 - 1)), sin first: (B,) -> (B, dim) ("Attention is all you need", 3.5)."""

    def __init__(self, dim: int, theta: float = 10000.0) -> None:
        super().__init__()
        half = dim // 2
        self.frequencies = Tensor(np.exp(-math.log(theta) / (half - 1) * np.arange(half))[None], ms.float32)
        self.sin, self.cos, self.concat = ops.Sin(), ops.Cos(), ops.Concat(1)
        self.reshape = ops.Reshape()

    def construct(self, time: Tensor) -> Tensor:
        angles = self.reshape(time, (-1, 1)) * self.frequencies
        return self.concat((self.sin(angles), self.cos(angles)))


class FourierPosEmb(nn.Cell):
    """t, sin(2 pi w t), cos(2 pi w t) with w ~ N(0, 1), learned or fixed: (B,) -> (B, dim + 1)."""

    def __init__(self, dim: int, learned: bool) -> None:
        super().__init__()
        self.weights = Parameter(initializer(Normal(1.0), (1, dim // 2)), name="weights", requires_grad=learned)
        self.sin, self.cos, self.concat = ops.Sin(), ops.Cos(), ops.Concat(1)
        self.reshape = ops.Reshape()

    def construct(self, time: Tensor) -> Tensor:
        time = self.reshape(time, (-1, 1))
        angles = time * self.weights * (2 * math.pi)
        return self.concat((time, self.sin(angles), self.cos(angles)))
