"""`Trainer`: the loop around `TrainStep`, with everything a run leaves behind."""

from __future__ import annotations

import contextlib
import dataclasses
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

from ddpm_ms import runtime as rt
from ddpm_ms import visual
from ddpm_ms.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    RuntimeConfig,
    SamplingConfig,
    TrainingConfig,
    config_from_dict,
    differences,
    load_config,
    to_dict,
    to_yaml,
)
from ddpm_ms.data import as_dataset, describe, prefetch
from ddpm_ms.diffusion import GaussianDiffusion
from ddpm_ms.errors import InputError, TrainingError
from ddpm_ms.training import checkpoint
from ddpm_ms.training.batches import BatchSource, MicroBatch
from ddpm_ms.training.ema import EMA
from ddpm_ms.training.learning_rate import learning_rate
from ddpm_ms.training.loss_scale import LossScale
from ddpm_ms.training.metrics import Metrics
from ddpm_ms.training.timesteps import TimestepSampler
from ddpm_ms.training.train_step import TrainStep

log = logging.getLogger("ddpm_ms")


class Trainer:
    """Train a diffusion and leave a run directory behind; the same call again resumes it.

    Every count is in optimizer steps. Each ``save_and_sample_every`` steps, and after the last one, it writes a
    checkpoint and a grid of samples drawn with the averaged weights. An interrupted run that is started again ends with
    the same weights, bit for bit, as one that was not interrupted (on one device of the same kind).

    Args:
        diffusion: what to train.
        folder_or_dataset: a folder of images, a .npy or .npz file, an array, a data set of `ddpm_ms.data`, a
            ``mindspore.dataset`` object, or any iterable of images (C, H, W) in [0, 1].
        train_batch_size: images per device and micro-batch.
        gradient_accumulate_every: micro-batches per optimizer step.
        train_num_steps: how long to train.
        optimizer: "adam", or "adamw" for the same with decoupled ``weight_decay``.
        train_lr: learning rate.
        lr_schedule: "constant" or "cosine" (to 0 at the end).
        lr_warmup_steps: linear rise at the start.
        weight_decay: of "adamw".
        augment_horizontal_flip: mirror each image with probability 1/2.
        timestep_sampling: how t is drawn, see `timesteps.TimestepSampler`: "uniform", "antithetic", "stratified" or
            "loss_second_moment".
        label_dropout: with a class-conditional network, how often a label is hidden, so that it can do without.
        adam_betas: decay of the two moments.
        max_grad_norm: clip the gradient's global norm; 0 for no clipping.
        ema_decay: decay of the averaged weights per update.
        ema_update_every: steps between updates of the average.
        amp_level: MindSpore's mixed precision, "O0" (float32) to "O3".
        max_skipped_steps: stop after this many attempts in a row with a non-finite gradient.
        save_and_sample_every: steps between checkpoints.
        keep_last: how many checkpoints stay.
        num_samples: images in the sample grid; 0 for none.
        log_every: steps between log lines.
        seed: of everything random.
        results_folder: the run directory.
        sampling: how the sample grid is drawn. Default: the diffusion's ``sampling_timesteps`` and eta if it has fewer than
            all, else 50 steps of DDIM.
        data: where the images come from, for the record in the checkpoint.
        runtime: what `runtime.setup` returned. Default: one process on MindSpore's current device.
        compile_cache: keep compiled graphs for the next start.

    Raises:
        InputError: a value is not allowed, or ``results_folder`` holds another run.
        TrainingError: from `train`, when the loss diverged.
    """

    def __init__(
        self,
        diffusion: GaussianDiffusion,
        folder_or_dataset: Any,
        *,
        train_batch_size: int = 16,
        gradient_accumulate_every: int = 1,
        train_num_steps: int = 100_000,
        optimizer: str = "adam",
        train_lr: float = 1e-4,
        lr_schedule: str = "constant",
        lr_warmup_steps: int = 0,
        weight_decay: float = 0.0,
        augment_horizontal_flip: bool = False,
        timestep_sampling: str = "uniform",
        label_dropout: float = 0.1,
        adam_betas: Sequence[float] = (0.9, 0.99),
        max_grad_norm: float = 1.0,
        ema_decay: float = 0.995,
        ema_update_every: int = 10,
        amp_level: str = "O0",
        max_skipped_steps: int = 50,
        save_and_sample_every: int = 1000,
        keep_last: int = 3,
        num_samples: int = 25,
        log_every: int = 50,
        seed: int = 0,
        results_folder: str | Path = "./results",
        sampling: SamplingConfig | None = None,
        data: DataConfig | None = None,
        runtime: rt.Runtime | None = None,
        compile_cache: bool = False,
    ) -> None:
        given = locals()
        training = {f.name: given[f.name] for f in dataclasses.fields(TrainingConfig)}
        self.diffusion, self.model = diffusion, diffusion.model
        self.runtime = runtime or rt.current()
        self.dataset = as_dataset(folder_or_dataset, diffusion.image_size, diffusion.channels)
        self.run_dir = Path(results_folder)
        self.config = _describe(diffusion, data or _data_config(folder_or_dataset, diffusion), training,
                                sampling or _sampling_config(diffusion),
                                RuntimeConfig(compile_cache=compile_cache, cpu_math=self.runtime.cpu_math))
        self._check()

        c = self.config.training
        if amp_level != "O0":
            ms.amp.auto_mixed_precision(self.model, amp_level)
        self.loss_scale = LossScale(2.0**16, dynamic=True) if amp_level != "O0" else LossScale()
        self.ema = EMA(self.model, ema_decay, ema_update_every)
        self.optimizer = nn.Adam(self.model.trainable_params(), c.train_lr, *c.adam_betas)
        self.train_step = TrainStep(diffusion, self.optimizer, self.ema, gradient_accumulate_every, max_grad_norm,
                                    weight_decay, self.runtime.world)
        self.batches = BatchSource(
            self.dataset, train_batch_size, gradient_accumulate_every, seed,
            self.runtime.rank, self.runtime.world, augment_horizontal_flip, getattr(self.model, "dropout", 0) > 0,
            getattr(self.model, "num_classes", None), label_dropout)
        self.timesteps = TimestepSampler(timestep_sampling, diffusion.num_timesteps, seed)
        self.metrics = Metrics(self.run_dir / "metrics.jsonl", diffusion.num_timesteps)
        self.step = 0
        self.skipped_steps = 0

    def train(self) -> Path:
        """Train to ``train_num_steps``, from the newest good checkpoint if there is one. Returns the run directory."""
        self._open_run()
        with _log_to(self.run_dir / "log.txt", self.runtime.rank == 0):
            self.resume()
            total = self.config.training.train_num_steps
            if self.step < total:
                self._loop(total)
            log.info("%s is finished: %d of %d steps", self.run_dir, self.step, total)
        return self.run_dir

    def _loop(self, total: int) -> None:
        """Every step from here to ``total``."""
        self.diffusion.set_train(True)
        steps = range(self.step, total)
        # A bar where somebody looks, lines where a file does.
        bar = tqdm(total=total, initial=self.step, unit="step", disable=not rt.stderr_is_terminal())
        with bar, logging_redirect_tqdm():
            for batches in prefetch(self.batches.step, steps):
                self._one_step(batches)
                bar.update()
                if self.step % self.config.training.log_every == 0 or self.step == total:
                    self._log(bar)
                if self.step % self.config.training.save_and_sample_every == 0 or self.step == total:
                    paused = self.metrics.pause()
                    self.save()
                    self.sample()
                    self.metrics.resume(paused)

    def resume(self) -> None:
        """Load the newest good checkpoint of the run directory, if any; damaged ones are reported and passed over."""
        for found in checkpoint.latest(self.run_dir):
            if isinstance(found, checkpoint.DamagedCheckpoint):
                log.warning("%s; using the one before", found)
                continue
            self._load(found)
            log.info("resuming %s at step %d", self.run_dir, self.step)
        self.metrics.rewind(self.step, self.runtime.rank == 0)

    def save(self) -> None:
        """Write a checkpoint of the current step and delete those that ``keep_last`` does not cover."""
        if self.runtime.rank != 0:
            return
        weights = _arrays(dict(self.model.parameters_and_names()))
        arrays = {checkpoint.WEIGHTS: weights,
                  checkpoint.EMA_WEIGHTS: {**weights, **_arrays(self.ema.parameters_by_name())},
                  checkpoint.OPTIMIZER: {**_arrays(self._optimizer_parameters()), **self.timesteps.state()}}
        state = {
            "ema_updates": self.step // self.ema.update_every,
            "loss_scale": dataclasses.asdict(self.loss_scale),
            "skipped_steps": self.skipped_steps,
            "data_position": self.step * self.batches.images_per_step,
            "seed": self.config.training.seed,
            "config": to_dict(self.config),
            "environment": rt.environment(self.runtime),
        }
        checkpoint.save(self.run_dir / "checkpoints", self.step, arrays, state)
        checkpoint.remove_old(self.run_dir, self.config.training.keep_last)

    def sample(self) -> None:
        """Draw the sample grid of the current step with the averaged weights, and the loss curve."""
        count, how = self.config.training.num_samples, self.config.sampling
        if self.runtime.rank != 0:
            return
        if self.metrics.rows:
            visual.save_loss_curve(self.metrics.rows, self.run_dir / "loss.png")
        if count:
            with self.ema.applied():
                images = self.diffusion.sample(count, **dataclasses.asdict(how))
            visual.save_grid(images, self.run_dir / "samples" / f"step_{self.step:08d}.png")

    # One optimizer step.

    def _one_step(self, batches: list[MicroBatch]) -> None:
        """Do step ``self.step`` and count it; an overflow is tried again with a smaller loss scale."""
        c = self.config.training
        first, began = self.step == self._first_step, time.perf_counter()
        coin = self.diffusion.self_condition and self.batches.self_condition(self.step)
        times, weights = self.timesteps.draw(self.step, self.batches.images_per_step)
        if first:
            self._compile(batches[0], times, weights)
        rate = learning_rate(self.step, c.train_lr, c.lr_schedule, c.lr_warmup_steps, c.train_num_steps)
        ema_rate = self.ema.rate_at(self.step + 1)
        for attempt in range(1, c.max_skipped_steps + 1):
            losses = [self._gradient(batch, coin, times, weights) for batch in batches]
            finite, norm = self.train_step.update(_scalar(rate), _scalar(ema_rate), _scalar(self.loss_scale.value))
            finite = bool(finite.asnumpy())
            if finite:
                break
            self.skipped_steps += 1
            self._stop_if_hopeless(attempt, losses, batches)
            self.loss_scale.adjust(False)
        self.loss_scale.adjust(True)
        self.step += 1
        own = np.concatenate([np.arange(b.samples.start, b.samples.stop) for b in batches])
        self.metrics.add(np.concatenate([x.asnumpy() for x in losses]), times[own], None if weights is None else weights[own],
                         float(norm.asnumpy()))
        if self.timesteps.weighted:
            self.timesteps.report(times, np.concatenate([rt.gather(x, self.runtime) for x in losses]))
        if first:
            self._compiled(time.perf_counter() - began)

    def _gradient(self, batch: MicroBatch, coin: bool, times: np.ndarray, weights: np.ndarray | None) -> Tensor:
        key = None if batch.dropout_key is None else Tensor(batch.dropout_key)
        classes = None if batch.classes is None else Tensor(batch.classes)
        weights = None if weights is None else Tensor(weights[batch.samples])
        return self.train_step.gradient(Tensor(batch.images), Tensor(times[batch.samples]), Tensor(batch.noise), coin, classes,
                                        key, weights, _scalar(self.loss_scale.value))

    def _stop_if_hopeless(self, attempt: int, losses: list[Tensor], batches: list[MicroBatch]) -> None:
        if self.loss_scale.dynamic and attempt < self.config.training.max_skipped_steps:
            return
        loss = float(np.mean([x.asnumpy().mean() for x in losses]))
        last = self.metrics.rows[-1]["loss"] if self.metrics.rows else "none"
        where = f"{batches[0].positions.start}-{batches[-1].positions.stop - 1}"
        raise TrainingError(
            f"step {self.step + 1}: the gradient is not finite after {attempt} attempt(s), loss {loss}, loss scale "
            f"{self.loss_scale.value:g}, last logged loss {last}, images at stream positions {where}. No weight was changed "
            "and nothing was saved; lower train_lr or raise lr_warmup_steps")

    def _compile(self, batch: MicroBatch, times: np.ndarray, weights: np.ndarray | None) -> None:
        """Compile in a fixed order: the compile cache counts, and a stall in mid-training would be worse."""
        if self.config.runtime.compile_cache:
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

    def _log(self, bar: tqdm) -> None:
        c = self.config.training
        rate = learning_rate(self.step - 1, c.train_lr, c.lr_schedule, c.lr_warmup_steps, c.train_num_steps)
        row = self.metrics.write(
            self.step, self.runtime.rank == 0, lr=rate, ema_decay=self.ema.decay_at(self.step),
            loss_scale=self.loss_scale.value, skipped_steps=self.skipped_steps, compile_seconds=self.compile_seconds)
        bar.set_postfix(loss=f"{row['loss']:.4f}")
        if bar.disable and self.runtime.rank == 0:
            log.info("step %d/%d  loss %.4f  grad norm %.3f  lr %.2e  %.1f images/s", self.step, c.train_num_steps,
                     row["loss"], row["grad_norm"], rate, row["images_per_second"])

    # The run directory.

    def _check(self) -> None:
        """What can be wrong is said before anything is written."""
        shape, size = self.dataset.shape, (self.diffusion.channels, *self.diffusion.image_size)
        if tuple(shape) != size:
            raise InputError(f"the data has {describe(shape)}, but the diffusion is for {describe(size)}")
        c = self.config.training
        batch = c.train_batch_size * c.gradient_accumulate_every * self.runtime.world
        if hasattr(self.dataset, "__len__") and batch > len(self.dataset):
            raise InputError(f"one optimizer step takes {batch} images (train_batch_size x gradient_accumulate_every x "
                             f"devices), allowed: at most the {len(self.dataset)} of the data set")
        self._check_labels()
        if not self.diffusion.auto_normalize:
            raise InputError("auto_normalize is False, allowed in training: True (data sets give images in [0, 1])")
        if c.num_samples:
            self.diffusion.check_sampling(self.config.sampling)
        if c.optimizer == "adam" and c.weight_decay > 0:
            raise InputError(f"training.weight_decay is {c.weight_decay}, allowed with optimizer=adam: 0 (use adamw)")
        path = self.run_dir / "config.yaml"
        if path.is_file():
            unlike = differences(load_config(path), self.config)
            if unlike:
                raise InputError(f"run directory {self.run_dir} holds another run ({'; '.join(unlike)}), allowed: "
                                 "the same configuration, or another --run-dir")
        elif self.run_dir.exists() and (not self.run_dir.is_dir() or checkpoint.in_run(self.run_dir)):
            raise InputError(f"run directory {self.run_dir} is no run directory (it has no config.yaml), allowed: a new one")

    def _check_labels(self) -> None:
        classes, labels = getattr(self.model, "num_classes", None), self.dataset.labels
        if classes and labels is None:
            raise InputError(f"model.num_classes is {classes}, but the data has no labels, allowed: null")
        if classes and not 0 <= labels.min() <= labels.max() < classes:
            raise InputError(f"the data has labels {labels.min()} to {labels.max()}, allowed with model.num_classes={classes}: "
                             f"0 to {classes - 1}")

    def _open_run(self) -> None:
        """Write what describes the run, once; from here on the log goes to log.txt too."""
        self._first_step, self._cache, self.compile_seconds = self.step, None, None
        if self.runtime.rank != 0:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        (self.run_dir / "config.yaml").write_text(to_yaml(self.config), encoding="utf-8")
        environment = json.dumps(rt.environment(self.runtime), indent=1)
        (self.run_dir / "environment.json").write_text(environment + "\n", encoding="utf-8")

    def _load(self, found: checkpoint.Checkpoint) -> None:
        unlike = differences(found.config, self.config)
        if unlike:
            raise InputError(f"checkpoint {found.path} comes from another configuration ({'; '.join(unlike)})")
        checkpoint.set_parameters(dict(self.model.parameters_and_names()), found.arrays(checkpoint.WEIGHTS), str(found.path))
        averaged, shadow = found.arrays(checkpoint.EMA_WEIGHTS), self.ema.parameters_by_name()
        checkpoint.set_parameters(shadow, {name: averaged[name] for name in shadow}, str(found.path))
        optimizer = found.arrays(checkpoint.OPTIMIZER)
        self.timesteps.restore({name: optimizer.pop(name) for name in self.timesteps.state()})
        checkpoint.set_parameters(self._optimizer_parameters(), optimizer, str(found.path))
        self.loss_scale = LossScale(**found.state["loss_scale"])
        self.skipped_steps = found.state["skipped_steps"]
        self.step = self._first_step = found.step

    def _optimizer_parameters(self) -> dict[str, ms.Parameter]:
        """Adam's state under names that follow from the network's."""
        adam = self.optimizer
        moments = {f"{kind}.{name}": moment for kind, group in (("moment1", adam.moment1), ("moment2", adam.moment2))
                   for name, moment in zip(self.ema.names, group)}
        return {**moments, "beta1_power": adam.beta1_power, "beta2_power": adam.beta2_power}


def _describe(diffusion: GaussianDiffusion, data: DataConfig, training: dict, sampling: SamplingConfig,
              runtime: RuntimeConfig) -> Config:
    """The configuration that says the same as these objects; it travels inside every checkpoint."""
    def known(section: type, values: dict) -> dict:
        return {f.name: values[f.name] for f in dataclasses.fields(section) if f.name in values}

    hparams = getattr(diffusion.model, "hparams", {"name": "custom"})
    tree = to_dict(Config(runtime=runtime, data=data, sampling=sampling))
    tree.update(model=known(ModelConfig, hparams), training=training, diffusion=known(DiffusionConfig, diffusion.hparams))
    return config_from_dict(json.loads(json.dumps(tree)))


def _sampling_config(diffusion: GaussianDiffusion) -> SamplingConfig:
    steps, total = diffusion.sampling_timesteps, diffusion.num_timesteps
    return SamplingConfig(steps=steps if steps < total else min(50, total), eta=diffusion.ddim_sampling_eta)


def _data_config(source: Any, diffusion: GaussianDiffusion) -> DataConfig:
    root = str(source) if isinstance(source, (str, Path)) else None
    name = "image_folder" if root and Path(root).is_dir() else "array"
    return DataConfig(name=name, root=root, image_size=diffusion.image_size, channels=diffusion.channels)


def _arrays(parameters: dict[str, ms.Parameter]) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in parameters.items()}


@contextlib.contextmanager
def _log_to(path: Path, active: bool) -> Iterator[None]:
    """Within the block the package's log lines are appended to ``path`` as well."""
    if not active:
        yield
        return
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _scalar(value: float) -> Tensor:
    return Tensor(value, ms.float32)
