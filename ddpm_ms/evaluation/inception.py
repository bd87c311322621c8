"""InceptionV3 (arXiv:1512.00567) as TensorFlow's graph of 2015-12-05 has it, in whose features FID is measured (1706.08500).

The network is a table. It differs from torchvision's in ways that move every number: average pools do not count the padding, the
last block pools by the maximum, and there are 1008 classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterator, List, Literal, Mapping, NamedTuple, Tuple, Union

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ddpm_ms.ops import pooling
from ddpm_ms.ops.convolution import ConvolutionReLU

SIZE = 299  # of the images it takes, square
WIDTH, CLASSES = 2048, 1008
SPATIAL_CHANNELS = 7  # of Mixed_6d, which guided-diffusion's graph calls mixed_6, for sFID (arXiv:2103.03841)


@dataclass(frozen=True)
class Unit:
    """Convolution, batch norm, rectifier. At stride 1 the size stays, unless it is not ``padded``."""

    name: str
    channels: int
    kernel: Tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns of zeros on each side."""
        return (self.kernel[0] // 2, self.kernel[1] // 2) if self.padded and self.stride == 1 else (0, 0)


@dataclass(frozen=True)
class Pool:
    """See `ddpm_ms.ops.pooling.Pool`."""

    kind: Literal["mean", "max", "halve"]


Part = Union[Unit, Pool, Tuple[Unit, ...]]  # units of a tuple see the same and stand side by side
Branch = Tuple[Part, ...]

_ROW, _COLUMN, _SQUARE = (1, 7), (7, 1), (3, 3)


def _block_at_35(pooled: int) -> tuple[Branch, ...]:
    return ((Unit("branch1x1", 64),),
            (Unit("branch5x5_1", 48), Unit("branch5x5_2", 64, (5, 5))),
            (Unit("branch3x3dbl_1", 64), Unit("branch3x3dbl_2", 96, _SQUARE), Unit("branch3x3dbl_3", 96, _SQUARE)),
            (Pool("mean"), Unit("branch_pool", pooled)))


def _block_at_17(width: int) -> tuple[Branch, ...]:
    return ((Unit("branch1x1", 192),),
            (Unit("branch7x7_1", width), Unit("branch7x7_2", width, _ROW), Unit("branch7x7_3", 192, _COLUMN)),
            (Unit("branch7x7dbl_1", width), Unit("branch7x7dbl_2", width, _COLUMN), Unit("branch7x7dbl_3", width, _ROW),
             Unit("branch7x7dbl_4", width, _COLUMN), Unit("branch7x7dbl_5", 192, _ROW)),
            (Pool("mean"), Unit("branch_pool", 192)))


def _block_at_8(pool: Literal["mean", "max"]) -> tuple[Branch, ...]:
    return ((Unit("branch1x1", 320),),
            (Unit("branch3x3_1", 384), (Unit("branch3x3_2a", 384, (1, 3)), Unit("branch3x3_2b", 384, (3, 1)))),
            (Unit("branch3x3dbl_1", 448), Unit("branch3x3dbl_2", 384, _SQUARE),
             (Unit("branch3x3dbl_3a", 384, (1, 3)), Unit("branch3x3dbl_3b", 384, (3, 1)))),
            (Pool(pool), Unit("branch_pool", 192)))


# Block to its branches, by the names in pytorch-fid's and torch-fidelity's file; in the stem a block has one unit without a name.
BLOCKS: Dict[str, Tuple[Branch, ...]] = {
    "Conv2d_1a_3x3": ((Unit("", 32, _SQUARE, 2),),),
    "Conv2d_2a_3x3": ((Unit("", 32, _SQUARE, padded=False),),),
    "Conv2d_2b_3x3": ((Unit("", 64, _SQUARE), Pool("halve")),),
    "Conv2d_3b_1x1": ((Unit("", 80),),),
    "Conv2d_4a_3x3": ((Unit("", 192, _SQUARE, padded=False), Pool("halve")),),
    "Mixed_5b": _block_at_35(32),
    "Mixed_5c": _block_at_35(64),
    "Mixed_5d": _block_at_35(64),
    "Mixed_6a": ((Unit("branch3x3", 384, _SQUARE, 2),),
                 (Unit("branch3x3dbl_1", 64), Unit("branch3x3dbl_2", 96, _SQUARE), Unit("branch3x3dbl_3", 96, _SQUARE, 2)),
                 (Pool("halve"),)),
    "Mixed_6b": _block_at_17(128),
    "Mixed_6c": _block_at_17(160),
    "Mixed_6d": _block_at_17(160),
    "Mixed_6e": _block_at_17(192),
    "Mixed_7a": ((Unit("branch3x3_1", 192), Unit("branch3x3_2", 320, _SQUARE, 2)),
                 (Unit("branch7x7x3_1", 192), Unit("branch7x7x3_2", 192, _ROW), Unit("branch7x7x3_3", 192, _COLUMN),
                  Unit("branch7x7x3_4", 192, _SQUARE, 2)),
                 (Pool("halve"),)),
    "Mixed_7b": _block_at_8("mean"),
    "Mixed_7c": _block_at_8("max"),
}


def units() -> Iterator[tuple[str, int, Unit]]:
    """(full name, channels that it sees, unit) of every convolution."""
    channels = 3
    for block, branches in BLOCKS.items():
        given, channels = channels, 0
        for branch in branches:
            width = given
            for part in branch:
                together = _units_of(part)
                yield from ((_name(block, unit), width, unit) for unit in together)
                width = sum(unit.channels for unit in together) or width
            channels += width


def _units_of(part: Part) -> tuple[Unit, ...]:
    if isinstance(part, Pool):
        return ()
    return part if isinstance(part, tuple) else (part,)


def _name(block: str, unit: Unit) -> str:
    return f"{block}.{unit.name}" if unit.name else block


class Taps(NamedTuple):
    """What `Inception` returns: means over all places of four layers, logits, and some channels with their places."""

    low: Tensor  # (B, 64)
    middle: Tensor  # (B, 192)
    high: Tensor  # (B, 768)
    pool: Tensor  # (B, 2048)
    logits: Tensor  # (B, 1008)
    spatial: Tensor  # (B, 7, 17, 17)


_STAGES = {"low": "Conv2d_2b_3x3", "middle": "Conv2d_4a_3x3", "spatial": "Mixed_6d", "high": "Mixed_6e", "pool": "Mixed_7c"}


class Inception(nn.Cell):
    """The network, for evaluation alone. Batch norms are part of the convolutions before them.

    Args:
        folded: of every unit, by its full name: weight (channels, channels that it sees, *kernel) and bias (channels,), float32.
        classifier: (1008, 2048), float32; the Inception Score is made of logits without a bias.

    Inputs:
        x (B, 3, 299, 299), float32, in [-1, 1]; returns `Taps`.
    """

    def __init__(self, folded: Mapping[str, Tuple[np.ndarray, np.ndarray]], classifier: np.ndarray) -> None:
        super().__init__()
        blocks = {block: _SideBySide([_branch(block, branch, folded) for branch in branches])
                  for block, branches in BLOCKS.items()}
        names, ends = list(blocks), [list(blocks).index(name) + 1 for name in _STAGES.values()]
        self.stages = nn.CellList([nn.SequentialCell([blocks[name] for name in names[start:end]])
                                   for start, end in zip([0, *ends], ends)])
        self.classifier = Parameter(Tensor(classifier), name="classifier", requires_grad=False)
        self.reshape, self.mean, self.matmul = ops.Reshape(), ops.ReduceMean(), ops.MatMul(transpose_b=True)
        self.set_train(False)

    def construct(self, x: Tensor) -> Taps:
        """See the class."""
        low = self.stages[0](x)
        middle = self.stages[1](low)
        spatial = self.stages[2](middle)
        high = self.stages[3](spatial)
        pool = self._means(self.stages[4](high))
        return Taps(self._means(low), self._means(middle), self._means(high), pool, self.matmul(pool, self.classifier),
                    spatial[:, :SPATIAL_CHANNELS])

    def _means(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        return self.reshape(self.mean(self.reshape(x, (batch * channels, -1)), 1), (batch, channels))


class _SideBySide(nn.Cell):
    """Cells that see the same, their channels one after the other."""

    def __init__(self, cells: List[nn.Cell]) -> None:
        super().__init__()
        self.cells_together = nn.CellList(cells)
        self.concat = ops.Concat(1)

    def construct(self, x: Tensor) -> Tensor:
        if len(self.cells_together) == 1:
            return self.cells_together[0](x)
        return self.concat([cell(x) for cell in self.cells_together])


class _Convolution(nn.Cell):
    def __init__(self, unit: Unit, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(weight), name="weight", requires_grad=False)
        self.bias = Parameter(Tensor(bias), name="bias", requires_grad=False)
        self.compute = ConvolutionReLU(unit.channels, unit.kernel, unit.stride, unit.padding)

    def construct(self, x: Tensor) -> Tensor:
        return self.compute(x, self.weight, self.bias)


def _branch(block: str, branch: Branch, folded: Mapping[str, Tuple[np.ndarray, np.ndarray]]) -> nn.Cell:
    cells: list[nn.Cell] = []
    for part in branch:
        if isinstance(part, Pool):
            cells.append(pooling.Pool(part.kind))
        else:
            cells.append(_SideBySide([_Convolution(unit, *folded[_name(block, unit)]) for unit in _units_of(part)]))
    return nn.SequentialCell(cells)
