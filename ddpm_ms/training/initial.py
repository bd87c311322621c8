"""The weights that a new run begins with, where these are not random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindspore import nn

from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.errors import InputError


def begin_with(model: nn.Cell, init: str | None, run_dir: Path) -> dict[str, Any]:
    """Give ``model`` the averaged weights of ``init``, a run directory or a checkpoint, unless ``run_dir`` has checkpoints: a run
    that is resumed begins with its own.

    Returns:
        Which weights they are, as events.jsonl says it; nothing where none were taken.

    Raises:
        InputError: there are none, or they are another network's: the first parameter that does not fit. Nothing was set.
    """
    if init is None or checkpoint.in_run(run_dir):
        return {}
    found = checkpoint.find(Path(init))
    theirs, ours = found.arrays(checkpoint.EMA_WEIGHTS), dict(model.parameters_and_names())
    problem = checkpoint.misfit(ours, theirs)
    if problem:
        raise InputError(f"init {found.path} does not fit the network: {problem}, allowed: a run of the same network")
    checkpoint.set_parameters(ours, theirs, f"init {found.path}")
    return {"checkpoint": str(found.path), "sha256": found.state["sha256"][checkpoint.EMA_WEIGHTS]}
