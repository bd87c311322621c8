"""The diffusion process: schedules, loss, samplers."""

from __future__ import annotations

from mindspore import nn

from ddpm_ms.config import DiffusionConfig, ImageSize
from ddpm_ms.diffusion.gaussian_diffusion import GaussianDiffusion, ModelPrediction

__all__ = ["GaussianDiffusion", "ModelPrediction", "create_diffusion"]


def create_diffusion(config: DiffusionConfig, model: nn.Cell, image_size: ImageSize) -> GaussianDiffusion:
    """The process that ``config`` describes around ``model``, for images of ``image_size``."""
    return GaussianDiffusion(model, image_size=image_size, config=config)
