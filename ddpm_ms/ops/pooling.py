"""Pools over 3x3 pixels, native on CPUs where they could be built; for networks that are only evaluated."""

from __future__ import annotations

from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms import runtime

_KINDS = {"mean": 0, "max": 1, "halve": 2}  # as kernels.cpp numbers them


class Pool(nn.Cell):
    """The mean or the maximum of 3x3 pixels, without a gradient.

    Args:
        kind: "mean" and "max" keep the size, the mean counts no padding; "halve" is the maximum at stride 2 without padding.

    Inputs:
        x (B, C, H, W), H and W at least 3.
    """

    def __init__(self, kind: Literal["mean", "max", "halve"]) -> None:
        super().__init__()
        library = runtime.native_library()
        self.kind = Tensor(np.array([_KINDS[kind]], np.int32))
        self.native = None
        if library:
            self.native = ops.Custom(f"{library}:pool", _halved if kind == "halve" else _first, _first, func_type="aot")
            self.native.add_prim_attr("pool", kind)  # tells these apart, see `ddpm_ms.ops.convolution`
        self.stock = {"mean": ops.AvgPool(3, 1, "same"), "max": ops.MaxPool(3, 1, "same"),  # "same" counts no padding
                      "halve": ops.MaxPool(3, 2, "valid")}[kind]

    def construct(self, x: Tensor) -> Tensor:
        if self.native is not None and x.dtype == ms.float32:
            return self.native(x, self.kind)
        return self.stock(x)


def _first(x, kind):
    return x


def _halved(x, kind):
    return (x[0], x[1], (x[2] - 3) // 2 + 1, (x[3] - 3) // 2 + 1)
