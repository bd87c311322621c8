"""The first step of a process, in which everything is compiled."""

from __future__ import annotations

import logging
import time
from typing import Any, Callable

from ddpm_ms import runtime as rt
from ddpm_ms.config import Config, to_dict
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.parts import LOSS_WEIGHTS, NETWORKS
from ddpm_ms.training.train_step import TrainStep

log = logging.getLogger("ddpm_ms")

# What the loop around the graphs heeds, and no graph: with other values of these the same graphs are taken. What is not named
# here is part of the cache's key, whether a graph depends on it or not.
AROUND_GRAPHS = {"training": ("train_num_steps", "train_num_epochs", "save_and_sample_every", "keep_last", "num_samples",
                              "log_every", "tensorboard", "max_skipped_steps"),
                 "data": ("root", "workers", "on_error"), "runtime": ("compile_cache",)}


class Compilation:
    """Compiles in a fixed order: the compile cache counts, and a stall in mid-training would be worse.

    Args:
        config: of the run; the key of the compile cache, where one is used.
        diffusion: the process.
        train_step: what is compiled.
        world: number of ranks.
    """

    def __init__(self, config: Config, diffusion: GaussianDiffusion, train_step: TrainStep, world: int) -> None:
        self._config, self._self_condition, self._train_step = config, diffusion.self_condition, train_step
        wanted = config.runtime.compile_cache
        self._keeps = world == 1 and not foreign_parts(config, diffusion) if wanted is None else wanted
        self._cache: rt.CompileCache | None = None
        self._began = 0.0
        self.seconds: float | None = None  # of the first step of this process, once it is done

    def begin(self, gradient: Callable[[bool], object]) -> None:
        """Before the first step; ``gradient(coin)`` computes one of a micro-batch."""
        self._began, self._cache = time.perf_counter(), None
        if self._keeps and rt.is_compiling():
            self._cache = rt.CompileCache(_in_graphs(self._config))
        log.info({"found": "taking compiled graphs from the cache", "new": "compiling (kept for the next start)"}.get(
            self._cache.state if self._cache else "", "compiling (once per start)"))
        if self._self_condition:
            for coin in (False, True):
                gradient(coin)
            self._train_step.reset()

    def forgo(self) -> None:
        """Other graphs come before the first step, in no fixed order: nothing is kept of this start."""
        if self.seconds is None:
            self._keeps = False

    def end(self) -> None:
        """After the first step."""
        if self._cache is not None:
            self._cache.seal()
        self.seconds = time.perf_counter() - self._began
        log.info("compiled, first step after %.1f s", self.seconds)


def foreign_parts(config: Config, diffusion: GaussianDiffusion) -> list[str]:
    """The kinds of parts of the run that are not this package's: their sources are not in the key of the compile cache, so an
    edit would not be seen."""
    own = {"network": NETWORKS.is_own(config.model.name), "loss weight": LOSS_WEIGHTS.is_own(config.diffusion.loss_weight),
           "process": type(diffusion).__module__.split(".")[0] == __name__.split(".")[0]}
    return [kind for kind, is_own in own.items() if not is_own]


def _in_graphs(config: Config) -> dict[str, Any]:
    """What of the recipe may be in a graph."""
    return {name: {key: value for key, value in section.items() if key not in AROUND_GRAPHS.get(name, ())}
            for name, section in to_dict(config).items() if name not in ("sampling", "evaluation", "init")}
