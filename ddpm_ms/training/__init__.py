"""Training: the optimizer step, averages, and the loop."""

from ddpm_ms.training.ema import EMA
from ddpm_ms.training.trainer import Trainer

__all__ = ["EMA", "Trainer"]
