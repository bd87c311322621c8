"""Moving averages of the weights."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ddpm_ms.config import TrainingConfig

UPDATE_EVERY, UPDATE_EVERY_WITH_DECAY = 1, 10  # the second is denoising-diffusion-pytorch's


class EMA(nn.Cell):
    """A slowly following copy of a network's trainable weights, which samples better than the weights themselves.

    By default the copy is their power-function average (EDM2, arXiv:2312.02696, section 3.1): the weights of step s count in
    proportion to s^gamma, so the average reaches back over the same share of the run whatever its length, and forgets the
    beginning. With ``decay`` it is an exponential average instead, as in most papers, whose decay warms up as
    1 - (1 + step)^(-2/3); it fits runs that are long beside ``update_every`` / (1 - decay). Either is a pure function of the
    optimizer steps, so nothing but the copy has to be saved.

    Args:
        model: the network to follow.
        decay: final decay per update of the exponential average. Default: the power-function average.
        update_every: optimizer steps between updates. Default: 1; with ``decay`` 10, as in denoising-diffusion-pytorch.
        sigma_rel: standard deviation of the power-function average's profile, as a share of the run so far. The range and the
            default of all three are those of ``ema_...`` in `ddpm_ms.config.TrainingConfig`.
        whole: what `ema_model` returns: the process around ``model``. Default: ``model`` itself.

    Called with ``rate_at(step)`` as a float32 scalar after every optimizer step for which that is not 0.

    Raises:
        InputError: a value out of its range.
    """

    def __init__(self, model: nn.Cell, decay: float | None = None, update_every: int | None = None,
                 sigma_rel: float | None = None, whole: nn.Cell | None = None) -> None:
        super().__init__()
        given: dict[str, Any] = {"ema_decay": decay, "ema_update_every": update_every, "ema_sigma_rel": sigma_rel}
        c = TrainingConfig(**{name: value for name, value in given.items() if value is not None})
        self.decay = c.ema_decay
        self.update_every = c.ema_update_every or (UPDATE_EVERY if decay is None else UPDATE_EVERY_WITH_DECAY)
        self.gamma = power_of_profile(c.ema_sigma_rel)
        self.names = [name for name, p in model.parameters_and_names() if p.requires_grad]
        self.weights = ParameterTuple(model.trainable_params())
        self.shadow = ParameterTuple(
            Parameter(Tensor(p.asnumpy().copy()), name=f"ema.{p.name}", requires_grad=False) for p in self.weights)
        self.map = ops.HyperMap()
        self.in_use = False  # whether the network has the averaged weights now, and the copy has the network's own
        self._whole: Callable[[], nn.Cell] = lambda: whole or model  # as an attribute it would be a part of this Cell

    def decay_at(self, step: int) -> float:
        """Decay of the update after optimizer step ``step`` (the first step is 1)."""
        if self.decay is None:
            return max(1 - self.update_every / step, 0.0) ** (self.gamma + 1)
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
        """Within the block the network has the averaged weights; afterwards what it had before."""
        with self._using(True):
            yield

    @contextlib.contextmanager
    def withdrawn(self) -> Iterator[None]:
        """Within the block the network has its own weights, which the optimizer left; afterwards what it had before."""
        with self._using(False):
            yield

    @property
    def ema_model(self) -> nn.Cell:
        """The process with the averaged weights, as denoising-diffusion-pytorch calls it: ``trainer.ema.ema_model.sample(16)``.

        It is the process that is trained, no copy: its network has the averaged weights from here on, until training goes on.
        """
        self.use(True)
        return self._whole()

    @contextlib.contextmanager
    def _using(self, average: bool) -> Iterator[None]:
        before = self.in_use
        self.use(average)
        try:
            yield
        finally:
            self.use(before)

    def use(self, average: bool) -> None:
        """Give the network the averaged weights, or its own again; not a bit of either is lost."""
        if average == self.in_use:
            return
        self.in_use = average
        for weight, shadow in zip(self.weights, self.shadow):
            # In place: compiled graphs go on using the memory that they were compiled with.
            held = Tensor(weight.asnumpy().copy())
            ops.assign(weight, shadow)
            ops.assign(shadow, held)


def power_of_profile(sigma_rel: float) -> float:
    """The gamma whose profile s^gamma on [0, 1] has the standard deviation ``sigma_rel``: the positive root of
    sigma_rel^2 (gamma + 2)^2 (gamma + 3) = gamma + 1 (arXiv:2312.02696, section 3.1). A gamma of 0, the plain mean, has 0.289.
    """
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


_move = ops.MultitypeFuncGraph("ema_move")


@_move.register("Tensor", "Tensor", "Tensor")
def _move_one(rate: Tensor, shadow: Tensor, weight: Tensor) -> Tensor:
    return ops.AssignAdd()(shadow, (ops.Cast()(weight, ms.float32) - shadow) * rate)
