"""How fast this package is on the device that is there: training steps, network evaluations, sampling.

`Work` is what ``ddpm-ms benchmark`` times, and what scripts/benchmark_vs_torch.sh times beside PyTorch.
"""

from __future__ import annotations

import csv
import itertools
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ddpm_ms import runtime
from ddpm_ms.benchmark.cases import Case
from ddpm_ms.benchmark.files import Files
from ddpm_ms.config import RuntimeConfig
from ddpm_ms.data import ArrayDataset, RandomAccessDataset, prefetch
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.models.recomputation import set_recompute
from ddpm_ms.parts import NETWORKS
from ddpm_ms.training import EMA
from ddpm_ms.training.batches import BatchSource, MicroBatch
from ddpm_ms.training.timesteps import TimestepSampler
from ddpm_ms.training.train_step import TrainStep

SAMPLED, SAMPLING_STEPS = 16, 50


class Work:
    """The work of one case: ``train()``, ``eval()`` and ``sample()`` each do it once and return when it is done.

    A training step is what a run does between two batches of images: drawing noise and t, forward, backward, clipping,
    Adam, EMA.
    """

    def __init__(self, case: Case, recompute: bool = False) -> None:
        self.case, self.step = case, 0
        runtime.seed_weights(0)
        options = {"attention_levels": case.attention_levels} if case.attention_levels else {}
        network = NETWORKS[case.network](case.dim, dim_mults=case.dim_mults, channels=case.channels, **options)
        if recompute:
            set_recompute(network)
        self.diffusion = GaussianDiffusion(network, image_size=case.size)
        images = np.random.default_rng(0).random((case.batch, case.size, case.size, case.channels), np.float32)
        self.batches = BatchSource(ArrayDataset(images, case.channels), case.batch, 1, seed=0)
        self.timesteps = TimestepSampler("uniform", self.diffusion.num_timesteps, 0)
        optimizer = nn.Adam(network.trainable_params(), 1e-4, 0.9, 0.99)
        self.train_step = TrainStep(self.diffusion, optimizer, EMA(network, 0.995, 1))
        self.x = Tensor(np.random.default_rng(1).standard_normal((case.batch, case.channels, case.size, case.size)), ms.float32)
        self.t = Tensor(np.full(case.batch, 500), ms.int32)
        self.files = Files(case)
        self.batches_ahead = prefetch(self._from_files, itertools.count())

    def train(self) -> None:
        """One optimizer step on images that are there."""
        self._train(*self.batches.step(self.step))

    def train_load(self) -> None:
        """As `train`, with the files of `load_photos` read before the step."""
        self._train(self._from_files(self.step))

    def train_ahead(self) -> None:
        """As `train`, with the files of `load_photos` read during the steps before."""
        self._train(next(self.batches_ahead))

    def load(self) -> None:
        """A batch from JPEG files of the case's size."""
        self._take(self.files.small)

    def load_photos(self) -> None:
        """A batch from JPEG files of 640 x 480."""
        self._take(self.files.photos)

    def load_packed(self) -> None:
        """A batch from the files of `load`, packed."""
        self._take(self.files.packed)

    def _take(self, dataset: RandomAccessDataset) -> None:
        dataset.take(range(self.step * self.case.batch, (self.step + 1) * self.case.batch), seed=0)
        self.step += 1

    def _from_files(self, step: int) -> MicroBatch:
        return BatchSource(self.files.photos, self.case.batch, 1, seed=0).step(step)[0]

    def _train(self, batch: MicroBatch) -> None:
        self._set_train(True)
        times, _ = self.timesteps.draw(self.step, self.case.batch)
        one = Tensor(1.0, ms.float32)
        self.train_step.gradient(Tensor(batch.images), Tensor(times), Tensor(batch.noise), False, None, None, None, one)
        finite, _, _ = self.train_step.update(Tensor(1e-4, ms.float32), Tensor(0.005, ms.float32), one)
        finite.asnumpy()
        self.step += 1

    def eval(self) -> None:
        """One evaluation of the network."""
        self._set_train(False)
        self.diffusion.network_graph()(self.x, self.t, None, None).asnumpy()

    def _set_train(self, mode: bool) -> None:
        """Only where the mode changes, as a run does: MindSpore goes through all Cells, about a millisecond for 500 of them."""
        if self.diffusion.training != mode:
            self.diffusion.set_train(mode)

    def sample(self) -> None:
        """Draw a batch of images."""
        self.diffusion.sample(SAMPLED, sampler="ddim", steps=SAMPLING_STEPS, seed=0)


def seconds(work: Callable[[], None], count: int = 1) -> float:
    """How long ``work`` takes, as the mean of ``count`` in a row."""
    began = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - began) / count


def peak_memory() -> float:
    """Of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(work: Work, kinds: Sequence[str], repeats: int) -> list[str]:
    """Rows of a Markdown table: for each kind of work the first call, and median and fastest of ``repeats`` more."""
    rows = ["| work | first call, s | median, s | fastest, s | images/s |", "| --- | --- | --- | --- | --- |"]
    for kind in kinds:
        first = seconds(getattr(work, kind))
        times = [seconds(getattr(work, kind)) for _ in range(repeats)]
        images = SAMPLED if kind == "sample" else work.case.batch
        rows.append(f"| {kind} | {first:.2f} | {statistics.median(times):.4f} | {min(times):.4f} | "
                    f"{images / statistics.median(times):.2f} |")
    return rows


def operators(work: Work, kind: str, folder: Path, count: int = 15) -> list[str]:
    """Rows of a Markdown table: where the time of one kind of work goes, by type of operator, from MindSpore's profiler, which
    leaves its own files in ``folder``. The profiler slows the work down, so the shares count more than the times."""
    activity = ms.profiler.ProfilerActivity
    activities = [activity.CPU] if ms.get_context("device_target") == "CPU" else [activity.CPU, activity.NPU]
    with ms.profiler.profile(activities=activities, on_trace_ready=ms.profiler.tensorboard_trace_handler(str(folder))):
        getattr(work, kind)()
    found = sorted(folder.rglob("*op_type_info_*.csv"), key=lambda path: path.stat().st_mtime)
    if not found:
        return [f"no table by operator on this device; the profile is in {folder}"]
    with found[-1].open(newline="") as file:
        table = sorted(csv.DictReader(file), key=lambda row: -float(row["total_compute_time"]))
    rows = ["| operator | calls | total, ms | share |", "| --- | --- | --- | --- |"]
    return rows + [f"| {row['op_type']} | {row['type_occurrences']} | {float(row['total_compute_time']):.2f} | "
                   f"{float(row['percent']):.1%} |" for row in table[:count]]


def serve(case: Case, compile_cache: bool) -> None:
    """Do the work that is asked for, line by line: a kind of work, or "memory", and how often; answer with a number each."""
    runtime.setup(RuntimeConfig(device="CPU"))
    work = Work(case)
    cache = None
    for line in sys.stdin:
        kind, count = line.split()
        if compile_cache and cache is None:
            cache = runtime.CompileCache(("benchmark", str(case), kind))  # other work has other graphs
        answer = peak_memory() if kind == "memory" else seconds(getattr(work, kind), int(count))
        print(f"{answer:.6f}", flush=True)
        if cache is not None:
            cache.seal()


if __name__ == "__main__":
    serve(Case(**json.loads(sys.argv[1])), "--compile-cache" in sys.argv)
