"""Taking up a run where its newest good checkpoint left it."""

from __future__ import annotations

import logging
from pathlib import Path

from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import Config, differences
from ddpm_ms.errors import InputError
from ddpm_ms.training.learning_rate import base_rate
from ddpm_ms.training.run_directory import NEW_IN_A_PHASE, RunDirectory
from ddpm_ms.visual import runs

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
        unlike = differences(found.config, config, but=NEW_IN_A_PHASE)
        if unlike:
            raise InputError(f"checkpoint {found.path} comes from another configuration ({'; '.join(unlike)})")
        return found
    if damaged:
        raise checkpoint.DamagedCheckpoint(
            f"no checkpoint of {run_dir} can be used ({'; '.join(damaged)}), allowed: one that can, or none (delete them, and "
            "the run begins again)")
    return None


def phases_until(found: checkpoint.Checkpoint, train_lr: float, directory: RunDirectory) -> list[runs.Phase]:
    """The phases of a run that goes on from the checkpoint ``found`` with ``train_lr``. If that is another rate than the run was
    left with, a phase begins here, and is recorded.

    Raises:
        InputError: it cannot be recorded.
    """
    phases = runs.phases(runs.read_events(directory.path))
    left_with = phases[-1].new if phases else found.config.training.train_lr
    if train_lr == left_with:
        return phases
    old = base_rate(found.step, phases, left_with)
    directory.phase(found.step, old, train_lr)
    log.info("a new phase: training.train_lr is %g from here on, not %g", train_lr, old)
    return [*(phase for phase in phases if phase.step < found.step), runs.Phase(found.step, old, train_lr)]
