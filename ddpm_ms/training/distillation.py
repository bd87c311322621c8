"""A chain of runs, each of which learns to do in one step what the run before does in two."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Sequence

import numpy as np

from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import Config, RuntimeConfig, SamplingConfig, override_config, replace
from ddpm_ms.data import create_dataset
from ddpm_ms.distillation import SPACING, Distillation
from ddpm_ms.errors import InputError, check_range, shown
from ddpm_ms.models import create_model
from ddpm_ms.progress import heard
from ddpm_ms.runtime import Runtime, ranks
from ddpm_ms.training.stopping import StopRequest
from ddpm_ms.training.trainer import Trainer

log = logging.getLogger("ddpm_ms")

# What a student may have otherwise than its teacher. Not runtime.compile_cache: the order of the graphs of a process depends on
# how many stages were finished before it.
FREE = ("training.", "data.", "evaluation.", "runtime.device", "runtime.mode", "diffusion.loss",
        "diffusion.p2_loss_weight", "diffusion.min_snr", "diffusion.normalize_loss_weight")
# A student begins nearly right: a stage is a tenth as long as the teacher's training (and at least so many steps), at a tenth of
# its learning rate. At the whole rate the first steps undo more than a short stage mends.
TENTH, MIN_STEPS = 10, 300


def distill(teacher: str | Path, steps: int, to: int | None = None, run_dir: str | Path | None = None,
            overrides: Sequence[str] = (), runtime: Runtime | None = None) -> Path:
    """Train students of ``steps``, steps / 2, ... ``to`` steps, each from the averaged weights of the one before.

    A stage is a run directory, trained by `Trainer`. The same call again passes over finished stages and resumes the one that
    was interrupted; a signal ends the chain as it ends a run.

    Args:
        teacher: run directory or checkpoint of the first teacher, which is sampled with twice ``steps`` steps.
        steps, to: of the first and the last student; default: one student.
        run_dir: where the stages go, as ``steps_0064``. Default: runs/NAME_distilled.
        overrides: ``section.key=value``, changes to the recipe of `student_config` for all students.
        runtime: what `runtime.setup` returned.

    Returns:
        The run directory of the last stage that was worked on.

    Raises:
        InputError: an argument is not allowed or the teacher cannot be distilled.
    """
    counts = halvings(steps, steps if to is None else to)
    first = checkpoint.load_diffusion(teacher)[1]
    taught = first.config.distillation.steps
    if taught is not None and 2 * steps != taught:
        raise InputError(f"steps is {steps}, allowed with {teacher}, itself a student of {taught} steps: half of these")
    config = student_config(first, overrides)
    run_dir = Path(run_dir or Path("runs", f"{first.path.resolve().parents[1].name}_distilled"))
    dataset = create_dataset(config.data)
    with heard(), StopRequest() as stop:  # between stages, where no `Trainer` listens
        for number, count in enumerate(counts, 1):
            diffusion = _student(config, teacher, count)
            trainer = Trainer(diffusion, dataset, results_folder=run_dir / f"steps_{count:04d}", data=config.data,
                              sampling=replace(config.sampling, steps=count), runtime=runtime, evaluation=config.evaluation,
                              config=config.training)
            if _any_rank(stop.requested is not None, trainer):
                break
            if trainer.runtime.rank == 0:
                log.info("stage %d of %d: %d steps of %s become %d", number, len(counts), 2 * count, teacher, count)
            teacher = trainer.train()
            # Every rank waits here for what rank 0 has saved.
            if _any_rank(trainer.stop_requested or trainer.step < trainer.total_steps, trainer):
                break
    return Path(teacher)


def _any_rank(ended: bool, trainer: Trainer) -> bool:
    return bool(ranks.gather(np.array([ended], np.int32), trainer.runtime).any())


def halvings(steps: int, to: int) -> list[int]:
    """``steps``, steps / 2, ... ``to``; raises `InputError` if halving does not lead there."""
    counts = [int(check_range("steps", steps, 1))]
    while counts[-1] % 2 == 0:
        counts.append(counts[-1] // 2)
    if to not in counts:
        raise InputError(f"to is {to}, allowed with steps={steps}, which is halved: {', '.join(map(str, counts))}")
    return counts[:counts.index(to) + 1]


def student_config(teacher: checkpoint.Checkpoint, overrides: Sequence[str] = ()) -> Config:
    """The recipe of students: that of the teacher, but for the following, and then ``overrides``.

    A tenth of the optimizer steps that the teacher has behind it (at least 300), with a learning rate that falls from a tenth of
    the teacher's to 0 in each stage and no warm-up; max(SNR, 1) on the error of x0 (arXiv:2202.00512, sections 4 and 5);
    sampled by DDIM. Of a teacher that is a student itself length and rate are taken as they are.

    Raises:
        InputError: an override is unknown, or of a key that a student has from its teacher.
    """
    before = teacher.config
    training = before.training
    if before.distillation.steps is None:
        training = replace(training, train_num_steps=max(teacher.step // TENTH, MIN_STEPS), train_num_epochs=None,
                                       train_lr=training.train_lr / TENTH, lr_schedule="cosine", lr_warmup_steps=0)
    config = before.model_copy(update=dict(
        runtime=RuntimeConfig(), training=training,
        diffusion=replace(before.diffusion, loss_weight="truncated_snr", p2_loss_weight_gamma=None),
        sampling=SamplingConfig(sampler="ddim", spacing=SPACING, clip_x_start=before.sampling.clip_x_start,
                                seed=before.sampling.seed)))
    config = override_config(config, overrides)
    for override in overrides:
        if not override.startswith(FREE):
            raise InputError(f"override {shown(override)}, allowed in distillation: keys of training, data and evaluation, "
                             "and those of the loss in diffusion (the rest is the teacher's)")
    return config


def _student(config: Config, teacher: str | Path, steps: int) -> Distillation:
    """The process of one stage, its network as its teacher's average is."""
    diffusion, found = checkpoint.load_diffusion(teacher)
    weights = {name: parameter.asnumpy() for name, parameter in diffusion.model.parameters_and_names()}
    model = create_model(config.model, config.data.channels, config.data.image_size, config.diffusion.timesteps)
    checkpoint.set_parameters(dict(model.parameters_and_names()), weights, f"teacher {teacher}")
    return Distillation(model, diffusion.model, steps=steps, clip_x_start=config.sampling.clip_x_start, teacher_path=str(teacher),
                        sha256=found.state["sha256"][checkpoint.EMA_WEIGHTS], image_size=config.data.image_size,
                        config=config.diffusion)
