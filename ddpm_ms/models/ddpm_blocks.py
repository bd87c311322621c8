"""The blocks of the DDPM network: residual blocks, self-attention, changes of size.

All begin as DDPM's do: weights Glorot-uniform, biases 0, and 0 everything in the last convolution of a branch that is added
to its input, so that a new network is its shortcuts.
"""

from __future__ import annotations

from typing import Any, Callable

from mindspore import Tensor, nn
from mindspore.common.initializer import XavierUniform

from ddpm_ms.models.layers import Dropout, GroupNorm, conv
from ddpm_ms.ops.attention import ScaledDotProductAttention
from ddpm_ms.ops.convolution import Padding
from ddpm_ms.ops.upsampling import NearestUpsample

GLOROT: dict[str, Any] = {"weight_init": "xavier_uniform", "bias_init": "zeros"}
ZERO: dict[str, Any] = {"weight_init": "zeros", "bias_init": "zeros"}


class ResidualBlock(nn.Cell):
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + W silu(t)))), with dropout before conv2 ("DDPM", appendix B).

    With ``scale_shift`` W silu(t) is (s, b), and norm2(h) (1 + s) + b takes the place of norm2(h + W silu(t)) ("ADM",
    arXiv:2105.05233, section 3.1). ``resize`` changes the size of x and of what conv1 sees.

    Shapes: x (B, dim, H, W), t (B, time_dim) -> (B, dim_out, H', W').
    """

    recomputable = True

    def __init__(self, dim: int, dim_out: int, time_dim: int, norm: Callable[..., GroupNorm], scale_shift: bool,
                 dropout: Dropout | None, resize: nn.Cell | None = None) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(dim, act=True), conv(dim, dim_out, 3, **GLOROT)
        self.time_act, self.time_proj = nn.SiLU(), nn.Dense(time_dim, dim_out * (2 if scale_shift else 1), **GLOROT)
        self.norm2, self.conv2 = norm(dim_out, act=True), conv(dim_out, dim_out, 3, **ZERO)
        self.shortcut = conv(dim, dim_out, 1, **GLOROT) if dim != dim_out else nn.Identity()
        self.scale_shift, self.dropout, self.resize = scale_shift, dropout, resize

    def construct(self, x: Tensor, time_emb: Tensor, dropout_key: Tensor | None = None) -> Tensor:
        h = self.norm1(x)
        if self.resize is not None:
            h, x = self.resize(h), self.resize(x)
        t = self.time_proj(self.time_act(time_emb))
        h = self.norm2(self.conv1(h), t) if self.scale_shift else self.norm2(self.conv1(h, t))
        if self.dropout is not None and self.training and dropout_key is not None:
            h = self.dropout(h, dropout_key)
        return self.conv2(h, self.shortcut(x))


class SelfAttention(nn.Cell):
    """x + to_out(softmax attention of every pixel of norm(x) to every pixel), with biases: (B, dim, H, W) -> the same.

    Rows of ``to_qkv``: all queries, all keys, all values, and within each of them head after head.
    """

    recomputable = True

    def __init__(self, dim: int, heads: int, norm: Callable[..., GroupNorm]) -> None:
        super().__init__()
        self.norm = norm(dim)
        # Three Glorot-uniform matrices in one: the number of outputs that each of them has is a third.
        self.to_qkv = conv(dim, 3 * dim, 1, weight_init=XavierUniform(2**0.5), bias_init="zeros")
        self.attend = ScaledDotProductAttention(heads, dim // heads)
        self.to_out = conv(dim, dim, 1, **ZERO)

    def construct(self, x: Tensor) -> Tensor:
        return self.to_out(self.attend(self.norm(x), self.to_qkv.weight, None, self.to_qkv.bias), x)


class StridedConv(nn.Cell):
    """Halve the size by a 3x3 convolution of stride 2. It is called as a `ResidualBlock` in its place would be."""

    def __init__(self, dim: int, padding: Padding) -> None:
        super().__init__()
        self.conv = conv(dim, dim, 3, 2, pad=padding, **GLOROT)

    def construct(self, x: Tensor, time_emb: Tensor, dropout_key: Tensor | None = None) -> Tensor:
        return self.conv(x)


class UpsampledConv(nn.Cell):
    """Double the size by nearest neighbour, then a 3x3 convolution. It is called as a `ResidualBlock` in its place would be."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resize, self.conv = NearestUpsample(), conv(dim, dim, 3, **GLOROT)

    def construct(self, x: Tensor, time_emb: Tensor, dropout_key: Tensor | None = None) -> Tensor:
        return self.conv(self.resize(x))
