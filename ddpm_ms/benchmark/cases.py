"""What is timed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A U-Net and a batch; the names are those of the benchmark's table."""

    dim: int
    dim_mults: tuple[int, ...]
    channels: int
    size: int
    batch: int

    def __str__(self) -> str:
        mults = ",".join(map(str, self.dim_mults))
        return f"dim {self.dim}, mults {mults}, {self.channels}x{self.size}x{self.size}, batch {self.batch}"


CASES = {
    "a": Case(32, (1, 2, 4), 1, 32, 32),
    "b": Case(64, (1, 2, 4, 8), 3, 32, 8),
    "c": Case(64, (1, 2, 4, 8), 3, 64, 4),
    "d": Case(32, (1, 2), 1, 8, 64),
    "f": Case(32, (1, 2, 4), 3, 64, 64),
}
