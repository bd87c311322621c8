"""Checkpoints: written whole or not at all, checked when read; reading one gives a diffusion."""

from ddpm_ms.checkpoints.checkpoint import Checkpoint, DamagedCheckpoint, load_diffusion

__all__ = ["Checkpoint", "DamagedCheckpoint", "load_diffusion"]
