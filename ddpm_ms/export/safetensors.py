"""Our own names in one file, with the recipe beside them."""

from __future__ import annotations

from pathlib import Path

from ddpm_ms.config import to_yaml
from ddpm_ms.export.trained import Target, Trained, save_weights


def write(trained: Trained, path: Path) -> str:
    """The weights as this package names them; ``recipe`` in the metadata is the YAML that `ddpm_ms.load_config` reads."""
    save_weights(path, trained.arrays(), {"recipe": to_yaml(trained.config), "weights": str(trained)})
    return f"the parameters of model.name {trained.config.model.name}, the recipe in its metadata"


TARGET = Target(write, ".safetensors")
