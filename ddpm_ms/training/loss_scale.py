"""Dynamic loss scaling for low precision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LossScale:
    """What the loss is multiplied by, so that small float16 gradients do not vanish.

    An overflow halves it; ``window`` steps in a row without one double it. In float32 it stays at 1.

    `mindspore.amp.DynamicLossScaler` does nearly the same, and is not used: it never goes below 1, where this goes on until
    ``max_skipped_steps``; it keeps its numbers in parameters on the device, so that each step would run a dozen small operators
    more and wait for one of them; and it is announced as experimental. Here the state is four plain numbers of state.json.
    """

    value: float = 1.0
    good_steps: int = 0
    dynamic: bool = False
    window: int = 2000

    @classmethod
    def for_precision(cls, precision: str) -> LossScale:
        """Dynamic from 65,536 for fp16; 1 for fp32, and for bf16, whose exponents are those of float32."""
        return cls(2.0**16, dynamic=True) if precision == "fp16" else cls()

    def adjust(self, finite: bool) -> None:
        """Take note of one attempted step."""
        if not self.dynamic:
            return
        if not finite:
            self.value, self.good_steps = self.value / 2, 0
        elif self.good_steps + 1 >= self.window:
            self.value, self.good_steps = self.value * 2, 0
        else:
            self.good_steps += 1
