"""From other projects' files to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Sequence


def convert(source: str | Path, run_dir: str | Path, *, recipe: str | Path | None = None, overrides: Sequence[str] = (),
            ema: bool = True, attention_order: Literal["old", "new"] | None = None) -> Path:
    """Make a run directory, which every command takes, of weights that another project trained.

    The recipe is what the files say, below that of ``recipe`` where it says something, below ``overrides``. It must settle the
    network, the objective, the schedule, the variance and the clipping: what nobody said is asked for by name.

    Args:
        source: a folder of diffusers; or a file of pytorch_diffusion or DDIM, guided-diffusion or P2-weighting,
            denoising-diffusion-pytorch.
        run_dir: a new directory.
        recipe: a YAML file, or the name of a recipe that comes with the package.
        overrides: ``section.key=value``, as for `ddpm_ms.load_config`.
        ema: averaged weights where the source has both, or those that the optimizer left.
        attention_order: of guided-diffusion with several heads, its flag ``use_new_attention_order``.

    Returns:
        ``run_dir``. It is written whole or not at all.

    Raises:
        InputError: the source is none, or damaged; it is of a network that is not here; something is not settled; a tensor is
            left over, missing or of another shape than the recipe's network has it; or ``run_dir`` exists.
    """
    raise NotImplementedError
