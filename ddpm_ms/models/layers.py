"""The small parts of the networks: norms, convolutions, residual blocks, time embeddings, stateless dropout.

Operators are primitives created in ``__init__``: tensor methods such as ``x.sum()`` are parsed anew at every call and
make a graph of this size compile many times slower.
"""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from ddpm_ms.config import nearest_valid_sizes
from ddpm_ms.errors import InputError
from ddpm_ms.ops.convolution import Conv2d, Convolution, Padding
from ddpm_ms.ops.normalization import UnitChannels, UnitGroups, inverse_root
from ddpm_ms.ops.upsampling import NearestUpsample


def conv(dim_in: int, dim_out: int, kernel: int, stride: int = 1, bias: bool = True, pad: Padding | None = None,
         **initial: Any) -> Conv2d:
    """Convolution that keeps the size at stride 1 (PyTorch's ``padding=kernel // 2``), kaiming-uniform like PyTorch's unless
    ``initial`` says something else (``weight_init``, ``bias_init``)."""
    pad = kernel // 2 if pad is None else pad
    return Conv2d(dim_in, dim_out, kernel, stride, pad, has_bias=bias, **initial)


class RMSNorm(nn.Cell):
    """x / |x|_2 over the channels, times sqrt(dim) and a learned gain g (1, dim, 1, 1); then optionally scale and shift.

    Inputs: x (B, dim, H, W); scale beside shift (B, 2 dim), applied as x * (scale + 1) + shift. With ``act`` SiLU follows;
    then plus, of the shape of x, is added.
    """

    in_float32 = True

    def __init__(self, dim: int, act: bool = False) -> None:
        super().__init__()
        self.g = Parameter(Tensor(np.ones((1, dim, 1, 1)), ms.float32), name="g")
        self.unit, self.cast = UnitChannels(dim, act), ops.Cast()

    def construct(self, x: Tensor, scale_shift: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
        if scale_shift is not None:
            scale_shift = self.cast(scale_shift, ms.float32)
        if plus is not None:
            plus = self.cast(plus, ms.float32)
        return self.cast(self.unit(self.cast(x, ms.float32), self.g, scale_shift, plus), x.dtype)


class ChannelLayerNorm(nn.Cell):
    """(x - mean) / std over the channels with a learned gain g (1, dim, 1, 1), and plus, of the shape of x (B, dim, H, W)."""

    in_float32 = True

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.g = Parameter(Tensor(np.ones((1, dim, 1, 1)), ms.float32), name="g")
        self.mean = ops.ReduceMean(keep_dims=True)
        self.rsqrt, self.square = inverse_root(), ops.Square()

    def construct(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        centred = x - self.mean(x, 1)
        y = centred * self.rsqrt(self.mean(self.square(centred), 1) + self.eps) * self.g
        return y if plus is None else y + plus


class GroupNorm(nn.Cell):
    """Normalise over groups of channels (arXiv:1803.08494), ``groups`` of them (default: 8 where they divide); then as
    `RMSNorm` does, with SiLU behind it where ``act``."""

    in_float32 = True

    def __init__(self, dim: int, groups: int | None = None, eps: float = 1e-5, act: bool = False) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups or math.gcd(8, dim), dim, eps)  # only its parameters are used
        self.unit, self.cast = UnitGroups(self.norm.num_groups, eps, act), ops.Cast()

    def construct(self, x: Tensor, scale_shift: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
        if scale_shift is not None:
            scale_shift = self.cast(scale_shift, ms.float32)
        y = self.cast(self.unit(self.cast(x, ms.float32), self.norm.gamma, self.norm.beta, scale_shift), x.dtype)
        return y if plus is None else y + plus


class WeightStandardizedConv(nn.Cell):
    """3x3 convolution whose filters are normalised to mean 0 and variance 1 at every call (arXiv:1903.10520)."""

    in_float32 = True

    def __init__(self, dim_in: int, dim_out: int, eps: float = 1e-5) -> None:
        super().__init__()
        inner = conv(dim_in, dim_out, 3)
        self.weight, self.bias = inner.weight, inner.bias
        self.eps = eps
        self.mean = ops.ReduceMean(keep_dims=True)
        self.rsqrt, self.square = inverse_root(), ops.Square()
        self.compute = Convolution(dim_out, 3, padding=1)

    def construct(self, x: Tensor) -> Tensor:
        centred = self.weight - self.mean(self.weight, (1, 2, 3))
        weight = centred * self.rsqrt(self.mean(self.square(centred), (1, 2, 3)) + self.eps)
        return self.compute(x, weight, self.bias)


@ops.constexpr
def _place_constants(height: int, width: int) -> Tensor:
    """A fixed number in [1, 2) for every pixel, (1, 1, H, W)."""
    constants = np.random.Generator(np.random.Philox(key=[height, width]))
    return Tensor(constants.uniform(1, 2, (1, 1, height, width)), ms.float32)


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
        place = _place_constants(height, width)
        mixed = self.reshape(key, (-1, 1, 1, 1)) * self.channel * 997.0
        products = (1.0 + mixed - self.floor(mixed)) * place * 4096.0
        uniform = products - self.floor(products)
        keep = self.cast(self.greater_equal(uniform, self.rate), x.dtype)
        return x * keep * (1.0 / (1.0 - self.rate))


class Block(nn.Cell):
    """Convolution, norm, optional scale beside shift (B, 2 dim_out), SiLU, optional sum with plus, optional dropout.

    Shapes: x (B, dim, H, W) -> (B, dim_out, H, W), which plus has too.
    """

    def __init__(self, dim: int, dim_out: int, kind: str, dropout: float = 0.0, layer: int = 0) -> None:
        super().__init__()
        self.proj = conv(dim, dim_out, 3) if kind == "rms" else WeightStandardizedConv(dim, dim_out)
        self.norm = (RMSNorm if kind == "rms" else GroupNorm)(dim_out, act=True)
        self.back = nn.Identity()  # to the network's own precision: norms compute, and answer, in float32
        self.dropout = Dropout(dropout, dim_out, layer) if dropout > 0 else None

    def construct(self, x: Tensor, scale_shift: Tensor | None = None, dropout_key: Tensor | None = None,
                  plus: Tensor | None = None) -> Tensor:
        x = self.back(self.norm(self.proj(x), scale_shift, plus))
        if self.dropout is not None and self.training and dropout_key is not None:
            x = self.dropout(x, dropout_key)
        return x


class ResnetBlock(nn.Cell):
    """Two blocks and a skip; the time embedding (B, time_dim) scales and shifts inside the first one."""

    recomputable = True

    def __init__(self, dim: int, dim_out: int, time_dim: int, kind: str, dropout: float, layer: int) -> None:
        super().__init__()
        self.time_act = nn.SiLU()
        self.time_proj = nn.Dense(time_dim, dim_out * 2)
        self.block1 = Block(dim, dim_out, kind, dropout, layer)
        self.block2 = Block(dim_out, dim_out, kind)
        self.res_conv = conv(dim, dim_out, 1) if dim != dim_out else None

    def construct(self, x: Tensor, time_emb: Tensor, dropout_key: Tensor | None = None) -> Tensor:
        h = self.block1(x, self.time_proj(self.time_act(time_emb)), dropout_key)
        return self.block2(h, plus=x) if self.res_conv is None else self.res_conv(x, self.block2(h))


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
        self.resize = NearestUpsample()
        self.conv = conv(dim, dim_out, 3)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(self.resize(x))


class TransposedConv(nn.Cell):
    """Double the size by a transposed convolution of kernel 2 and stride 2 (arXiv:1505.04597): (B, dim, H, W) -> (B, dim_out,
    2H, 2W).

    Every pixel becomes a 2x2 square of its own, so this is a 1x1 convolution to four times the channels, whose four parts
    are laid side by side. On CPUs that takes milliseconds where ``nn.Conv2dTranspose`` takes seconds.
    """

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.conv = conv(dim, 4 * dim_out, 1, bias=False)
        self.reshape, self.transpose = ops.Reshape(), ops.Transpose()

    def construct(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        squares = self.reshape(self.conv(x), (batch, 2, 2, -1, height, width))
        return self.reshape(self.transpose(squares, (0, 3, 4, 1, 5, 2)), (batch, -1, 2 * height, 2 * width))


class ClassEmbedding(nn.Embedding):
    """One learned vector per class and one, the last, for "no class": labels (B,) int32 or None -> (B, dim).

    ``deviation``: of the initial values.
    """

    def __init__(self, num_classes: int, dim: int, deviation: float = 0.01) -> None:
        super().__init__(num_classes + 1, dim, embedding_table=Normal(deviation))
        self.no_class = num_classes
        self.zeros_like, self.to_int = ops.ZerosLike(), ops.Cast()

    def construct(self, classes: Tensor | None, time: Tensor) -> Tensor:
        """``time`` (B,) says how many there are where no class is given."""
        if classes is None:
            classes = self.zeros_like(self.to_int(time, ms.int32)) + self.no_class
        return super().construct(classes)


@ops.constexpr
def check_sides(height: int, width: int, factor: int) -> bool:
    """Raise `InputError` naming the nearest valid sizes unless both sides are multiples of ``factor``."""
    for side, size in (("height", height), ("width", width)):
        if size % factor:
            raise InputError(f"image {side} is {size}, allowed for this network: multiples of {factor} "
                             f"(nearest: {nearest_valid_sizes(size, factor)})")
    return True


class TimeEmbedding(nn.SequentialCell):
    """An embedding of the step and the layers behind it: (B,) -> (B, time_dim), in float32 whatever the precision of the
    network, because 16 bits do not tell a step from the next one."""

    in_float32 = True


def sinusoidal_frequencies(dim: int, theta: float = 10000.0, to_theta: bool = True) -> np.ndarray:
    """1 / theta^(k / (dim/2 - 1)) for k = 0 .. dim/2 - 1, in float64; without ``to_theta`` 1 / theta^(k / (dim/2)), which stops
    one short of 1 / theta.

    Raises:
        InputError: ``dim`` is odd or less than 4.
    """
    if dim % 2 or dim < 4:
        raise InputError(f"dim is {dim}, allowed with a sinusoidal embedding of the step: even numbers from 4")
    half = dim // 2
    return np.exp(-math.log(theta) / (half - 1 if to_theta else half) * np.arange(half))


class SinusoidalPosEmb(nn.Cell):
    """sin and cos of t / theta^(k / (dim/2 - 1)), sin first: (B,) -> (B, dim) ("Attention is all you need", 3.5)."""

    def __init__(self, dim: int, theta: float = 10000.0) -> None:
        super().__init__()
        self.frequencies = Tensor(sinusoidal_frequencies(dim, theta)[None], ms.float32)
        self.sin, self.cos, self.concat = ops.Sin(), ops.Cos(), ops.Concat(1)
        self.reshape = ops.Reshape()

    def construct(self, time: Tensor) -> Tensor:
        angles = self.reshape(time, (-1, 1)) * self.frequencies
        return self.concat((self.sin(angles), self.cos(angles)))


class CosineFirstPosEmb(SinusoidalPosEmb):
    """cos and sin of t / theta^(k / (dim/2)), cos first: (B,) -> (B, dim), as guided-diffusion has it (arXiv:2105.05233)."""

    def __init__(self, dim: int, theta: float = 10000.0) -> None:
        super().__init__(dim, theta)
        self.frequencies = Tensor(sinusoidal_frequencies(dim, theta, to_theta=False)[None], ms.float32)

    def construct(self, time: Tensor) -> Tensor:
        angles = self.reshape(time, (-1, 1)) * self.frequencies
        return self.concat((self.cos(angles), self.sin(angles)))


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


def per_level(name: str, value: object, levels: int) -> tuple:
    """One value per level from one value for all or a sequence of the right length."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels
    if len(values) != levels:
        raise InputError(f"{name} has {len(values)} entries, allowed: one, or {levels} (one per entry of dim_mults)")
    return values
