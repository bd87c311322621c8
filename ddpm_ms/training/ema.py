"""Exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from typing import Iterator

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ddpm_ms.errors import check_range


class EMA(nn.Cell):
    """A slowly following copy of a network's trainable weights, which samples better than the weights themselves.

    The decay warms up as 1 - (1 + step)^(-2/3) until it reaches ``decay``: early weights are forgotten quickly. It is a
    pure function of the optimizer step, so nothing but the copy has to be saved.

    Args:
        model: the network to follow.
        decay: the final decay per update, 0 to 1.
        update_every: optimizer steps between updates.

    Called with ``rate_at(step)`` as a float32 scalar after every optimizer step for which that is not 0.
    """

    def __init__(self, model: nn.Cell, decay: float = 0.995, update_every: int = 10) -> None:
        super().__init__()
        self.decay = check_range("ema_decay", decay, 0, 1)
        self.update_every = int(check_range("ema_update_every", update_every, 1))
        self.names = [name for name, p in model.parameters_and_names() if p.requires_grad]
        self.weights = ParameterTuple(model.trainable_params())
        self.shadow = ParameterTuple(
            Parameter(Tensor(p.asnumpy().copy()), name=f"ema.{p.name}", requires_grad=False) for p in self.weights)
        self.map = ops.HyperMap()

    def decay_at(self, step: int) -> float:
        """Decay of the update after optimizer step ``step`` (the first step is 1)."""
        return min(self.decay, 1 - (1 + step) ** (-2 / 3))

    def rate_at(self, step: int) -> float:
        """How far the copy moves towards the weights after step ``step``; 0 when no update is due."""
        return 1 - self.decay_at(step) if step % self.update_every == 0 else 0.0

    def construct(self, rate: Tensor) -> bool:
        """Move the copy by ``rate``, a float32 scalar: shadow += rate * (weights - shadow)."""
        return self.map(ops.partial(_move, rate), self.shadow, self.weights)

    def parameters_by_name(self) -> dict[str, Parameter]:
        """The copy under the names that the weights have in the network."""
        return dict(zip(self.names, self.shadow))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the network computes with the averaged weights; afterwards with its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for weight, shadow in zip(self.weights, self.shadow):
            # In place: compiled graphs go on using the memory that they were compiled with.
            held = Tensor(weight.asnumpy().copy())
            ops.assign(weight, shadow)
            ops.assign(shadow, held)


_move = ops.MultitypeFuncGraph("ema_move")


@_move.register("Tensor", "Tensor", "Tensor")
def _move_one(rate: Tensor, shadow: Tensor, weight: Tensor) -> Tensor:
    return ops.AssignAdd()(shadow, (ops.Cast()(weight, ms.float32) - shadow) * rate)
