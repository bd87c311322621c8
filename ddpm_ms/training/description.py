"""The configuration that says the same as the Python objects of a run; it travels inside every checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddpm_ms import visual
from ddpm_ms.config import (
    Config,
    DataConfig,
    DistillationConfig,
    EvaluationConfig,
    RuntimeConfig,
    SamplingConfig,
    TrainingConfig,
    replace,
)
from ddpm_ms.data import name_of
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.models import describe_model


def describe_run(diffusion: GaussianDiffusion, data: DataConfig, training: TrainingConfig, sampling: SamplingConfig,
                 runtime: RuntimeConfig, evaluation: EvaluationConfig, init: str | Path | None = None) -> Config:
    """The configuration that says the same as these objects; it travels inside every checkpoint."""
    return Config(runtime=runtime, model=describe_model(diffusion.model), diffusion=diffusion.config, data=data,
                  training=training, sampling=sampling, evaluation=evaluation, init=None if init is None else str(init),
                  distillation=getattr(diffusion, "distillation", None) or DistillationConfig())


def default_sampling(diffusion: GaussianDiffusion) -> SamplingConfig:
    """As the diffusion was told to sample, at most 50 steps where it was not."""
    steps, total = diffusion.sampling_timesteps, diffusion.num_timesteps
    return SamplingConfig(steps=steps if steps < total else min(50, total), eta=diffusion.ddim_sampling_eta)


def describe_data(source: Any, diffusion: GaussianDiffusion) -> DataConfig:
    """What can be said of data that came as a Python object or a path."""
    root = str(source) if isinstance(source, (str, Path)) else None
    name = "array" if root is None else name_of(root)
    return DataConfig(name=name, root=root, image_size=diffusion.image_size, channels=diffusion.channels)


def with_class_names(data: DataConfig, dataset: Any, num_classes: int | None) -> DataConfig:
    """``data`` with what ``dataset`` calls its classes, if the network takes any: who draws from the run uses these names."""
    names = tuple(map(str, getattr(dataset, "class_names", ()))) if num_classes else ()
    return replace(data, class_names=names) if names else data


def grid_captions(config: Config) -> list[str]:
    """What the images of a run's sample grid are called, of which image k has class k modulo their number."""
    count, classes = config.training.num_samples, config.model.num_classes
    return visual.class_captions([k % classes for k in range(count)], config.data.called(classes)) if classes else []
