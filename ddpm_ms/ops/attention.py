"""Softmax attention: MindSpore's flash attention on Ascend in 16 bits, two matrix products and a softmax elsewhere.

The flash path was held against the other one in its arguments and shapes alone. It has not run on a device, and nothing
about its speed was measured.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ddpm_ms import runtime
from ddpm_ms.ops.softmax import Softmax


class ScaledDotProductAttention(nn.Cell):
    """v softmax(scale q^T k)^T for every head (arXiv:1706.03762, equation 1), statistics in float32.

    Args:
        heads: number of heads.
        scale: of the scores, usually 1 / sqrt(head dim).

    Inputs:
        q (B * heads, head dim, N), k and v (B * heads, head dim, M), all of one type.

    Outputs:
        (B * heads, head dim, N), of the same type.
    """

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.on_ascend = runtime.device_target() == "Ascend"
        self.scores, self.mix = ops.BatchMatMul(transpose_a=True), ops.BatchMatMul(transpose_b=True)
        self.softmax, self.cast = Softmax(-1), ops.Cast()
        self.reshape, self.transpose = ops.Reshape(), ops.Transpose()

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
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


def flash_attention_takes(dtype: ms.Type, q_shape: tuple, k_shape: tuple, heads: int) -> bool:
    """Whether these are types and shapes that MindSpore documents for ``ops.flash_attention_score``."""
    return (dtype in (ms.float16, ms.bfloat16) and q_shape[1] % 16 == 0 and q_shape[1] <= 512 and heads <= 256
            and q_shape[0] <= 2048 * heads and q_shape[2] <= 512 * 1024 and k_shape[2] <= 512 * 1024)
