"""What is timed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A network and a batch; the names are those of the benchmark's table."""

    dim: int
    dim_mults: tuple[int, ...]
    channels: int
    size: int
    batch: int
    attention_levels: tuple[bool, ...] = ()  # of a `ddpm_ms.DDPMUnet`; a `ddpm_ms.Unet` has none

    @property
    def network(self) -> str:
        """Its name in a recipe."""
        return "ddpm_unet" if self.attention_levels else "unet"

    def __str__(self) -> str:
        mults = ",".join(map(str, self.dim_mults))
        return f"{self.network}, dim {self.dim}, mults {mults}, {self.channels}x{self.size}x{self.size}, batch {self.batch}"


CASES = {
    "a": Case(32, (1, 2, 4), 1, 32, 32),
    "b": Case(64, (1, 2, 4, 8), 3, 32, 8),
    "c": Case(64, (1, 2, 4, 8), 3, 64, 4),
    "d": Case(32, (1, 2), 1, 8, 64),
    "f": Case(32, (1, 2, 4), 3, 64, 64),
    "g": Case(128, (1, 2, 2, 2), 3, 32, 8, (False, True, False, False)),
    "h": Case(32, (1, 1, 2, 2, 4, 4), 3, 64, 2, (False, False, False, False, True, False)),
}
# How cost grows: with the side of the images at one width, and with the width at one size of images.
GROWTH = {"side, pixels": {side: Case(32, (1, 2, 4), 3, side, 2) for side in (16, 32, 64, 128)},
          "dim": {dim: Case(dim, (1, 2, 4), 3, 16, 2) for dim in (32, 64, 128, 192)}}
