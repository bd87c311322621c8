"""What an optimizer step does with all tensors of a network: the sum of their squares, Adam and Muon; native on CPUs where it
could be built, because a network of hundreds of small tensors would spend more time between MindSpore's operators than in
them."""
from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import signature as sig

from ddpm_ms import runtime
from ddpm_ms.ops.muon import MOMENTUM, Muon

_square_sum = ops.MultitypeFuncGraph("square_sum")


@_square_sum.register("Tensor")
def _square_sum_one(x: Tensor) -> Tensor:
    # Row by row: on CPUs the sum over all axes at once is several times slower.
    rows = ops.Reshape()(ops.Square()(x), (x.shape[0], -1))
    return ops.ReduceSum()(ops.ReduceSum()(rows, 1))


class SquareSum(nn.Cell):
    """The sum of the squares of all elements of a tuple of float32 tensors, as a float32 scalar."""

    def __init__(self) -> None:
        super().__init__()
        library = runtime.native_library()
        self.native: Any = ops.Custom(f"{library}:square_sum", (1,), ms.float32, func_type="aot") if library else None
        self.map, self.add_n, self.reshape = ops.HyperMap(), ops.AddN(), ops.Reshape()

    def construct(self, tensors: tuple[Tensor, ...]) -> Tensor:
        if self.native is not None:
            return self.reshape(self.native(*tensors), ())
        return self.add_n(self.map(_square_sum, tensors))


class NativeAdam(nn.Cell):
    """The operator of adam.cpp: a step of ``optimizer`` and of the average that follows it, in the memory of their parameters.

    It computes what these do one after another, bit for bit: gradients * factor; weights * (1 - learning_rate * weight_decay);
    ``optimizer``, which keeps its state; shadow += ema_rate * (weights - shadow), unless ema_rate is 0. With a factor that is
    not finite it does nothing.

    It holds no parameter itself, so that they keep the names that their owners gave them.

    Args:
        optimizer: one that `is_plain_adam`.
        weight_decay: decoupled, per step and in units of the learning rate.
    """

    def __init__(self, optimizer: nn.Adam, weight_decay: float) -> None:
        super().__init__()
        library = runtime.native_library()
        self.constants = Tensor(np.array([*(float(x.asnumpy()) for x in (optimizer.beta1, optimizer.beta2, optimizer.eps)),
                                          weight_decay], np.float32))
        self.native = ops.Custom(f"{library}:adam", (1,), ms.float32, func_type="aot")
        count = len(optimizer.parameters)
        _writes(self.native, [False] * 4 + [True] * 2 + [False] * count + [True] * 4 * count)

    def construct(self, gradients, factor, learning_rate, ema_rate, power1, power2, weights, moment1, moment2, shadow):
        """Tuples of float32 tensors, and scalars; power1 and all behind it are parameters. What it returns means nothing."""
        return self.native(factor, learning_rate, ema_rate, self.constants, power1, power2, *gradients, *weights, *moment1,
                           *moment2, *shadow)


def is_plain_adam(optimizer: nn.Cell, weights: tuple) -> bool:
    """Whether ``optimizer`` is Adam (arXiv:1412.6980) over exactly the float32 ``weights``, in their order, with one constant
    learning rate and nothing besides."""
    if type(optimizer) is not nn.Adam:
        return False
    besides = (optimizer.use_nesterov, optimizer.use_amsgrad, optimizer.use_lazy, optimizer.use_offload, optimizer.is_group,
               optimizer.dynamic_lr, optimizer.exec_weight_decay, optimizer.need_scale, optimizer.grad_centralization,
               optimizer.use_parallel)
    mine = optimizer.parameters
    return (not any(besides) and len(mine) == len(weights)
            and all(a is b and a.dtype == ms.float32 for a, b in zip(mine, weights)))


class NativeMuon(nn.Cell):
    """The operator of muon.cpp: a step of `Muon` for ``count`` matrices and of the average that follows them, as `NativeAdam`; to
    rounding what these do one after another."""

    def __init__(self, count: int, weight_decay: float) -> None:
        super().__init__()
        self.constants = Tensor(np.array([MOMENTUM, weight_decay], np.float32))
        self.native = ops.Custom(f"{runtime.native_library()}:muon", (1,), ms.float32, func_type="aot")
        _writes(self.native, [False] * (4 + count) + [True] * 3 * count)

    def construct(self, gradients, factor, learning_rate, ema_rate, weights, momentum, shadow):
        """Tuples of float32 tensors, and scalars; weights and all behind them are parameters. What it returns means nothing."""
        return self.native(factor, learning_rate, ema_rate, self.constants, *gradients, *weights, *momentum, *shadow)


def _writes(native: ops.Custom, writes: list[bool]) -> None:
    """Say of each input whether the operator writes to it. Such a one must come as the parameter itself, and nothing that reads a
    parameter may change places with the operator."""
    native.set_signatures(tuple(
        sig.make_sig(f"x{i}", sig.sig_rw.RW_WRITE if write else sig.sig_rw.RW_READ) for i, write in enumerate(writes)))
    native.add_prim_attr("side_effect_mem", True)


def native_steps(optimizer: nn.Cell, weights: tuple, weight_decay: float) -> tuple[NativeMuon | None, NativeAdam | None]:
    """The operators that can stand for ``optimizer`` over ``weights``: none; `NativeAdam`; or where it is `Muon` one for the
    matrices, which come first, and one for the rest."""
    if runtime.native_library() is None:
        return None, None
    if type(optimizer) is not Muon:
        return None, NativeAdam(optimizer, weight_decay) if is_plain_adam(optimizer, weights) else None
    if not is_plain_adam(optimizer.adam, weights[optimizer.count:]) or any(w.dtype != ms.float32 for w in weights):
        return None, None
    return NativeMuon(optimizer.count, weight_decay), NativeAdam(optimizer.adam, weight_decay)
