"""What training a network costs, before any of it is spent: arithmetic and memory, counted while one image passes through it.

Arithmetic is that of convolutions, dense layers and products of matrices, from the shapes that they meet; a multiplication and an
addition are two. Additions, norms and activations are left out, as is usual: they are a few hundredths of it.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any, Callable, Iterator

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ddpm_ms.config import TrainingConfig
from ddpm_ms.ops.attention import EfficientAttention, ScaledDotProductAttention
from ddpm_ms.ops.convolution import Convolution
from ddpm_ms.ops.muon import is_matrix
from ddpm_ms.ops.normalization import UnitChannels
from ddpm_ms.ops.upsampling import NearestUpsample

BACKWARD = 2  # as much as the forward pass for the gradient of the inputs, and again for that of the weights
HALF_OF_STEPS = 0.5  # in which self-conditioning computes its estimate first
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Costs:
    """Of one network and one image.

    Attributes:
        flops: of the forward pass.
        activations: numbers that the backward pass needs: inputs of layers, results of softmax.
        parameters, trainable, matrices: numbers in all parameters, in those that training changes, and of these in those that
            Muon takes.
        self_condition: whether the network takes its own estimate.
    """

    flops: int
    activations: int
    parameters: int
    trainable: int
    matrices: int
    self_condition: bool

    @property
    def trained_flops(self) -> float:
        """Of one image in a training step."""
        return self.flops * (1 + BACKWARD + HALF_OF_STEPS * self.self_condition)

    def memory(self, optimizer: str) -> dict[str, int]:
        """Bytes that stay, whatever the batch. Gradients are there twice: of a micro-batch, and their sum over micro-batches."""
        moments = 2 * self.trainable - (self.matrices if optimizer == "muon" else 0)
        return {"weights": FLOAT32 * self.parameters, "gradients": 2 * FLOAT32 * self.trainable,
                "optimizer": FLOAT32 * moments, "average": FLOAT32 * self.trainable}


def count(model: nn.Cell, channels: int, size: tuple[int, int]) -> Costs:
    """The costs of ``model``, by one forward pass of one image of ``size`` (height, width), operator by operator."""
    counter = _Counter()
    image, step = Tensor(np.zeros((1, channels, *size), np.float32)), Tensor(np.zeros(1, np.int32), ms.int32)
    with counter.watching():
        model(image, step)
    parameters = list(model.get_parameters())
    trainable = model.trainable_params()
    return Costs(counter.flops, counter.kept, sum(p.size for p in parameters), sum(p.size for p in trainable),
                 sum(p.size for p in trainable if is_matrix(p)), bool(getattr(model, "self_condition", False)))


def describe(costs: Costs, c: TrainingConfig) -> list[str]:
    """Lines for people: what a step and a run of these settings take, on one device."""
    per_step = c.train_batch_size * c.gradient_accumulate_every
    step = costs.trained_flops * per_step
    run = f", {_flop(step * c.train_num_steps)} in {c.train_num_steps:,} steps" if c.train_num_epochs is None else ""
    number = FLOAT32 if c.precision in (None, "fp32") and c.amp_level in (None, "O0") else FLOAT32 // 2
    image, memory = costs.activations * number, costs.memory(c.optimizer)
    parts = [f"{_bytes(size)} {name}" for name, size in memory.items()]
    parts.append(f"{c.train_batch_size:,} x {_bytes(image)} activations{' (less: training.recompute)' if c.recompute else ''}")
    return [f"parameters: {costs.trainable:,}",
            f"arithmetic: {_flop(costs.flops)} per image forward, {_flop(costs.trained_flops)} trained; {_flop(step)} per step "
            f"({per_step:,} images){run}",
            f"memory: about {_bytes(sum(memory.values()) + image * c.train_batch_size)} = {' + '.join(parts)}"]


class _Counter:
    """Sums up while it watches: ``flops``, and ``kept``, the numbers that a backward pass would need."""

    def __init__(self) -> None:
        self.flops, self.kept = 0, 0
        self._inside = 0  # of how many Cells whose insides need nothing

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block every call of a Cell and of the operators below is seen; not those in a graph."""
        watched: dict[Any, Callable[..., Any]] = {
            nn.Cell: self._cell, ops.Conv2D: self._convolution, ops.MatMul: self._product, ops.BatchMatMul: self._product,
            ops.Reshape: self._reshape}
        with contextlib.ExitStack() as stack:
            for kind, see in watched.items():
                stack.enter_context(_replaced_call(kind, see))
            yield

    def _cell(self, call: Callable[..., Any], cell: nn.Cell, *inputs: Any, **keywords: Any) -> Any:
        """A layer, which is a Cell without others in it, needs its inputs again; a convolution not what it adds, softmax its
        result alone."""
        is_softmax, is_convolution, before = isinstance(cell, nn.Softmax), isinstance(cell, Convolution), self.flops
        self._inside += is_softmax or is_convolution
        out = call(cell, *inputs, **keywords)
        self._inside -= is_softmax or is_convolution
        # Whichever form of these computed.
        if is_convolution:
            self.flops = before + _of_convolution(out, inputs[1])
            self._keep(inputs[:2])
        elif isinstance(cell, (EfficientAttention, ScaledDotProductAttention)):
            self.flops = before + _of_attention(cell, *inputs)
        elif isinstance(cell, (UnitChannels, NearestUpsample)):
            self.flops = before
        if is_softmax:
            self._keep((out,))
        elif not is_convolution and not cell.cells():
            self._keep((*inputs, *keywords.values()))
        return out

    def _convolution(self, call: Callable[..., Any], operator: Any, *inputs: Any) -> Any:
        out = call(operator, *inputs)
        self.flops += _of_convolution(out, inputs[1])
        return out

    def _product(self, call: Callable[..., Any], operator: Any, *inputs: Any) -> Any:
        out = call(operator, *inputs)
        self.flops += 2 * out.size * inputs[0].shape[-2 if operator.transpose_a else -1]
        self._keep(inputs)
        return out

    def _reshape(self, call: Callable[..., Any], operator: Any, *inputs: Any) -> Any:
        out = call(operator, *inputs)
        out.of_costs = _storage(inputs[0])  # the same memory
        return out

    def _keep(self, tensors: tuple[Any, ...]) -> None:
        for tensor in tensors:
            if not self._inside and isinstance(tensor, Tensor) and not isinstance(tensor, Parameter):
                storage = _storage(tensor)
                self.kept += 0 if storage["kept"] else tensor.size
                storage["kept"] = True


def _of_convolution(out: Any, weight: Any) -> int:
    return 2 * out.size * weight.size // weight.shape[0]


def _of_attention(cell: Any, x: Any, weight: Any, memory: Any = None, bias: Any = None) -> int:
    """The projection, and two products: of every query with every key or, of linear attention, over the pixels."""
    images, channels, height, width = x.shape
    hidden, pixels = cell.heads * cell.dim_head, height * width
    keys = pixels + (0 if memory is None else memory.size // (2 * hidden))
    products = 2 * pixels * keys if isinstance(cell, ScaledDotProductAttention) else cell.dim_head * (pixels + keys)
    return 2 * images * hidden * (3 * channels * pixels + products)


def _storage(tensor: Any) -> dict[str, bool]:
    """One object for all tensors that share their memory."""
    if not hasattr(tensor, "of_costs"):
        tensor.of_costs = {"kept": False}
    return tensor.of_costs


@contextlib.contextmanager
def _replaced_call(kind: Any, see: Callable[..., Any]) -> Iterator[None]:
    """Within the block an object of this ``kind`` is called by ``see(call, object, inputs)``."""
    own, call = "__call__" in vars(kind), kind.__call__
    kind.__call__ = lambda *inputs, **keywords: see(call, *inputs, **keywords)
    try:
        yield
    finally:
        if own:
            kind.__call__ = call
        else:
            del kind.__call__


def _flop(number: float) -> str:
    return _scaled(number, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"))


def _bytes(number: float) -> str:
    return _scaled(number, 1000, ("B", "kB", "MB", "GB", "TB"))


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    power = min(int(math.log(number, step) + 1e-9) if number >= 1 else 0, len(units) - 1)
    return f"{number / step**power:.3g} {units[power]}"
