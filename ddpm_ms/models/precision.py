"""Mixed precision: in which type a network computes."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from ddpm_ms.errors import InputError
from ddpm_ms.ops.attention import EfficientAttention, ScaledDotProductAttention
from ddpm_ms.ops.convolution import Convolution

_TYPES = {"fp16": ms.float16, "bf16": ms.bfloat16}
# MindSpore's own Cells that take statistics of many numbers. Others say by ``in_float32`` that they must not be rounded.
_IN_FLOAT32 = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d, nn.Softmax)


def set_precision(model: nn.Cell, precision: str, amp_level: str) -> None:
    """Make ``model`` compute in ``precision`` from now on; its parameters stay float32.

    - O0: float32.
    - O1: convolutions and matrix products in 16 bits, the rest in the type of its inputs or float32
      (``mindspore.amp`` with its operator lists).
    - O2: everything in 16 bits but norms, softmax and the time embedding; the loss is the caller's, in float32.

    MindSpore's O3 would take norms to 16 bits too, where their sums overflow.

    Args:
        model: any Cell. Its Cells with the attribute ``in_float32 = True`` and MindSpore's own norms stay in float32: what takes
            statistics of many numbers, or angles of up to a thousand.
        precision: "fp32", "fp16" or "bf16".
        amp_level: "O0" to "O2".

    Raises:
        InputError: the device has no kernels for the type.
    """
    if amp_level == "O0":
        return
    kind = _TYPES[precision]
    _check_kernels(kind, precision)
    if amp_level == "O1":
        ms.amp.auto_mixed_precision(model, "auto", kind)
        return
    model.to_float(kind)
    for _, cell in model.cells_and_names():
        if isinstance(cell, _IN_FLOAT32) or getattr(cell, "in_float32", False):
            cell.to_float(ms.float32)
        elif isinstance(cell, (Convolution, EfficientAttention, ScaledDotProductAttention)):
            # Operator by operator, inputs are cast behind the test of their type, and the native kernels know float32 only.
            cell.native = None


def _check_kernels(kind: ms.Type, precision: str) -> None:
    """One convolution and one matrix product in ``kind``."""
    try:
        ones = ops.ones((1, 1, 2, 2), ms.float32)
        image, matrix = ops.cast(ones, kind), ops.cast(ops.reshape(ones, (2, 2)), kind)
        ops.Conv2D(1, 1)(image, ops.cast(ops.ones((1, 1, 1, 1), ms.float32), kind)).asnumpy()
        ops.cast(ops.MatMul()(matrix, matrix), ms.float32).asnumpy()
    except (RuntimeError, TypeError, ValueError):
        device = ms.get_context("device_target")
        raise InputError(f"training.precision is {precision}, but this {device} has no kernels for {kind}, allowed: fp32"
                         f"{', fp16' if precision == 'bf16' else ''}") from None
