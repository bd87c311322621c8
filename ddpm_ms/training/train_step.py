"""One optimizer step, as two graphs: the gradient of a micro-batch, and the update."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.amp import all_finite

from ddpm_ms import runtime
from ddpm_ms.ops.optimizer import SquareSum, native_steps
from ddpm_ms.training.ema import EMA

_zero = ops.MultitypeFuncGraph("zero")
_scale = ops.MultitypeFuncGraph("scale")
_accumulate = ops.MultitypeFuncGraph("accumulate")
_store = ops.MultitypeFuncGraph("store")


@_zero.register("Tensor")
def _zero_one(accumulator: Tensor) -> Tensor:
    return ops.Assign()(accumulator, ops.ZerosLike()(accumulator))


@_scale.register("Tensor", "Tensor")
def _scale_one(factor: Tensor, value: Tensor) -> Tensor:
    return value * factor


@_accumulate.register("Tensor", "Tensor")
def _accumulate_one(accumulator: Tensor, gradient: Tensor) -> Tensor:
    return ops.AssignAdd()(accumulator, ops.Cast()(gradient, ms.float32))


@_store.register("Tensor", "Tensor")
def _store_one(accumulator: Tensor, gradient: Tensor) -> Tensor:
    return ops.Assign()(accumulator, ops.Cast()(gradient, ms.float32))


class TrainStep(nn.Cell):
    """Forward, backward and accumulation of micro-batches; then reduce, unscale, check, clip, optimizer, EMA.

    `gradient` adds the gradient of one micro-batch to a float32 accumulator. `update` is called once per optimizer step:
    it averages over the ranks (the only communication), removes the loss scale, and unless something is not finite clips
    by the global norm, steps the optimizer and moves the EMA. With a non-finite gradient it changes no weight. The same
    communication carries the wish of any rank to stop, so that all of them stop after the same step.

    Args:
        diffusion: the loss, see `GaussianDiffusion.losses`.
        optimizer: over the trainable parameters of ``diffusion.model``: an ``nn.Optimizer`` or `Muon`.
        ema: the average of the same parameters.
        accumulate_every: micro-batches per optimizer step.
        max_grad_norm: clip to this global norm; 0 for none.
        weight_decay: decoupled (AdamW, arXiv:1711.05101), per step and in units of the learning rate.
        world: number of ranks.
    """

    def __init__(self, diffusion: nn.Cell, optimizer: nn.Cell, ema: EMA, accumulate_every: int = 1,
                 max_grad_norm: float = 1.0, weight_decay: float = 0.0, world: int = 1) -> None:
        super().__init__()
        self.diffusion, self.optimizer, self.ema = diffusion, optimizer, ema
        self.accumulate_every, self.max_grad_norm, self.weight_decay = accumulate_every, max_grad_norm, weight_decay
        self.weights = ParameterTuple(optimizer.parameters)
        shadow = {id(weight): average for weight, average in zip(ema.weights, ema.shadow)}
        self.shadow = ParameterTuple(shadow[id(weight)] for weight in self.weights)
        self.accumulators = ParameterTuple(
            Parameter(ops.zeros(p.shape, ms.float32), name=f"accumulator.{p.name}", requires_grad=False)
            for p in self.weights)
        self.value_and_grad = ms.value_and_grad(self._scaled_loss, None, self.weights, has_aux=True)
        self.stop_votes = Parameter(Tensor([0.0], ms.float32), name="stop_votes", requires_grad=False)
        reduced = ParameterTuple((*self.accumulators, self.stop_votes))
        self.reducer = nn.DistributedGradReducer(reduced, mean=True, degree=world) if world > 1 else None
        self.square_sum = SquareSum()
        self.native_muon: Any
        self.native_adam: Any
        self.native_muon, self.native_adam = native_steps(optimizer, self.weights, weight_decay)
        self.is_native = self.native_adam is not None
        matrices = optimizer.count if self.native_muon is not None else 0
        self.of_matrices, self.of_rest = (tuple(ParameterTuple(kind[part]) for kind in (self.weights, self.shadow))
                                          for part in (slice(matrices), slice(matrices, None)))
        self.no_number = Tensor(float("nan"), ms.float32)
        self.map, self.sqrt, self.minimum, self.select = ops.HyperMap(), ops.Sqrt(), ops.Minimum(), ops.Select()
        self.mean, self.assign = ops.ReduceMean(), ops.Assign()
        self.gradient, self.update = runtime.compiled(self._gradient), runtime.compiled(self._update)

    def ask_to_stop(self, stop: bool = True) -> None:
        """Make the next `update` report, on every rank, that training should stop; or no longer."""
        ops.assign(self.stop_votes, Tensor([float(stop)], ms.float32))

    def reset(self) -> None:
        """Forget what `gradient` accumulated."""
        for accumulator in self.accumulators:
            # In place: a compiled graph goes on writing to the memory that it was compiled with.
            ops.assign(accumulator, ops.zeros(accumulator.shape, ms.float32))

    def _scaled_loss(self, images, t, noise, self_cond, classes, dropout_key, weights, loss_scale):
        losses = self.diffusion.losses(images, t, noise, self_cond, classes, dropout_key)
        weighted = losses if weights is None else losses * weights
        return self.mean(weighted) * loss_scale, losses

    def _gradient(self, images, t, noise, self_cond, classes, dropout_key, weights, loss_scale):
        """Accumulate one micro-batch; returns its losses (B,) before the ``weights`` (B,) of importance sampling, or None.
        ``self_cond`` is a Python bool: one graph for each."""
        (_, losses), gradients = self.value_and_grad(images, t, noise, self_cond, classes, dropout_key, weights, loss_scale)
        combine = _accumulate if self.accumulate_every > 1 else _store
        done = self.map(combine, self.accumulators, gradients)
        return ops.depend(losses, done)

    def _update(self, learning_rate, ema_rate, loss_scale):
        """Finish the step; float32 scalars in, (finite, gradient norm, whether a rank wants to stop) out."""
        gradients, votes = self.accumulators, self.stop_votes
        if self.reducer is not None:
            reduced = self.reducer((*gradients, votes))
            gradients, votes = reduced[:-1], reduced[-1]
        factor = 1.0 / (loss_scale * self.accumulate_every)
        norm = self.sqrt(self.square_sum(gradients)) * factor
        # The norm is finite if and only if every gradient is; all_finite knows the overflow flags of each Ascend.
        finite = all_finite((norm,))
        if self.max_grad_norm > 0:
            factor = factor * self.minimum(self.max_grad_norm / (norm + 1e-6), 1.0)
        self.assign(self.optimizer.learning_rate, learning_rate)
        if self.is_native:
            # Without a branch, to which every tensor of the step would be passed: the operators heed a factor that is no number.
            self._native_step(gradients, self.select(finite, factor, self.no_number), learning_rate, ema_rate)
        elif finite:
            self._step(gradients, factor, learning_rate, ema_rate)
        if self.accumulate_every > 1:
            # Last: a branch above reads the accumulators when it runs, not where its inputs were written down.
            self.map(_zero, self.accumulators)
        return finite, norm, votes[0] > 0

    def _native_step(self, gradients, factor, learning_rate, ema_rate):
        """As `_step`; with a ``factor`` that is not finite it does nothing."""
        adam = self.optimizer
        if self.native_muon is not None:
            count, adam = self.optimizer.count, self.optimizer.adam
            weights, shadow = self.of_matrices
            self.native_muon(gradients[:count], factor, learning_rate, ema_rate, weights, self.optimizer.momentum, shadow)
            gradients = gradients[count:]
        weights, shadow = self.of_rest
        self.native_adam(gradients, factor, learning_rate, ema_rate, adam.beta1_power, adam.beta2_power, weights, adam.moment1,
                         adam.moment2, shadow)

    def _step(self, gradients, factor, learning_rate, ema_rate):
        """Scale the gradients, decay the weights, step the optimizer, move the EMA."""
        gradients = self.map(ops.partial(_scale, factor), gradients)
        if self.weight_decay > 0:
            shrunk = self.map(ops.partial(_scale, 1.0 - learning_rate * self.weight_decay), self.weights)
            self.map(_store, self.weights, shrunk)
        self.optimizer(gradients)
        if ema_rate > 0:
            self.ema(ema_rate)
