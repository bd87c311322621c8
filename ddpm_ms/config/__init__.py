"""Configurations: what can be set, and the recipes that set it."""

from ddpm_ms.config.recipes import (
    config_from_dict,
    config_of_run,
    differences,
    load_config,
    load_run_config,
    nearest_valid_sizes,
    override_config,
    override_section,
    replace,
    to_dict,
    to_yaml,
)
from ddpm_ms.config.sections import (
    NETWORKS,
    Config,
    CustomConfig,
    DataConfig,
    Device,
    DiffusionConfig,
    DistillationConfig,
    ImageSize,
    NetworkConfig,
    RuntimeConfig,
    SamplingConfig,
    Section,
    SimpleUnetConfig,
    TimestepSampling,
    TinyUnetConfig,
    TrainingConfig,
    UnetConfig,
    Variance,
    section_of,
)

__all__ = [
    "NETWORKS", "Config", "CustomConfig", "DataConfig", "Device", "DiffusionConfig", "DistillationConfig",
    "ImageSize", "NetworkConfig", "RuntimeConfig", "SamplingConfig", "Section", "SimpleUnetConfig",
    "TimestepSampling", "TinyUnetConfig", "TrainingConfig", "UnetConfig", "Variance", "config_from_dict",
    "config_of_run", "differences", "load_config", "load_run_config", "nearest_valid_sizes", "override_config",
    "override_section", "replace", "section_of", "to_dict", "to_yaml",
]
