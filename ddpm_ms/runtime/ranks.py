"""Joining the other ranks, and what ranks tell each other outside of the optimizer step: every rank must enter; with one process
nothing happens."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator

import numpy as np

from ddpm_ms.errors import InputError
from ddpm_ms.runtime.devices import Runtime

log = logging.getLogger("ddpm_ms")


def join() -> tuple[int, int]:
    """(rank, number of ranks), once all have come. msrun's scheduler process stays in here until they have gone."""
    from mindspore.communication import get_group_size, get_rank, init

    if os.environ.get("MS_ROLE") == "MS_SCHED":
        # Whoever signals a whole job means the workers: without the scheduler they could not finish their step.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    else:
        # Said once: until all have come, MindSpore lets no other thread of Python run. `launch` says it again.
        log.info("waiting for all %s ranks to meet at %s:%s", *(os.environ.get(name, "?") for name in (
            "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT")))
    init()
    return get_rank(), get_group_size()


def gather(array: np.ndarray, runtime: Runtime) -> np.ndarray:
    """``array`` (float32 or int32, of one shape) of every rank, joined along its first axis in the order of the ranks."""
    if runtime.world == 1:
        return array
    from mindspore import Tensor, ops

    return ops.AllGather()(Tensor(np.ascontiguousarray(array))).asnumpy()


@dataclass(frozen=True)
class Shares:
    """A count of images (or of whatever is numbered from 0), shared out over the ranks in rounds of equal batches.

    In each round every rank has one batch, all of one size, since another size would be another compiled graph. So the last
    round may go past the end: what is computed for those numbers is cut.

    Args:
        count: how many there are, at least 1.
        largest_batch: how many a rank computes at once; fewer where its share is smaller.
        runtime: the ranks.
    """

    count: int
    largest_batch: int
    runtime: Runtime

    @property
    def batch_size(self) -> int:
        """Of every rank in every round."""
        return min(self.largest_batch, -(-self.count // self.runtime.world))

    @property
    def batches(self) -> list[range]:
        """The numbers of this rank's batches, one for each round."""
        size, world = self.batch_size, self.runtime.world
        return [range(first, first + size) for first in range(self.runtime.rank * size, self.rounds * size * world, size * world)]

    @property
    def rounds(self) -> int:
        """How many batches each rank has."""
        return -(-self.count // (self.batch_size * self.runtime.world))

    def collect(self, compute: Callable[[range], np.ndarray]) -> np.ndarray:
        """Rows 0 .. count - 1 of what ``compute`` returns for each batch (float32 or int32), on every rank.

        ``compute`` must take numbers past the end.
        """
        return np.concatenate(list(self.rows(compute)))

    def rows(self, compute: Callable[[range], np.ndarray]) -> Iterator[np.ndarray]:
        """The rows of `collect`, round by round."""
        left = self.count
        for batch in self.batches:
            found = gather(compute(batch), self.runtime)[:left]
            left -= len(found)
            yield found


def broadcast_text(text: str, runtime: Runtime) -> str:
    """Rank 0's ``text``, on every rank."""
    if runtime.world == 1:
        return text
    from mindspore import Tensor, ops

    def from_rank_0(numbers: Any) -> np.ndarray:
        return ops.Broadcast(0)((Tensor(np.asarray(numbers, np.int32)),))[0].asnumpy()

    data = text.encode()
    length = int(from_rank_0([len(data)])[0])
    mine = np.frombuffer(data, np.uint8) if runtime.rank == 0 else np.zeros(length)
    return from_rank_0([*mine, 0])[:length].astype(np.uint8).tobytes().decode()


def broadcast_parameters(parameters: Iterable[Any], runtime: Runtime) -> None:
    """Give every float32 parameter the value that it has on rank 0, in place: compiled graphs keep their memory."""
    if runtime.world == 1:
        return
    from mindspore import ops

    for parameter in parameters:
        ops.assign(parameter, ops.Broadcast(0)((parameter,))[0])


def on_rank_0(function: Callable[[], None], runtime: Runtime) -> None:
    """Call ``function`` on rank 0 alone; an `InputError` that it raises is raised on every rank."""
    if runtime.world == 1:
        return function()
    problem = ""
    if runtime.rank == 0:
        try:
            function()
        except InputError as error:
            problem = str(error)
    problem = broadcast_text(problem, runtime)
    if problem:
        raise InputError(problem)
