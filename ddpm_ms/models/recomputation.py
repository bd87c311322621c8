"""Gradient checkpointing (arXiv:1604.06174): activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from mindspore import nn

from ddpm_ms.errors import InputError
from ddpm_ms.models.attention import Attention, LinearAttention
from ddpm_ms.models.layers import ResnetBlock


def set_recompute(model: nn.Cell) -> None:
    """Keep of every residual block and attention of ``model`` only the input; graph mode alone heeds it.

    Raises:
        InputError: ``model`` has no such part.
    """
    cells = [cell for _, cell in model.cells_and_names() if isinstance(cell, (ResnetBlock, LinearAttention, Attention))]
    if not cells:
        raise InputError("training.recompute is True, allowed for this network: False (it has no residual blocks)")
    for cell in cells:
        cell.recompute()
