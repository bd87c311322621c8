"""Taking up a run where its newest good checkpoint left it."""

from __future__ import annotations

import logging
from pathlib import Path

from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import Config, differences
from ddpm_ms.errors import InputError

log = logging.getLogger("ddpm_ms")


def newest_good(run_dir: Path, config: Config) -> checkpoint.Checkpoint | None:
    """The newest checkpoint of the run that is not damaged; None if the run has none. Damaged ones are reported and passed over.

    Raises:
        InputError: it comes from another configuration than ``config``, or (`DamagedCheckpoint`) all are damaged: nothing begins
            again unasked.
    """
    damaged = []
    for found in checkpoint.latest(run_dir):
        if isinstance(found, checkpoint.DamagedCheckpoint):
            damaged.append(str(found))
            continue
        for problem in damaged:
            log.warning("%s; using the one before", problem)
        unlike = differences(found.config, config)
        if unlike:
            raise InputError(f"checkpoint {found.path} comes from another configuration ({'; '.join(unlike)})")
        return found
    if damaged:
        raise checkpoint.DamagedCheckpoint(
            f"no checkpoint of {run_dir} can be used ({'; '.join(damaged)}), allowed: one that can, or none (delete them, and "
            "the run begins again)")
    return None
