"""The configuration that says the same as the Python objects of a run; it travels inside every checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ddpm_ms.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    DistillationConfig,
    ModelConfig,
    RuntimeConfig,
    SamplingConfig,
    config_from_dict,
    to_dict,
)
from ddpm_ms.data import name_of
from ddpm_ms.diffusion import GaussianDiffusion
from ddpm_ms.models import MODELS


def describe_run(diffusion: GaussianDiffusion, data: DataConfig, training: dict, sampling: SamplingConfig,
                 runtime: RuntimeConfig) -> Config:
    """The configuration that says the same as these objects; it travels inside every checkpoint."""
    def known(section: type, values: dict) -> dict:
        return {f.name: values[f.name] for f in dataclasses.fields(section) if f.name in values}

    # A subclass may compute something else under the same keywords.
    hparams = diffusion.model.hparams if type(diffusion.model) in MODELS.values() else {"name": "custom"}
    tree = to_dict(Config(runtime=runtime, data=data, sampling=sampling))
    tree.update(model=known(ModelConfig, hparams), training=training, diffusion=known(DiffusionConfig, diffusion.hparams),
                distillation=known(DistillationConfig, diffusion.hparams))
    return config_from_dict(json.loads(json.dumps(tree)))


def default_sampling(diffusion: GaussianDiffusion) -> SamplingConfig:
    """As the diffusion was told to sample, at most 50 steps where it was not."""
    steps, total = diffusion.sampling_timesteps, diffusion.num_timesteps
    return SamplingConfig(steps=steps if steps < total else min(50, total), eta=diffusion.ddim_sampling_eta)


def describe_data(source: Any, diffusion: GaussianDiffusion) -> DataConfig:
    """What can be said of data that came as a Python object or a path."""
    root = str(source) if isinstance(source, (str, Path)) else None
    name = "array" if root is None else name_of(root)
    return DataConfig(name=name, root=root, image_size=diffusion.image_size, channels=diffusion.channels)
