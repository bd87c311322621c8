"""Training: the optimizer step, EMA, checkpoints, and the loop."""

from ddpm_ms.training.checkpoint import load_diffusion
from ddpm_ms.training.ema import EMA
from ddpm_ms.training.trainer import Trainer

__all__ = ["EMA", "Trainer", "load_diffusion"]
