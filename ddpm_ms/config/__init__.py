"""Configurations: what can be set, and the recipes that set it."""

from ddpm_ms.config.messages import choices
from ddpm_ms.config.precision import resolve_precision
from ddpm_ms.config.recipes import (
    config_from_dict,
    config_of_run,
    differences,
    load_config,
    load_over,
    load_recorded,
    load_run_config,
    nearest_valid_sizes,
    override_config,
    override_section,
    replace,
    to_dict,
    to_yaml,
)
from ddpm_ms.config.sections import (
    Config,
    CustomConfig,
    DataConfig,
    Device,
    DiffusionConfig,
    DistillationConfig,
    EvaluationConfig,
    ImageSize,
    NetworkConfig,
    RuntimeConfig,
    SamplingConfig,
    Section,
    TrainingConfig,
    Variance,
    network_section,
    section_of,
    setting,
)

__all__ = [
    "Config", "CustomConfig", "DataConfig", "Device", "DiffusionConfig", "DistillationConfig", "EvaluationConfig", "ImageSize",
    "NetworkConfig", "RuntimeConfig", "SamplingConfig", "Section", "TrainingConfig", "Variance", "choices", "config_from_dict",
    "config_of_run", "differences", "load_config", "load_over", "load_recorded", "load_run_config", "nearest_valid_sizes",
    "network_section",
    "override_config", "override_section", "replace", "resolve_precision", "section_of", "setting", "to_dict", "to_yaml",
]
