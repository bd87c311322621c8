"""`Distillation`: a student network whose one step learns to do what two steps of its teacher do."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from ddpm_ms.config import DistillationConfig
from ddpm_ms.diffusion.distillation import student_grid
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.sampling.spacing import sampling_steps

SPACING = "linspace"  # of its grids, the one of n steps is every second of the one of 2n


class Distillation(GaussianDiffusion):
    """A process whose network, the student, is trained on what a frozen network of the same process, the teacher, does
    (arXiv:2202.00512, algorithm 2).

    The student takes ``steps`` DDIM steps, the teacher two for each of them. From an image noised to a step t of the student
    the teacher goes to s by way of s', and the student's target is the x0 with which one DDIM step leads from t to s as well.
    Only the loss differs from that of `GaussianDiffusion`: what was trained is sampled, saved and loaded as any process.

    Args:
        model: the student.
        teacher: network of the same kind; its parameters are frozen, and no part of the student's.
        steps: of the student, 1 to T / 2.
        clip_x_start: whether the teacher's estimates are kept in [-1, 1], as they are when it is sampled.
        teacher_path, sha256: for the record: where the teacher is, and what identifies its weights.
        process: keywords of `GaussianDiffusion`: those that the teacher was trained with, but for the loss.

    Inputs:
        As for `GaussianDiffusion`. ``t`` in [0, T) stands for the student's next step at or above it, so a uniform t gives
        every step its due. With ``self_cond`` the teacher and the student are each conditioned on their own estimate at t; the
        teacher's second step is conditioned on its first, as in sampling.

    Raises:
        InputError: a keyword is not allowed, or this process cannot be distilled.
    """

    def __init__(self, model: nn.Cell, teacher: nn.Cell, *, steps: int, clip_x_start: bool = True,
                 teacher_path: str | None = None, sha256: str | None = None, **process: Any) -> None:
        super().__init__(model, **process)
        if self.objective == "pred_noise":
            raise InputError("objective is 'pred_noise', allowed in distillation: pred_v, pred_x0 (where no signal is left "
                             "x0 does not follow from the noise, and a student of few steps takes long steps from there)")
        if self.learned_variance:
            raise InputError("learned_variance is True, allowed in distillation: False (a student of DDIM steps has no variance)")
        check_range("steps (of the student, half of the teacher's)", steps, 1, self.num_timesteps // 2)
        self.distillation = DistillationConfig(teacher=teacher_path, sha256=sha256, steps=steps)
        self.sampling_timesteps, self.clip_x_start = steps, clip_x_start
        self.teacher = teacher
        for parameter in teacher.get_parameters():
            parameter.requires_grad = False
        start, middle, share = student_grid(self.schedule, sampling_steps(self.schedule, 2 * steps, SPACING))
        self.start, self.middle = Tensor(start, ms.int32), Tensor(middle, ms.int32)
        self.share = Tensor(share, ms.float32)
        self.gather = ops.Gather()

    def set_train(self, mode: bool = True) -> Distillation:
        """Training mode for the student alone."""
        super().set_train(mode)
        self.teacher.set_train(False)
        return self

    def losses(self, img: Tensor, t: Tensor, noise: Tensor, self_cond: bool = False, classes: Tensor | None = None,
               dropout_key: Tensor | None = None) -> Tensor:
        """Weighted loss of every image, (B,) float32; arguments as for the Cell."""
        middle, share = self.gather(self.middle, t, 0), self.process.entries(self.share, t)
        t = self.gather(self.start, t, 0)
        x = self.process.q_sample(self.normalize(img), t, noise)
        target = self.stop_gradient(self._target(x, t, middle, share, self_cond, classes))
        x_self_cond = self._own_estimate(x, t, classes, dropout_key) if self_cond else None
        output, _ = self._output(x, t, x_self_cond, classes, dropout_key)
        return self.loss.simple(output, target, t, self.process.predict_noise_from_start(x, t, target))

    def _target(self, x, t, middle, share, self_cond, classes):
        """The x0 (B, C, H, W) with which one DDIM step from ``x`` at ``t`` ends where the teacher's two by way of ``middle`` do:
        see `student_grid`."""
        before = self._teacher_start(x, t, None, classes) if self_cond else None
        first = self._teacher_start(x, t, before, classes)
        halfway = self.process.q_sample(first, middle, self.process.predict_noise_from_start(x, t, first))
        second = self._teacher_start(halfway, middle, first if self.self_condition else None, classes)
        return first + share * (second - first)

    def _teacher_start(self, x, t, x_self_cond, classes):
        output = self.cast(self.teacher(x, t, x_self_cond, classes, None), ms.float32)
        x_start = self.process.noise_and_start(output, x, t)[1]
        return self._clip(x_start) if self.clip_x_start else x_start
