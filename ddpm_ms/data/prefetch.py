"""Work ahead of the training loop."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def prefetch(function: Callable[[Key], Value], keys: Iterable[Key], depth: int = 2) -> Iterator[Value]:
    """``function`` of every key, in order, computed up to ``depth`` ahead by one background thread.

    An exception of ``function`` is raised where its value was due.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    pending: deque[Future[Value]] = deque()
    try:
        for key in keys:
            pending.append(pool.submit(function, key))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # whoever comes next may read the same source
