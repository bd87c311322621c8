"""The first step of a process, in which everything is compiled."""

from __future__ import annotations

import logging
import time
from typing import Callable

from ddpm_ms import runtime as rt
from ddpm_ms.config import Config, to_dict
from ddpm_ms.training.train_step import TrainStep

log = logging.getLogger("ddpm_ms")


class Compilation:
    """Compiles in a fixed order: the compile cache counts, and a stall in mid-training would be worse.

    Args:
        config: of the run; the key of the compile cache, if it asks for one.
        self_condition: whether there is a graph for each side of the coin.
        train_step: what is compiled.
    """

    def __init__(self, config: Config, self_condition: bool, train_step: TrainStep) -> None:
        self._config, self._self_condition, self._train_step = config, self_condition, train_step
        self._cache: rt.CompileCache | None = None
        self._began = 0.0
        self.seconds: float | None = None  # of the first step of this process, once it is done

    def begin(self, gradient: Callable[[bool], object]) -> None:
        """Before the first step; ``gradient(coin)`` computes one of a micro-batch."""
        self._began, self._cache = time.perf_counter(), None
        if self._config.runtime.compile_cache and rt.is_compiling():
            self._cache = rt.CompileCache(to_dict(self._config))
        log.info("compiling (once per start)")
        if self._self_condition:
            for coin in (False, True):
                gradient(coin)
            self._train_step.reset()

    def end(self) -> None:
        """After the first step."""
        if self._cache is not None:
            self._cache.seal()
        self.seconds = time.perf_counter() - self._began
        log.info("compiled, first step after %.1f s", self.seconds)
