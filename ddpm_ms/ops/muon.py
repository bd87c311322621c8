"""Muon, an optimizer for the matrices of a network."""

from __future__ import annotations

from typing import Sequence, Tuple

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ddpm_ms.errors import InputError

MOMENTUM = 0.95
SMALLEST = 16  # channels on either side of a matrix; what has fewer is at an end of the network
# One step of Newton and Schulz takes every singular value s to a s + b s^3 + c s^5; five of them take all that are not tiny
# beside the largest to between 0.7 and 1.2. The coefficients are Jordan's.
ITERATIONS, A, B, C = 5, 3.4445, -4.7750, 2.0315
SCALE = 0.2  # of the step's root mean square, which is about Adam's: arXiv:2502.16982, equation 4


def is_matrix(weight: Parameter) -> bool:
    """Whether ``weight`` is of a convolution or a dense layer between features of the network; not so the layers at its ends,
    gains, biases and tables of embeddings."""
    return weight.ndim >= 2 and min(weight.shape[:2]) >= SMALLEST and not weight.name.endswith("embedding_table")


def orthogonal(x: Tensor) -> Tensor:
    """Each of the matrices ``x`` (N, rows, columns), float32, with its singular values brought near 1: about U V^T of U S V^T.

    Newton and Schulz multiply a matrix by a polynomial of its own Gram matrix. Here that is done to the Gram matrix of the
    shorter side, and the product of the polynomials is applied once: with filters of 3x3 a third of the work.
    """
    wide = x.shape[1] <= x.shape[2]
    gram = ops.BatchMatMul(transpose_b=True)(x, x) if wide else ops.BatchMatMul(transpose_a=True)(x, x)
    eye = ops.eye(gram.shape[1], gram.shape[1], ms.float32)
    times = ops.BatchMatMul()
    norm = ops.Sqrt()(ops.ReduceSum(keep_dims=True)(gram * eye, (1, 2))) + 1e-7  # of all elements: the Gram matrix's trace
    gram = gram / ops.Square()(norm)
    product = eye
    for step in range(ITERATIONS):
        power = A * eye + B * gram + C * times(gram, gram)
        product = power if step == 0 else times(power, product)
        if step + 1 < ITERATIONS:
            gram = times(times(power, gram), power)  # all are polynomials of one matrix, and commute
    return (times(product, x) if wide else times(x, product)) / norm


class Muon(nn.Cell):
    """Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon) for matrices, and Adam for everything else.

    The step of a matrix is its momentum with the singular values brought near 1: directions that gradients rarely take move as
    far as the others do. A convolution counts as the matrix of its output channels and the rest. Steps are as long as Adam's
    (arXiv:2502.16982), so one learning rate does for both, and rates carry over between them.

    Args:
        weights: all trainable parameters of the network.
        learning_rate: of both.
        beta1, beta2: Adam's.

    Inputs:
        gradients, a tuple of float32 tensors in the order of ``parameters``: those of the matrices first.

    Raises:
        InputError: there is nothing but matrices.
    """

    def __init__(self, weights: Sequence[Parameter], learning_rate: float, beta1: float = 0.9, beta2: float = 0.99) -> None:
        super().__init__()
        matrices, rest = ([weight for weight in weights if is_matrix(weight) == kind] for kind in (True, False))
        if not rest:
            raise InputError("training.optimizer is muon for a network of nothing but matrices, allowed: adam")
        self.adam = nn.Adam(rest, learning_rate, beta1, beta2)
        self.learning_rate = self.adam.learning_rate
        self.momentum = ParameterTuple(
            Parameter(ops.zeros(weight.shape, ms.float32), name=f"momentum.{weight.name}", requires_grad=False)
            for weight in matrices)
        self.matrices, self.parameters = ParameterTuple(matrices), ParameterTuple((*matrices, *rest))
        self.count = len(matrices)
        # Those of one shape are multiplied together.
        shapes = [_as_matrix(weight.shape) for weight in self.matrices]
        self.groups = tuple(tuple(i for i, shape in enumerate(shapes) if shape == one) for one in dict.fromkeys(shapes))
        self.assign, self.stack = ops.Assign(), ops.Stack()

    def construct(self, gradients: Tuple[Tensor, ...]) -> Tensor:
        """Move every parameter; what it returns means nothing."""
        for group in self.groups:
            self._step(group, gradients)
        return self.adam(gradients[self.count:])

    def _step(self, group: Tuple[int, ...], gradients: Tuple[Tensor, ...]) -> None:
        directions = []
        for i in group:
            gradient, momentum = gradients[i], self.momentum[i]
            moved = momentum + (gradient - momentum) * (1 - MOMENTUM)
            self.assign(momentum, moved)
            directions.append(ops.reshape(gradient + (moved - gradient) * MOMENTUM, _as_matrix(momentum.shape)))
        found = orthogonal(self.stack(directions))
        length = SCALE * max(found.shape[1:]) ** 0.5
        for k, i in enumerate(group):
            weight = self.matrices[i]
            self.assign(weight, weight - self.learning_rate * length * ops.reshape(found[k], weight.shape))


def _as_matrix(shape: Tuple[int, ...]) -> Tuple[int, int]:
    columns = 1
    for size in shape[1:]:
        columns *= size
    return shape[0], columns
