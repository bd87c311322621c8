"""Attention over the pixels of a feature map: full (quadratic) and linear."""

from __future__ import annotations

from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import Normal, initializer

from ddpm_ms.models.layers import ChannelLayerNorm, RMSNorm, conv
from ddpm_ms.ops.attention import EfficientAttention, ScaledDotProductAttention


class _HeadsCell(nn.Cell):
    """What both kinds share: the pre-norm, the weights and the learned memory."""

    recomputable = True

    def __init__(self, dim: int, heads: int, dim_head: int, kind: str, memory_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = RMSNorm(dim) if kind == "rms" else ChannelLayerNorm(dim)
        self.to_qkv = conv(dim, 3 * heads * dim_head, 1, bias=False)
        # Learned keys and values that every image attends to; the older variant has none.
        self.mem_kv = Parameter(initializer(Normal(1.0), memory_shape), name="mem_kv") if kind == "rms" else None
        self.to_out = conv(heads * dim_head, dim, 1)


class LinearAttention(_HeadsCell):
    """x + attention whose cost is linear in the number of pixels (arXiv:1812.01243). (B, dim, H, W) -> the same."""

    def __init__(self, dim: int, heads: int = 4, dim_head: int = 32, kind: str = "rms", num_mem_kv: int = 4) -> None:
        super().__init__(dim, heads, dim_head, kind, (2, heads, dim_head, num_mem_kv))
        self.attend = EfficientAttention(heads, dim_head)
        self.out_norm = RMSNorm(dim) if kind == "rms" else ChannelLayerNorm(dim)

    def construct(self, x: Tensor) -> Tensor:
        return self.out_norm(self.to_out(self.attend(self.norm(x), self.to_qkv.weight, self.mem_kv)), plus=x)


class Attention(_HeadsCell):
    """x + softmax attention of every pixel to every pixel (arXiv:1706.03762). (B, dim, H, W) -> the same."""

    def __init__(self, dim: int, heads: int = 4, dim_head: int = 32, kind: str = "rms", num_mem_kv: int = 4) -> None:
        super().__init__(dim, heads, dim_head, kind, (2, heads, num_mem_kv, dim_head))
        self.attend = ScaledDotProductAttention(heads, dim_head)

    def construct(self, x: Tensor) -> Tensor:
        return self.to_out(self.attend(self.norm(x), self.to_qkv.weight, self.mem_kv), x)
