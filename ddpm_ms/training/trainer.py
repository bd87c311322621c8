"""`Trainer`: the loop around `TrainStep`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, Callable, Iterator

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ddpm_ms import runtime as rt
from ddpm_ms.config import (
    DataConfig,
    EvaluationConfig,
    RuntimeConfig,
    SamplingConfig,
    TrainingConfig,
    replace,
    resolve_precision,
    section_of,
    to_dict,
)
from ddpm_ms.data import as_dataset, prefetch, split
from ddpm_ms.errors import InputError, TrainingError
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.models import num_parameters
from ddpm_ms.models.precision import set_precision
from ddpm_ms.models.recomputation import set_recompute
from ddpm_ms.ops.muon import Muon
from ddpm_ms.progress import heard, progress
from ddpm_ms.runtime import ranks
from ddpm_ms.training.batches import BatchSource, MicroBatch
from ddpm_ms.training.checks import check_labels, check_run, count_steps
from ddpm_ms.training.compilation import Compilation
from ddpm_ms.training.description import default_sampling, describe_data, describe_run, grid_captions, with_class_names
from ddpm_ms.training.divergence import divergence, suspects
from ddpm_ms.training.ema import EMA
from ddpm_ms.training.evaluation import Evaluation
from ddpm_ms.training.initial import begin_with
from ddpm_ms.training.learning_rate import base_rate, learning_rate
from ddpm_ms.training.lock import alone
from ddpm_ms.training.loss_scale import LossScale
from ddpm_ms.training.metrics import Metrics
from ddpm_ms.training.progress import Progress
from ddpm_ms.training.resume import newest_good, phases_until
from ddpm_ms.training.run_directory import RunDirectory
from ddpm_ms.training.state import TrainingState
from ddpm_ms.training.stopping import StopRequest
from ddpm_ms.training.timesteps import TimestepSampler
from ddpm_ms.training.train_step import TrainStep
from ddpm_ms.training.validation import Validation
from ddpm_ms.visual.runs import Phase

log = logging.getLogger("ddpm_ms")


class Trainer:
    """Train a diffusion and leave a run directory behind; the same call again resumes it.

    Every count is in optimizer steps. Each ``save_and_sample_every`` steps, and after the last one, it writes a
    checkpoint and a grid of samples drawn with the averaged weights. An interrupted run that is started again ends with
    the same weights, bit for bit, as one that was not interrupted (on one device of the same kind). On any number of
    devices the numbers are the same, to the rounding of float32 sums.

    After `train` the diffusion has the averaged weights, as `ddpm_ms.load_diffusion` gives them: it draws better with them. Those
    that the optimizer left it has within ``trainer.ema.withdrawn()``, and from ``load_diffusion(run, ema=False)``; if `train` is
    called again, it goes on with them.

    Args:
        diffusion: what to train.
        folder_or_dataset: a folder of images, a .npy or .npz file, an array, a data set of `ddpm_ms.data`, a
            ``mindspore.dataset`` object, or any iterable of images (C, H, W) in [0, 1].
        results_folder: the run directory; `RunDirectory` says what it holds.
        sampling: how the sample grid is drawn. Default: the diffusion's ``sampling_timesteps`` and eta if it has fewer than
            all, else 50 steps of DDIM.
        data: where the images come from, for the record in the checkpoint.
        runtime: what `runtime.setup` returned. Default: one process on MindSpore's current device.
        compile_cache: keep compiled graphs for the next start; None: where the cache knows all that they depend on.
        evaluation: whether and how samples are measured on the way; `ddpm_ms.config.EvaluationConfig` explains it. Default: not.
        init: a run directory or a checkpoint whose averaged weights the run begins with, if it does not resume.
        new_phase: let a run that resumes have another ``train_lr`` from here on; events.jsonl records it.
        config: the optimisation as a section, instead of keywords.
        keywords: those of `ddpm_ms.config.TrainingConfig`, which explains them: train_batch_size, train_lr, train_num_steps, ...

    Raises:
        InputError: a value is not allowed, or ``results_folder`` holds another run.
        TrainingError: from `train`, when the loss diverged or checkpoints cannot be written.
    """

    def __init__(self, diffusion: GaussianDiffusion, folder_or_dataset: Any, *, results_folder: str | Path = "./results",
                 sampling: SamplingConfig | None = None, data: DataConfig | None = None, runtime: rt.Runtime | None = None,
                 compile_cache: bool | None = False, evaluation: EvaluationConfig | None = None, init: str | Path | None = None,
                 new_phase: bool = False, config: TrainingConfig | None = None, **keywords: Any) -> None:
        training = section_of(TrainingConfig, config, keywords)
        precision, amp_level = resolve_precision(training.precision, training.amp_level)
        self.diffusion, self.model = diffusion, diffusion.model
        self.runtime = runtime or rt.current()
        self.dataset = as_dataset(folder_or_dataset, diffusion.image_size, diffusion.channels)
        data = with_class_names(data or describe_data(folder_or_dataset, diffusion), self.dataset, diffusion.num_classes)
        self.config = describe_run(diffusion, data, replace(training, precision=precision, amp_level=amp_level),
                                   sampling or default_sampling(diffusion),
                                   RuntimeConfig(compile_cache=compile_cache),
                                   evaluation or EvaluationConfig(), init)
        c, world = self.config.training, self.runtime.world

        # What can be wrong is said before anything is built or written.
        check_labels(self.model, self.dataset)
        if c.validation_images:
            self.dataset, held_out = split(self.dataset, c.validation_images, c.seed)
        check_run(self.config, diffusion, self.dataset, world)
        self.evaluation = None
        if self.config.evaluation.every is not None:
            self.evaluation = Evaluation(self.config, self.dataset, self.runtime, self._leave_evaluation)
        self.run_dir = Path(results_folder)
        self.directory = RunDirectory(self.run_dir, world, writes=self.runtime.rank == 0)
        ranks.on_rank_0(lambda: self.directory.check(self.config, new_phase), self.runtime)
        self._begun_with: dict[str, Any] = {}  # rank 0 alone knows: the others receive its weights
        ranks.on_rank_0(lambda: self._begun_with.update(begin_with(self.model, self.config.init, self.run_dir)), self.runtime)

        # Data, network, optimizer, average, noise levels: everything that `TrainStep` is made of or fed with.
        self.validation = None
        if c.validation_images:
            self.validation = Validation(diffusion, held_out, c.train_batch_size // world, c.seed, self.runtime)
        self.batches = BatchSource(
            self.dataset, c.train_batch_size // world, c.gradient_accumulate_every, c.seed, self.runtime.rank, world,
            c.augment_horizontal_flip, getattr(self.model, "dropout", 0) > 0, getattr(self.model, "num_classes", None),
            c.label_dropout, diffusion.draw_noise)
        self.total_steps = count_steps(c, self.dataset, self.batches.images_per_step)
        set_precision(self.model, precision, amp_level)
        if c.recompute:
            set_recompute(self.model)
        optimizer = (Muon if c.optimizer == "muon" else nn.Adam)(self.model.trainable_params(), c.train_lr, *c.adam_betas)
        self.ema = EMA(self.model, c.ema_decay, c.ema_update_every, c.ema_sigma_rel, diffusion)
        self.timesteps = TimestepSampler(c.timestep_sampling, diffusion.num_timesteps, c.seed, diffusion.schedule.snr)
        self.state = TrainingState(self.model, self.ema, optimizer, self.timesteps, LossScale.for_precision(precision))
        self.train_step = TrainStep(diffusion, optimizer, self.ema, c.gradient_accumulate_every, c.max_grad_norm,
                                    c.weight_decay, world)
        self.metrics = Metrics(self.run_dir / "metrics.jsonl", diffusion.num_timesteps, self.runtime)

        # What one call of `train` goes through.
        self.validation_loss: float | None = None  # at the current step, if it is one that is saved
        self._stop = StopRequest()
        self._compilation = Compilation(self.config, diffusion, self.train_step, world)
        self._progress = Progress(self.total_steps, c.log_every, self.runtime.device, self.runtime.rank == 0)
        self._phases: list[Phase] = []
        self._first_step = 0
        self._saved_step = self._evaluated_step = -1
        self._has_drawn = False

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.state.step

    @property
    def stop_requested(self) -> bool:
        """Whether a signal has asked this rank to end `train`."""
        return self._stop.requested is not None

    def train(self) -> Path:
        """Train to the end, from the newest good checkpoint if there is one. Returns the run directory.

        SIGTERM or SIGINT (Ctrl-C) end training after the step, with a checkpoint; then `step` is less than `total_steps`.

        Raises:
            InputError: another process trains in the run directory.
            TrainingError: the loss diverged, or checkpoints cannot be written.
        """
        with heard(), alone(self.run_dir, self.runtime):
            self.describe()
            with self.directory.logging(), StopRequest() as self._stop, self._averaged_afterwards():
                self._train()
        return self.run_dir

    def _train(self) -> None:
        if self.runtime.rank == 0:
            images = f", {len(self.dataset):,} images" if hasattr(self.dataset, "__len__") else ""
            log.info("training %s: %s parameters%s", self.run_dir, f"{num_parameters(self.model):,}", images)
        self.resume()
        if self._begun_with and self.step == 0:
            self.directory.event("initialised", 0, **self._begun_with)
            log.info("beginning with the averaged weights of %s", self._begun_with["checkpoint"])
        if not self._is_finished:
            with self._recorded():
                self._loop()
        if not self._is_finished:
            by = self._stop.requested if self.runtime.world == 1 else "a signal to the job"
            self.directory.event("stopped", self.step, by=by)
            log.warning("%s: stopped at step %d of %d, as asked; resume with the same command", self.run_dir, self.step,
                        self.total_steps)
        else:
            self.directory.finish(self.step)
            log.info("%s is finished: %d of %d steps", self.run_dir, self.step, self.total_steps)

    @contextlib.contextmanager
    def _averaged_afterwards(self) -> Iterator[None]:
        """Whoever draws after the block draws with the averaged weights."""
        try:
            yield
        finally:
            self.ema.use(True)

    def _loop(self) -> None:
        """Every step from here to the end, or to a request to stop."""
        c = self.config.training
        self.diffusion.set_train(True)
        with self.directory.event_files(c.tensorboard, self.step), self._progress.shown(self.step), self._salvaged():
            if not self._evaluate():  # what the last start was asked to leave
                return
            for batches in prefetch(self.batches.step, range(self.step, self.total_steps)):
                # Forward, backward, reduce, unscale, clip, optimizer, EMA.
                stopping = self._one_step(batches)
                ended = self._epoch_that_ended()
                due = self._is_due(ended)
                # Validate: the row of this step has it.
                with self.metrics.paused():
                    self.validation_loss = self.validation.loss(self.ema) if due and self.validation else None
                # Log.
                self._progress.advance()
                if due or stopping or ended or self.step % c.log_every == 0:
                    self._log(ended)
                # Save, then sample and evaluate: whoever is killed at that has the checkpoint.
                with self.metrics.paused():
                    if due or stopping or self._evaluation_is_due:
                        self.save(last=stopping)
                    if due and (not stopping or self.step == self.total_steps):  # nobody would draw the last grid again
                        self.sample()
                if stopping or not self._evaluate():
                    return

    def _one_step(self, batches: list[MicroBatch]) -> bool:
        """Do the next step and count it; an overflow is tried again with a smaller loss scale. Returns whether any rank was
        asked to stop."""
        step, scale = self.step, self.state.loss_scale
        # What all ranks draw alike.
        coin = self.diffusion.self_condition and self.batches.self_condition(step)
        times, weights = self.timesteps.draw(step, self.batches.images_per_step)
        if step == self._first_step:
            self._compilation.begin(lambda coin: self._gradient(batches[0], coin, times, weights))
        rate, ema_rate = _scalar(self._learning_rate(step)), _scalar(self.ema.rate_at(step + 1))
        for attempt in range(1, self.config.training.max_skipped_steps + 1):
            # Forward and backward of each micro-batch, into one float32 accumulator.
            losses = [self._gradient(batch, coin, times, weights) for batch in batches]
            # Mean over the ranks, unscale, check, clip, optimizer, EMA; nothing of a gradient that is not finite is used.
            if self._stop.requested:
                self.train_step.ask_to_stop()
            finite, norm, stopping = self.train_step.update(rate, ema_rate, _scalar(scale.value))
            if bool(finite.asnumpy()):
                break
            self._skip(attempt, losses)
        scale.adjust(True)
        self.state.step += 1
        # Measure.
        own = np.concatenate([np.arange(b.samples.start, b.samples.stop) for b in batches])
        self.metrics.add(np.concatenate([x.asnumpy() for x in losses]), times[own],
                         None if weights is None else weights[own], float(norm.asnumpy()))
        if self.timesteps.weighted:
            self.timesteps.report(times, self._losses_of_all(losses))
        if step == self._first_step:
            self._compilation.end()
            self.metrics.restart_clock()
        return bool(stopping.asnumpy())

    def _gradient(self, batch: MicroBatch, coin: bool, times: np.ndarray, weights: np.ndarray | None) -> Tensor:
        """Accumulate the gradient of one micro-batch; its losses (B,)."""
        key = None if batch.dropout_key is None else Tensor(batch.dropout_key)
        classes = None if batch.classes is None else Tensor(batch.classes)
        weights = None if weights is None else Tensor(weights[batch.samples])
        return self.train_step.gradient(Tensor(batch.images), Tensor(times[batch.samples]), Tensor(batch.noise), coin, classes,
                                        key, weights, _scalar(self.state.loss_scale.value))

    def _skip(self, attempt: int, losses: list[Tensor]) -> None:
        """A step overflowed: halve the loss scale, or give up."""
        c, scale = self.config.training, self.state.loss_scale
        self.state.skipped_steps += 1
        if not scale.dynamic or attempt == c.max_skipped_steps:
            found = self._losses_of_all(losses)  # every rank comes here, because the gradient that all share is not finite
            images = suspects(self.dataset, found, self.step * self.batches.images_per_step, c.seed)
            raise divergence(self.step + 1, attempt, found, scale.value, self.metrics.last_loss, images)
        self.directory.event("skipped", self.step, loss_scale=scale.value)
        scale.adjust(False)

    def _losses_of_all(self, losses: list[Tensor]) -> np.ndarray:
        """The losses of the step's images over all ranks, in the order of the global batch."""
        return np.concatenate([ranks.gather(x.asnumpy(), self.runtime) for x in losses])

    def _learning_rate(self, step: int) -> float:
        c = self.config.training
        return learning_rate(step, base_rate(step, self._phases, c.train_lr), c.lr_schedule, c.lr_warmup_steps, self.total_steps)

    # Around the steps.

    def _epoch_that_ended(self) -> int | None:
        """The number of the epoch, from 1, that the last step completed, if it did. Streams have none."""
        if not hasattr(self.dataset, "__len__"):
            return None
        before, now = ((self.step - k) * self.batches.images_per_step // len(self.dataset) for k in (1, 0))
        return now if now > before else None

    def _is_due(self, ended: int | None) -> bool:
        """Whether to save and sample now."""
        every = self.config.training.save_and_sample_every
        return self.step == self.total_steps or (ended is not None if every == "epoch" else self.step % every == 0)

    @property
    def _evaluation_is_due(self) -> bool:
        """Whether one comes after the current step and was not done."""
        return (self.evaluation is not None and self._evaluated_step != self.step
                and self.evaluation.is_due(self.step, self.total_steps))

    @property
    def _is_finished(self) -> bool:
        return self.step >= self.total_steps and not self._evaluation_is_due

    def _log(self, ended: int | None) -> None:
        """End an interval: a row of metrics, shown wherever somebody may look."""
        state = self.state
        validation = {} if self.validation_loss is None else {"validation_loss": self.validation_loss}
        row = self.metrics.write(self.step, ended, state.epoch_loss, lr=self._learning_rate(self.step - 1),
                                 ema_decay=self.ema.decay_at(self.step), loss_scale=state.loss_scale.value,
                                 skipped_steps=state.skipped_steps, compile_seconds=self._compilation.seconds, **validation)
        self.directory.show(row)
        self._progress.show(row)

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """events.jsonl says where the block began, and why it failed, if it did."""
        self.directory.event("resumed" if self.step else "started", self.step, total_steps=self.total_steps)
        try:
            yield
        except (InputError, TrainingError) as error:
            self.directory.event("failed", self.step, reason=str(error))
            raise

    @contextlib.contextmanager
    def _salvaged(self) -> Iterator[None]:
        """What was done before an image that cannot be read is saved; of several ranks the others would know nothing of it."""
        try:
            yield
        except InputError:
            if self.runtime.world == 1 and self.step > self._saved_step:
                if self.metrics.pending:
                    self._log(None)
                self.save(last=True)
            raise

    # What a run leaves behind, and takes up again.

    def describe(self) -> None:
        """Write what describes the run into its directory."""
        ranks.on_rank_0(lambda: self.directory.describe(self.config, rt.environment(self.runtime)), self.runtime)

    def load(self, milestone: int | None = None) -> None:
        """What denoising-diffusion-pytorch calls to go on with a run. Here `train` does it by itself.

        Raises:
            InputError: always, with what to do instead.
        """
        raise InputError(f"Trainer.load({'' if milestone is None else milestone}), allowed: nothing, for train() resumes "
                         f"{self.run_dir} at its newest checkpoint; ddpm_ms.load_diffusion reads any other")

    def resume(self) -> None:
        """Bring all ranks to the newest good checkpoint of the run directory, if any. Damaged ones are reported and passed
        over. Only rank 0 reads files: the others may be on machines that do not see them."""
        self.ema.use(False)
        ranks.on_rank_0(self._load, self.runtime)
        self.state.share(self.runtime)
        told = ranks.broadcast_text(json.dumps([[dataclasses.astuple(phase) for phase in self._phases],
                                                [row["step"] for row in self.metrics.measured[-1:]]]), self.runtime)
        phases, evaluated = json.loads(told)
        self._phases = [Phase(*phase) for phase in phases]
        self._evaluated_step = evaluated[0] if evaluated else -1
        self.train_step.ask_to_stop(False)
        self._first_step = self._saved_step = self.step

    def _load(self) -> None:
        found = newest_good(self.run_dir, self.config)
        if found is not None:
            self.state.load(found)
            self._phases = phases_until(found, self.config.training.train_lr, self.directory)
            log.info("resuming %s at step %d", self.run_dir, self.step)
        self.metrics.rewind(self.step)

    def save(self, milestone: int | None = None, *, last: bool = False) -> None:
        """Write a checkpoint of the current step and delete those that ``keep_last`` does not cover, but not the best.

        If that fails, for want of space or rights, the last good one stays and training goes on to the next.

        Args:
            milestone: ignored: checkpoints are named by the step. Scripts for denoising-diffusion-pytorch pass one.
            last: training ends here, whatever the step.

        Raises:
            TrainingError: it failed several times in a row, or at the end.
        """
        if self.runtime.rank != 0 or self.step == self._saved_step:
            return
        c = self.config.training
        numbers = {**self.state.numbers(), "validation_loss": self.validation_loss, "seed": c.seed,
                   "data_position": self.step * self.batches.images_per_step, "config": to_dict(self.config),
                   "environment": rt.environment(self.runtime)}
        with self.ema.withdrawn():
            if self.directory.save(self.step, self.state.arrays(), numbers, c.keep_last, last or self.step == self.total_steps):
                self._saved_step = self.step

    def sample(self) -> None:
        """Draw the sample grid of the current step with the averaged weights, each rank its share, and the loss curve."""
        count, images = self.config.training.num_samples, None
        if count:
            with contextlib.suppress(_Stopped), self.ema.applied():
                images = np.concatenate(list(self._draw(count, count, self._stop_sampling)))
        self.directory.save_pictures(self.step, self.metrics.rows, images, grid_captions(self.config))

    def _evaluate(self) -> bool:
        """Measure what the averaged weights draw, if that is due; False where a request to stop came before the end of it."""
        if self.evaluation is None or not self._evaluation_is_due:
            return True
        self._compilation.forgo()
        # Batches of the size that sample grids have, so that they share a graph.
        at_once = self.config.training.num_samples or self.config.training.train_batch_size
        try:
            with self.metrics.paused(), self.ema.applied():
                scores = self.evaluation.scores(self._draw(self.evaluation.config.images, at_once, self._leave_evaluation))
        except _Stopped:
            return False
        self._evaluated_step = self.step
        row = self.metrics.measure(self.step, scores, self.evaluation.what)
        self.directory.show(row)
        self._progress.show_measured(row)
        return True

    def _draw(self, count: int, at_once: int, check: Callable[[], None]) -> Iterator[np.ndarray]:
        """Images 0 to ``count`` - 1 of the recipe's seed, round by round, on every rank; ``at_once`` in a round. ``check`` is
        called between transitions."""
        pipeline, shown = self.diffusion.pipeline, self.runtime.rank == 0
        shares = ranks.Shares(count, -(-at_once // self.runtime.world), self.runtime)
        if shown and not self._has_drawn:
            log.info("step %d: drawing %d images (the first time compiles)", self.step, count)
        self._has_drawn = True
        with progress(active=shown, what=f"drawing {count} images") as bar:

            def observe(done: int, transitions: int, x: Tensor) -> None:
                bar.total = shares.rounds * transitions
                bar.update(done > 0)
                check()

            def draw(numbers: range) -> np.ndarray:
                return pipeline.sample(len(numbers), self.config.sampling, first_index=numbers.start, callback=observe).images

            yield from shares.rows(draw)

    def _stop_sampling(self) -> None:
        # Other ranks would wait for this one's images.
        if self._stop.requested and self.runtime.world == 1 and self.step < self.total_steps:
            raise _Stopped

    def _leave_evaluation(self) -> None:
        # All ranks ask equally often, so all leave it together.
        if ranks.gather(np.array([self.stop_requested], np.int32), self.runtime).any():
            raise _Stopped


class _Stopped(Exception):
    """Leaves a sampler in the middle."""


def _scalar(value: float) -> Tensor:
    return Tensor(value, ms.float32)
