"""`Trainer`: the loop around `TrainStep`, with everything a run leaves behind."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ddpm_ms import collectives, visual
from ddpm_ms import runtime as rt
from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import (
    DataConfig,
    RuntimeConfig,
    SamplingConfig,
    TrainingConfig,
    differences,
    load_run_config,
    replace,
    section_of,
    to_dict,
    to_yaml,
)
from ddpm_ms.data import as_dataset, describe, prefetch, split
from ddpm_ms.errors import InputError, TrainingError
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.models.precision import resolve_precision, set_precision
from ddpm_ms.models.recomputation import set_recompute
from ddpm_ms.parts import LOSS_WEIGHTS, NETWORKS
from ddpm_ms.training.batches import BatchSource, MicroBatch
from ddpm_ms.training.description import default_sampling, describe_data, describe_run
from ddpm_ms.training.ema import EMA
from ddpm_ms.training.event_files import EventFiles, check_installed
from ddpm_ms.training.files import log_to, write_whole
from ddpm_ms.training.learning_rate import learning_rate
from ddpm_ms.training.loss_scale import LossScale
from ddpm_ms.training.metrics import Metrics
from ddpm_ms.training.state import TrainingState
from ddpm_ms.training.stopping import StopRequest
from ddpm_ms.training.timesteps import TimestepSampler
from ddpm_ms.training.train_step import TrainStep
from ddpm_ms.training.validation import Validation

log = logging.getLogger("ddpm_ms")

MAX_SAVE_FAILURES = 3  # checkpoints in a row that could not be written, before the run stops


class Trainer:
    """Train a diffusion and leave a run directory behind; the same call again resumes it.

    Every count is in optimizer steps. Each ``save_and_sample_every`` steps, and after the last one, it writes a
    checkpoint and a grid of samples drawn with the averaged weights. An interrupted run that is started again ends with
    the same weights, bit for bit, as one that was not interrupted (on one device of the same kind). On any number of
    devices the numbers are the same, to the rounding of float32 sums.

    Args:
        diffusion: what to train.
        folder_or_dataset: a folder of images, a .npy or .npz file, an array, a data set of `ddpm_ms.data`, a
            ``mindspore.dataset`` object, or any iterable of images (C, H, W) in [0, 1].
        results_folder: the run directory.
        sampling: how the sample grid is drawn. Default: the diffusion's ``sampling_timesteps`` and eta if it has fewer than
            all, else 50 steps of DDIM.
        data: where the images come from, for the record in the checkpoint.
        runtime: what `runtime.setup` returned. Default: one process on MindSpore's current device.
        compile_cache: keep compiled graphs for the next start.
        config: the optimisation as a section, instead of keywords.
        keywords: those of `ddpm_ms.config.TrainingConfig`, which explains them: train_batch_size, train_lr, train_num_steps, ...

    Raises:
        InputError: a value is not allowed, or ``results_folder`` holds another run.
        TrainingError: from `train`, when the loss diverged or checkpoints cannot be written.
    """

    def __init__(self, diffusion: GaussianDiffusion, folder_or_dataset: Any, *, results_folder: str | Path = "./results",
                 sampling: SamplingConfig | None = None, data: DataConfig | None = None, runtime: rt.Runtime | None = None,
                 compile_cache: bool = False, config: TrainingConfig | None = None, **keywords: Any) -> None:
        training = section_of(TrainingConfig, config, keywords)
        precision, amp_level = resolve_precision(training.precision, training.amp_level)
        self.diffusion, self.model = diffusion, diffusion.model
        self.runtime = runtime or rt.current()
        self.dataset = as_dataset(folder_or_dataset, diffusion.image_size, diffusion.channels)
        self.run_dir = Path(results_folder)
        self.config = describe_run(diffusion, data or describe_data(folder_or_dataset, diffusion),
                                   replace(training, precision=precision, amp_level=amp_level),
                                   sampling or default_sampling(diffusion),
                                   RuntimeConfig(compile_cache=compile_cache, cpu_math=self.runtime.cpu_math))
        c, world = self.config.training, self.runtime.world
        self._check_labels()
        if c.validation_images:
            self.dataset, held_out = split(self.dataset, c.validation_images, c.seed)
        self._check()
        self.validation = None
        if c.validation_images:
            self.validation = Validation(diffusion, held_out, c.train_batch_size // world, c.seed, self.runtime)
        self.batches = BatchSource(
            self.dataset, c.train_batch_size // world, c.gradient_accumulate_every, c.seed, self.runtime.rank, world,
            c.augment_horizontal_flip, getattr(self.model, "dropout", 0) > 0, getattr(self.model, "num_classes", None),
            c.label_dropout)
        self.total_steps = self._total_steps()
        set_precision(self.model, c.precision, c.amp_level)
        if c.recompute:
            set_recompute(self.model)
        optimizer = nn.Adam(self.model.trainable_params(), c.train_lr, *c.adam_betas)
        self.ema = EMA(self.model, c.ema_decay, c.ema_update_every, c.ema_sigma_rel)
        self.timesteps = TimestepSampler(c.timestep_sampling, diffusion.num_timesteps, c.seed, diffusion.schedule.snr)
        self.state = TrainingState(self.model, self.ema, optimizer, self.timesteps, LossScale.for_precision(c.precision))
        self.train_step = TrainStep(diffusion, optimizer, self.ema, c.gradient_accumulate_every, c.max_grad_norm,
                                    c.weight_decay, world)
        self.metrics = Metrics(self.run_dir / "metrics.jsonl", diffusion.num_timesteps, self.runtime)
        self.validation_loss: float | None = None  # at the current step, if it is one that is saved
        self._stop = StopRequest()
        self._saved_step: int | None = None
        self._save_failures = 0
        self._events: EventFiles | None = None

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
        """
        self._open_run()
        with log_to(self.run_dir / "log.txt", self.runtime.rank == 0), StopRequest() as self._stop:
            if self.runtime.rank == 0:
                log.info("training %s", self.run_dir)
            self.resume()
            if self.step < self.total_steps:
                with self._event_files():
                    self._loop()
            if self.step < self.total_steps:
                log.warning("%s: stopped at step %d of %d by %s; resume with the same command", self.run_dir, self.step,
                            self.total_steps, self._stop.requested or "another rank")
            else:
                log.info("%s is finished: %d of %d steps", self.run_dir, self.step, self.total_steps)
        return self.run_dir

    @contextlib.contextmanager
    def _event_files(self) -> Iterator[None]:
        """Within the block there are event files for TensorBoard, if they are asked for."""
        if self.runtime.rank != 0 or not self.config.training.tensorboard:
            yield
            return
        self._events = EventFiles(self.run_dir / "tensorboard", self.step)
        try:
            yield
        finally:
            self._events.close()
            self._events = None

    def _loop(self) -> None:
        """Every step from here to the end, or to a request to stop."""
        self.diffusion.set_train(True)
        # A bar where somebody looks, lines where a file does.
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step",
                   disable=self.runtime.rank != 0 or not rt.stderr_is_terminal())
        with bar, logging_redirect_tqdm():
            try:
                for batches in prefetch(self.batches.step, range(self.step, self.total_steps)):
                    stopping = self._one_step(batches)
                    bar.update()
                    self._after_step(bar, stopping)
                    if stopping:
                        return
            except InputError:  # the data broke
                if self.runtime.world == 1 and self.step > self._saved_step:  # other ranks would know nothing of it
                    if self.metrics.pending:
                        self._log(bar, None)
                    self.save(last=True)
                raise

    def _after_step(self, bar: tqdm, stopping: bool) -> None:
        """Log, save and sample where it is time to."""
        ended = self._epoch_that_ended()
        due = self._is_due(ended)
        paused = self.metrics.pause()
        self.validation_loss = self.validation.loss(self.ema) if due and self.validation else None
        self.metrics.resume(paused)
        if due or stopping or ended or self.step % self.config.training.log_every == 0:
            self._log(bar, ended)
        paused = self.metrics.pause()
        if due or stopping:
            self.save(stopping)
        if due and (not stopping or self.step == self.total_steps):  # nobody would draw the last grid again
            self.sample()
        self.metrics.resume(paused)

    def _is_due(self, ended: int | None) -> bool:
        """Whether to save and sample now."""
        every = self.config.training.save_and_sample_every
        return self.step == self.total_steps or (ended is not None if every == "epoch" else self.step % every == 0)

    def resume(self) -> None:
        """Bring all ranks to the newest good checkpoint of the run directory, if any. Damaged ones are reported and passed
        over. Only rank 0 reads files: the others may be on machines that do not see them."""
        collectives.on_rank_0(self._load_newest, self.runtime)
        self.state.share(self.runtime)
        self.train_step.ask_to_stop(False)
        self._first_step = self._saved_step = self.step

    def _load_newest(self) -> None:
        damaged = []
        for found in checkpoint.latest(self.run_dir):
            if isinstance(found, checkpoint.DamagedCheckpoint):
                damaged.append(str(found))
                continue
            for problem in damaged:
                log.warning("%s; using the one before", problem)
            unlike = differences(found.config, self.config)
            if unlike:
                raise InputError(f"checkpoint {found.path} comes from another configuration ({'; '.join(unlike)})")
            self.state.load(found)
            log.info("resuming %s at step %d", self.run_dir, self.step)
            break
        else:
            if damaged:
                raise checkpoint.DamagedCheckpoint(
                    f"no checkpoint of {self.run_dir} can be used ({'; '.join(damaged)}), allowed: one that can, or none (delete "
                    "them, and the run begins again)")
        self.metrics.rewind(self.step)

    def save(self, last: bool = False) -> None:
        """Write a checkpoint of the current step and delete those that ``keep_last`` does not cover, but not the best.

        If that fails, for want of space or rights, the last good one stays and training goes on to the next.

        Args:
            last: training ends here, whatever the step.

        Raises:
            TrainingError: it failed `MAX_SAVE_FAILURES` times in a row, or at the end.
        """
        if self.runtime.rank != 0 or self.step == self._saved_step:
            return
        numbers = {**self.state.numbers(), "validation_loss": self.validation_loss, "seed": self.config.training.seed,
                   "data_position": self.step * self.batches.images_per_step, "config": to_dict(self.config),
                   "environment": rt.environment(self.runtime)}
        try:
            checkpoint.save(self.run_dir / "checkpoints", self.step, self.state.arrays(), numbers)
        except OSError as error:
            return self._save_failed(error, last or self.step == self.total_steps)
        self._saved_step, self._save_failures = self.step, 0
        checkpoint.remove_old(self.run_dir, self.config.training.keep_last, self.step)

    def _save_failed(self, error: OSError, last: bool) -> None:
        self._save_failures += 1
        kept = [path.name for path in checkpoint.in_run(self.run_dir)[:1]]
        problem = (f"step {self.step}: the checkpoint could not be written ({error.strerror or error}); "
                   f"{kept[0] if kept else 'none'} is the last good one")
        if self._save_failures >= MAX_SAVE_FAILURES or last:
            raise TrainingError(f"{problem}. Failures in a row: {self._save_failures}, allowed: {MAX_SAVE_FAILURES - 1}, none at "
                                "the end. Make room and resume with the same command")
        log.error("%s; trying again at the next (failure %d of %d)", problem, self._save_failures, MAX_SAVE_FAILURES)

    def sample(self) -> None:
        """Draw the sample grid of the current step with the averaged weights, each rank its share, and the loss curve."""
        count, images = self.config.training.num_samples, None
        if count:
            pipeline = self.diffusion.pipeline

            def draw(numbers: range) -> np.ndarray:
                return pipeline.sample(len(numbers), self.config.sampling, first_index=numbers.start,
                                       callback=self._stop_sampling).images

            with contextlib.suppress(_Stopped), self.ema.applied():
                images = collectives.Shares(count, count, self.runtime).collect(draw)
        if self.runtime.rank != 0:
            return
        try:
            visual.save_loss_curve(self.metrics.rows, self.run_dir / "loss.png")
            if images is not None:
                visual.save_grid(images, self.run_dir / "samples" / f"step_{self.step:08d}.png")
                if self._events is not None:
                    self._events.picture("samples", np.asarray(visual.to_grid(images)), self.step)
        except OSError as error:
            log.warning("step %d: the pictures could not be written (%s)", self.step, error.strerror or error)

    def _stop_sampling(self, *progress: Any) -> None:
        # Other ranks would wait for this one's images.
        if self._stop.requested and self.runtime.world == 1 and self.step < self.total_steps:
            raise _Stopped

    # One optimizer step.

    def _one_step(self, batches: list[MicroBatch]) -> bool:
        """Do the next step and count it; an overflow is tried again with a smaller loss scale. Returns whether any rank was
        asked to stop."""
        c = self.config.training
        step, scale = self.step, self.state.loss_scale
        first, began = step == self._first_step, time.perf_counter()
        coin = self.diffusion.self_condition and self.batches.self_condition(step)
        times, weights = self.timesteps.draw(step, self.batches.images_per_step)
        if first:
            self._compile(batches[0], times, weights)
        rate = _scalar(self._learning_rate(step))
        ema_rate = _scalar(self.ema.rate_at(step + 1))
        for attempt in range(1, c.max_skipped_steps + 1):
            losses = [self._gradient(batch, coin, times, weights) for batch in batches]
            if self._stop.requested:
                self.train_step.ask_to_stop()
            finite, norm, stopping = self.train_step.update(rate, ema_rate, _scalar(scale.value))
            if bool(finite.asnumpy()):
                break
            self.state.skipped_steps += 1
            self._stop_if_hopeless(attempt, losses, scale)
            scale.adjust(False)
        scale.adjust(True)
        self.state.step += 1
        own = np.concatenate([np.arange(b.samples.start, b.samples.stop) for b in batches])
        self.metrics.add(np.concatenate([x.asnumpy() for x in losses]), times[own],
                         None if weights is None else weights[own], float(norm.asnumpy()))
        if self.timesteps.weighted:
            self.timesteps.report(times, self._losses_of_all(losses))
        if first:
            self._compiled(time.perf_counter() - began)
        return bool(stopping.asnumpy())

    def _gradient(self, batch: MicroBatch, coin: bool, times: np.ndarray, weights: np.ndarray | None) -> Tensor:
        key = None if batch.dropout_key is None else Tensor(batch.dropout_key)
        classes = None if batch.classes is None else Tensor(batch.classes)
        weights = None if weights is None else Tensor(weights[batch.samples])
        return self.train_step.gradient(Tensor(batch.images), Tensor(times[batch.samples]), Tensor(batch.noise), coin, classes,
                                        key, weights, _scalar(self.state.loss_scale.value))

    def _losses_of_all(self, losses: list[Tensor]) -> np.ndarray:
        """The losses of the step's images over all ranks, in the order of the global batch."""
        return np.concatenate([collectives.gather(x.asnumpy(), self.runtime) for x in losses])

    def _stop_if_hopeless(self, attempt: int, losses: list[Tensor], scale: LossScale) -> None:
        if scale.dynamic and attempt < self.config.training.max_skipped_steps:
            return
        found = self._losses_of_all(losses)  # every rank comes here, because the gradient that all share is not finite
        bad = np.flatnonzero(~np.isfinite(found))
        images = self._images_of_step(bad if len(bad) else range(len(found)))
        raise TrainingError(
            f"step {self.step + 1}: the gradient is not finite after {attempt} attempt(s), loss {float(found.mean())}, loss "
            f"scale {scale.value:g}, last finite loss {self.metrics.last_loss}, images {images}. No weight was changed and "
            "nothing was saved; lower train_lr or raise lr_warmup_steps")

    def _images_of_step(self, samples: Sequence[int]) -> str:
        """Which images of the data set stand at ``samples`` of the step's batch."""
        first = self.step * self.batches.images_per_step
        positions = [first + int(k) for k in samples]
        if hasattr(self.dataset, "indices"):
            positions = self.dataset.indices(positions, self.config.training.seed)
        more = f" and {len(positions) - 8} more" if len(positions) > 8 else ""
        return ", ".join(map(str, positions[:8])) + more

    def _compile(self, batch: MicroBatch, times: np.ndarray, weights: np.ndarray | None) -> None:
        """Compile in a fixed order: the compile cache counts, and a stall in mid-training would be worse."""
        if self.config.runtime.compile_cache and rt.is_compiling():
            self._cache = rt.CompileCache(to_dict(self.config))
        log.info("compiling (once per start)")
        if self.diffusion.self_condition:
            for coin in (False, True):
                self._gradient(batch, coin, times, weights)
            self.train_step.reset()

    def _compiled(self, seconds: float) -> None:
        if self._cache is not None:
            self._cache.seal()
        self.compile_seconds = seconds
        log.info("compiled, first step after %.1f s", seconds)
        self.metrics.restart_clock()

    # What is told.

    def _log(self, bar: tqdm, ended: int | None) -> None:
        """End an interval: a row of metrics, and a line or the bar's text."""
        rate, state = self._learning_rate(self.step - 1), self.state
        row = self.metrics.write(self.step, ended, state.epoch_loss, lr=rate, ema_decay=self.ema.decay_at(self.step),
                                 loss_scale=state.loss_scale.value, skipped_steps=state.skipped_steps,
                                 compile_seconds=self.compile_seconds, **self._validation_column())
        if self._events is not None:
            self._events.scalars(row)
        bar.set_postfix(loss=f"{row['loss']:.4f}")
        if self.runtime.rank != 0:
            return
        if self.validation_loss is not None:
            log.info("step %d/%d  validation loss %.5f", self.step, self.total_steps, self.validation_loss)
        if ended is not None:
            log.info("epoch %d: mean loss %.4f", ended, row["epoch_loss"])
        if bar.disable and (ended is None or self.step % self.config.training.log_every == 0):
            log.info("step %d/%d  loss %.4f  grad norm %.3f  lr %.2e  %.1f images/s", self.step, self.total_steps,
                     row["loss"], row["grad_norm"], rate, row["images_per_second"])

    def _validation_column(self) -> dict[str, float]:
        return {} if self.validation_loss is None else {"validation_loss": self.validation_loss}

    def _learning_rate(self, step: int) -> float:
        c = self.config.training
        return learning_rate(step, c.train_lr, c.lr_schedule, c.lr_warmup_steps, self.total_steps)

    def _epoch_that_ended(self) -> int | None:
        """The number of the epoch, from 1, that the last step completed, if it did. Streams have none."""
        if not hasattr(self.dataset, "__len__"):
            return None
        before, now = ((self.step - k) * self.batches.images_per_step // len(self.dataset) for k in (1, 0))
        return now if now > before else None

    def _total_steps(self) -> int:
        c = self.config.training
        if c.train_num_epochs is None:
            return c.train_num_steps
        return -(-c.train_num_epochs * len(self.dataset) // self.batches.images_per_step)

    # The run directory.

    def _check(self) -> None:
        """What can be wrong is said before anything is written."""
        shape, size = self.dataset.shape, (self.diffusion.channels, *self.diffusion.image_size)
        if tuple(shape) != size:
            raise InputError(f"the data has {describe(shape)}, but the diffusion is for {describe(size)}")
        c, world = self.config.training, self.runtime.world
        if c.train_batch_size % world:
            raise InputError(f"training.train_batch_size is {c.train_batch_size}, allowed on {world} devices, which share it: "
                             f"multiples of {world}")
        batch, finite = c.train_batch_size * c.gradient_accumulate_every, hasattr(self.dataset, "__len__")
        if finite and batch > len(self.dataset):
            raise InputError(f"one optimizer step takes {batch} images (train_batch_size x gradient_accumulate_every), allowed: "
                             f"at most the {len(self.dataset)} of the data set")
        if not finite and (c.train_num_epochs or c.save_and_sample_every == "epoch"):
            raise InputError("training by epochs with data that has no length, allowed: train_num_steps, save_and_sample_every")
        if not self.diffusion.auto_normalize:
            raise InputError("auto_normalize is False, allowed in training: True (data sets give images in [0, 1])")
        if c.tensorboard:
            check_installed()
        for what, parts, name in (("network", NETWORKS, self.config.model.name),
                                  ("loss weight", LOSS_WEIGHTS, self.config.diffusion.loss_weight)):
            if self.config.runtime.compile_cache and not parts.is_own(name):
                raise InputError(f"compile_cache is True with a {what} of your own, allowed: False (its source is not part of "
                                 "the cache's key, so an edit would not be seen)")
        if c.num_samples:
            self.diffusion.check_sampling(self.config.sampling)
        collectives.on_rank_0(self._check_run_dir, self.runtime)

    def _check_run_dir(self) -> None:
        path = self.run_dir / "config.yaml"
        if path.is_file():
            try:
                before = load_run_config(path)
            except InputError as error:
                raise InputError(f"run directory {self.run_dir} is of another version of ddpm_ms ({error}), allowed: another "
                                 "--run-dir") from None
            unlike = differences(before, self.config)
            if unlike:
                raise InputError(f"run directory {self.run_dir} holds another run ({'; '.join(unlike)}), allowed: "
                                 "the same configuration, or another --run-dir")
        elif self.run_dir.exists() and (not self.run_dir.is_dir() or checkpoint.in_run(self.run_dir)):
            raise InputError(f"run directory {self.run_dir} is no run directory (it has no config.yaml), allowed: a new one")

    def _check_labels(self) -> None:
        classes = getattr(self.model, "num_classes", None)
        if not classes:
            return
        labels = self.dataset.labels
        if labels is None:
            raise InputError(f"model.num_classes is {classes}, but the data has no labels, allowed: null")
        if not 0 <= labels.min() <= labels.max() < classes:
            raise InputError(f"the data has labels {labels.min()} to {labels.max()}, allowed with model.num_classes={classes}: "
                             f"0 to {classes - 1}")

    def _open_run(self) -> None:
        """Write what describes the run."""
        self._cache, self.compile_seconds = None, None
        collectives.on_rank_0(self._describe_run, self.runtime)

    def _describe_run(self) -> None:
        environment = json.dumps(rt.environment(self.runtime), indent=1)
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            write_whole(self.run_dir / "config.yaml", to_yaml(self.config))
            write_whole(self.run_dir / "environment.json", environment + "\n")
        except OSError as error:
            raise InputError(f"run directory {self.run_dir} cannot be written: {error.strerror or error}") from None


class _Stopped(Exception):
    """Leaves a sampler in the middle."""


def _scalar(value: float) -> Tensor:
    return Tensor(value, ms.float32)
