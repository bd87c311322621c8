"""How fast this package is on the device that is there: training steps, network evaluations, sampling.

`Work` is what ``ddpm-ms benchmark`` times, and what scripts/benchmark_vs_torch.sh times beside PyTorch.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ddpm_ms import runtime
from ddpm_ms.data import ArrayDataset
from ddpm_ms.diffusion import GaussianDiffusion
from ddpm_ms.errors import check_choice
from ddpm_ms.models import Unet
from ddpm_ms.training import EMA
from ddpm_ms.training.batches import BatchSource
from ddpm_ms.training.timesteps import TimestepSampler
from ddpm_ms.training.train_step import TrainStep

SAMPLED, SAMPLING_STEPS = 16, 50


@dataclass(frozen=True)
class Case:
    """A U-Net and a batch; the names are those of the benchmark's table."""

    dim: int
    dim_mults: tuple[int, ...]
    channels: int
    size: int
    batch: int

    def __str__(self) -> str:
        mults = ",".join(map(str, self.dim_mults))
        return f"dim {self.dim}, mults {mults}, {self.channels}x{self.size}x{self.size}, batch {self.batch}"


CASES = {
    "a": Case(32, (1, 2, 4), 1, 32, 32),
    "b": Case(64, (1, 2, 4, 8), 3, 32, 8),
    "c": Case(64, (1, 2, 4, 8), 3, 64, 4),
    "d": Case(32, (1, 2), 1, 8, 64),
}
KINDS = ("train", "eval", "sample")


class Work:
    """The work of one case: ``train()``, ``eval()`` and ``sample()`` each do it once and return when it is done.

    A training step is what a run does between two batches of images: drawing noise and t, forward, backward, clipping,
    Adam, EMA.
    """

    def __init__(self, name: str) -> None:
        case = CASES[check_choice("case", name, CASES)]
        self.case, self.step = case, 0
        runtime.seed_weights(0)
        network = Unet(case.dim, dim_mults=case.dim_mults, channels=case.channels)
        self.diffusion = GaussianDiffusion(network, image_size=case.size)
        images = np.random.default_rng(0).random((case.batch, case.size, case.size, case.channels), np.float32)
        self.batches = BatchSource(ArrayDataset(images, case.channels), case.batch, 1, seed=0)
        self.timesteps = TimestepSampler("uniform", self.diffusion.num_timesteps, 0)
        optimizer = nn.Adam(network.trainable_params(), 1e-4, 0.9, 0.99)
        self.train_step = TrainStep(self.diffusion, optimizer, EMA(network, 0.995, 1))
        self.x = Tensor(np.random.default_rng(1).standard_normal((case.batch, case.channels, case.size, case.size)), ms.float32)
        self.t = Tensor(np.full(case.batch, 500), ms.int32)

    def train(self) -> None:
        self.diffusion.set_train(True)
        times, _ = self.timesteps.draw(self.step, self.case.batch)
        batch, = self.batches.step(self.step)
        one = Tensor(1.0, ms.float32)
        self.train_step.gradient(Tensor(batch.images), Tensor(times), Tensor(batch.noise), False, None, None, None, one)
        finite, _ = self.train_step.update(Tensor(1e-4, ms.float32), Tensor(0.005, ms.float32), one)
        finite.asnumpy()
        self.step += 1

    def eval(self) -> None:
        self.diffusion.set_train(False)
        self.diffusion.network_graph()(self.x, self.t, None, None).asnumpy()

    def sample(self) -> None:
        self.diffusion.sample(SAMPLED, sampler="ddim", steps=SAMPLING_STEPS, seed=0)


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_memory() -> float:
    """Of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(case: str, kinds: tuple[str, ...] = KINDS[:2], repeats: int = 5) -> list[str]:
    """Lines of a Markdown table: first call, then median and fastest of ``repeats`` calls, of each kind of work."""
    work = Work(case)
    rows = []
    for kind in kinds:
        first = seconds(getattr(work, kind))
        times = [seconds(getattr(work, kind)) for _ in range(repeats)]
        images = SAMPLED if kind == "sample" else work.case.batch
        rows.append(f"| {case} | {work.case} | {kind} | {first:.2f} | {statistics.median(times):.4f} | {min(times):.4f} | "
                    f"{images / statistics.median(times):.2f} |")
    return rows


def serve(case: str, compile_cache: bool) -> None:
    """Do the work that is asked for, line by line: a kind of work, or "memory"; answer with a number each."""
    runtime.setup(runtime.RuntimeConfig(device="CPU"))
    work = Work(case)
    cache = runtime.CompileCache(("benchmark", case)) if compile_cache else None
    for line in sys.stdin:
        kind = line.strip()
        print(f"{peak_memory() if kind == 'memory' else seconds(getattr(work, kind)):.6f}", flush=True)
        if cache is not None:
            cache.seal()


if __name__ == "__main__":
    serve(sys.argv[1], "--compile-cache" in sys.argv)
