"""Gradient checkpointing (arXiv:1604.06174): activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from mindspore import nn

from ddpm_ms.errors import InputError


def set_recompute(model: nn.Cell) -> None:
    """Keep of every Cell of ``model`` with the attribute ``recomputable = True`` (here the residual blocks and attentions) only
    the input; graph mode alone heeds it.

    Raises:
        InputError: ``model`` has no such part.
    """
    cells = [cell for _, cell in model.cells_and_names() if getattr(cell, "recomputable", False)]
    if not cells:
        raise InputError("training.recompute is True, allowed for this network: False (none of its parts is recomputable)")
    for cell in cells:
        cell.recompute()
