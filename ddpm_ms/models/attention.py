"""Attention over the pixels of a feature map: full (quadratic) and linear.

Both keep the layout (batch * heads, head dim, pixels), so that every product is one batched matrix product with a
transpose flag and nothing is copied. The query, key and value convolutions share one weight, which is split instead of
their (much larger) output.
"""

from __future__ import annotations

from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from ddpm_ms.models.layers import ChannelLayerNorm, RMSNorm, conv
from ddpm_ms.ops.attention import ScaledDotProductAttention
from ddpm_ms.ops.convolution import Convolution
from ddpm_ms.ops.softmax import Softmax


class _HeadsCell(nn.Cell):
    """What both kinds share: the pre-norm, the query/key/value projection and the learned memory."""

    recomputable = True

    def __init__(self, dim: int, heads: int, dim_head: int, kind: str, memory_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.heads, self.dim_head, self.hidden = heads, dim_head, heads * dim_head
        self.scale = dim_head**-0.5
        self.norm = RMSNorm(dim) if kind == "rms" else ChannelLayerNorm(dim)
        self.to_qkv = conv(dim, 3 * self.hidden, 1, bias=False)
        # Learned keys and values that every image attends to; the older variant has none.
        self.mem_kv = Parameter(initializer(Normal(1.0), memory_shape), name="mem_kv") if kind == "rms" else None
        self.project = Convolution(self.hidden, 1)
        self.split, self.reshape, self.concat = ops.Split(0, 3), ops.Reshape(), ops.Concat(2)
        self.cast = ops.Cast()

    def project_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, dim, H, W) -> three of (B * heads, dim_head, H * W)."""
        pixels = x.shape[2] * x.shape[3]
        weights = self.split(self.cast(self.to_qkv.weight, x.dtype))
        q = self.reshape(self.project(x, weights[0]), (-1, self.dim_head, pixels))
        k = self.reshape(self.project(x, weights[1]), (-1, self.dim_head, pixels))
        v = self.reshape(self.project(x, weights[2]), (-1, self.dim_head, pixels))
        return q, k, v

    def prepend(self, memory: Tensor, x: Tensor, batch: int) -> Tensor:
        """``memory`` (heads, dim_head, n) before the pixels of ``x`` (batch * heads, dim_head, pixels)."""
        memory = self.cast(ops.Tile()(memory, (batch, 1, 1)), x.dtype)
        return self.concat((memory, x))


class LinearAttention(_HeadsCell):
    """Attention whose cost is linear in the number of pixels (arXiv:1812.01243). (B, dim, H, W) -> the same."""

    def __init__(self, dim: int, heads: int = 4, dim_head: int = 32, kind: str = "rms", num_mem_kv: int = 4) -> None:
        super().__init__(dim, heads, dim_head, kind, (2, heads, dim_head, num_mem_kv))
        self.to_out = conv(self.hidden, dim, 1)
        self.out_norm = RMSNorm(dim) if kind == "rms" else ChannelLayerNorm(dim)
        self.softmax, self.softmax_features = Softmax(-1), Softmax(-2)
        self.outer = ops.BatchMatMul(transpose_b=True)
        self.gather = ops.BatchMatMul(transpose_a=True)

    def construct(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        q, k, v = self.project_heads(self.norm(x))
        if self.mem_kv is not None:
            k, v = self.prepend(self.mem_kv[0], k, batch), self.prepend(self.mem_kv[1], v, batch)
        else:
            v = v / (height * width)
        # Softmax computes in float32 even where the rest has 16 bits.
        k, q = self.cast(self.softmax(k), v.dtype), self.cast(self.softmax_features(q), v.dtype)
        context = self.outer(k, v)  # (B * heads, d, e)
        out = self.gather(context * self.scale, q)  # (B * heads, e, pixels)
        return self.out_norm(self.to_out(self.reshape(out, (batch, self.hidden, height, width))))


class Attention(_HeadsCell):
    """Softmax attention of every pixel to every pixel (arXiv:1706.03762). (B, dim, H, W) -> the same."""

    def __init__(self, dim: int, heads: int = 4, dim_head: int = 32, kind: str = "rms", num_mem_kv: int = 4) -> None:
        super().__init__(dim, heads, dim_head, kind, (2, heads, num_mem_kv, dim_head))
        self.to_out = conv(self.hidden, dim, 1)
        self.attend = ScaledDotProductAttention(heads, self.scale)
        self.transpose = ops.Transpose()

    def construct(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        q, k, v = self.project_heads(self.norm(x))
        if self.mem_kv is not None:
            memory = self.transpose(self.mem_kv, (0, 1, 3, 2))
            k, v = self.prepend(memory[0], k, batch), self.prepend(memory[1], v, batch)
        return self.to_out(self.reshape(self.attend(q, k, v), (batch, self.hidden, height, width)))
