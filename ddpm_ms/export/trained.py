"""What a form is given: a run's weights and what they belong to; and how weights are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, NoReturn

import numpy as np
from safetensors.numpy import save

from ddpm_ms.checkpoints import Checkpoint, load_diffusion
from ddpm_ms.checkpoints.checkpoint import EMA_WEIGHTS, WEIGHTS
from ddpm_ms.config import Config
from ddpm_ms.diffusion.schedules import NoiseSchedule, schedule_of
from ddpm_ms.diffusion.variances import variance_of
from ddpm_ms.errors import InputError, shown


@dataclass(frozen=True)
class Trained:
    """The weights of a checkpoint, averaged (``ema``) or as the optimizer left them, and its recipe."""

    checkpoint: Checkpoint
    config: Config
    ema: bool

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights as they are stored, by our names; nobody has said that they are those of the network."""
        return self.checkpoint.arrays(EMA_WEIGHTS if self.ema else WEIGHTS)

    def weights(self) -> dict[str, np.ndarray]:
        """The weights of the network that the recipe describes, float32, by our names; `InputError` if they are another's."""
        diffusion, _ = load_diffusion(self.checkpoint.path, ema=self.ema)
        return {name: parameter.asnumpy() for name, parameter in diffusion.model.parameters_and_names()}

    @property
    def schedule(self) -> NoiseSchedule:
        """Of the process."""
        return schedule_of(self.config.diffusion)

    @property
    def variance(self) -> str:
        """Of the reverse process, as the run samples: "fixed_small", "fixed_large" or "learned"."""
        return variance_of(self.config.sampling.variance or self.config.diffusion.variance, self.config.model.learned_variance)

    def __str__(self) -> str:
        return f"{'averaged' if self.ema else 'raw'} weights of step {self.checkpoint.step}"


@dataclass(frozen=True)
class Target:
    """A form of export.

    Attributes:
        write: makes the file or the folder at a path that is not there yet, and returns what is to be said of it. Its
            keyword-only parameters are options of `ddpm_ms.export.export_run` that it takes.
        ending: of the file; empty where it is a folder.
    """

    write: Callable[..., str]
    ending: str = ""

    def __call__(self, trained: Trained, path: Path, **options: Any) -> str:
        """`write`."""
        return self.write(trained, path, **options)


def refuse(key: str, value: object, who: str, allowed: object) -> NoReturn:
    """Raise `InputError`: ``who`` cannot have this value of a key of the recipe."""
    raise InputError(f"{key} is {shown(value)}, which {who} does not know, allowed: {allowed}")


def save_weights(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, readable by whom the umask lets (the library's own way keeps others from reading)."""
    path.write_bytes(save({name: np.asarray(array, order="C") for name, array in arrays.items()}, dict(metadata)))
