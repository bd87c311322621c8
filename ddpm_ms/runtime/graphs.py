"""Compiled graphs, and MindSpore's cache of them, made safe."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable

from ddpm_ms.runtime.caches import cache_dir
from ddpm_ms.runtime.devices import device_target, native_library
from ddpm_ms.runtime.versions import installed_version

log = logging.getLogger("ddpm_ms")

PACKAGE = Path(__file__).parents[1]

# Of the process, as MindSpore's own mode is. That one cannot stand for it: in MindSpore's graph mode every Cell that is called
# becomes a graph, here only what is `compiled`.
_mode = "graph"


def use(mode: str) -> None:
    """From here on `compiled` makes graphs ("graph"), or nothing ("pynative")."""
    global _mode  # noqa: PLW0603
    _mode = mode


def compiled(method: Callable) -> Callable:
    """``method`` as one graph, or unchanged in PyNative mode, and where MindSpore could not read the source of a Cell in it.

    ``method`` must be bound to the Cell that owns every parameter it touches: MindSpore links parameters through
    ``self``, and a graph from the compile cache whose parameters hang elsewhere computes NaN without a word.
    """
    if _mode == "pynative" or _without_source(method):
        return method
    import mindspore as ms

    # Where a graph cannot be compiled MindSpore writes a file about it, else into the working directory.
    os.environ.setdefault("MS_OM_PATH", str(cache_dir() / "failed_graphs"))
    return ms.jit(method)


def _without_source(method: Callable) -> bool:
    """Whether a Cell that ``method`` may call was typed into a session and is in no file; MindSpore compiles source."""
    cell: Any = getattr(method, "__self__", None)
    kinds: dict[Any, None] = {type(part): None for _, part in cell.cells_and_names()} if hasattr(cell, "cells_and_names") else {}
    return any([not _has_source(kind) for kind in kinds])  # a list: each is named


@functools.lru_cache(None)
def _has_source(kind: Any) -> bool:
    try:
        inspect.getsourcelines(kind.construct)
    except (OSError, TypeError):
        log.warning("the source of %s cannot be read, so it runs operator by operator, slower than in a graph; a class in a file "
                    "is compiled", kind.__name__)
        return False
    return True


def is_compiling() -> bool:
    """Whether `compiled` makes graphs."""
    return _mode == "graph"


class CompileCache:
    """MindSpore's compile cache, made safe.

    MindSpore numbers cached graphs by the order of compilation and checks neither shapes nor constants, so the graph of
    another model, or of the same model after an edit, would be taken without a word. Here a directory's name is a hash
    of everything a graph depends on; the caller compiles in a fixed order and then calls `seal`, which stops caching
    and, by renaming, makes the directory visible: a directory that was not completed is never read.
    """

    def __init__(self, key: object) -> None:
        import mindspore as ms

        root = cache_dir() / "graphs"
        root.mkdir(parents=True, exist_ok=True)
        self.final = root / graph_key(key)
        self.path = self.final if self.final.is_dir() else Path(tempfile.mkdtemp(prefix="partial-", dir=root))
        ms.set_context(enable_compile_cache=True, compile_cache_path=str(self.path))

    def seal(self) -> None:
        """All graphs are compiled: stop caching and publish what was written. Calling it again does nothing."""
        import mindspore as ms

        ms.set_context(enable_compile_cache=False)
        if self.path != self.final:
            try:
                self.path.rename(self.final)
            except OSError:  # another process published the same graphs first
                shutil.rmtree(self.path, ignore_errors=True)
            self.path = self.final


def graph_key(key: object) -> str:
    """A name that changes whenever a compiled graph could: source, versions, processor, and the caller's ``key``."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    versions = [installed_version("mindspore"), platform.python_version(), platform.machine()]
    rank = [os.environ.get("RANK_ID"), os.environ.get("MS_WORKER_NUM")]
    settings = [os.environ.get(name) for name in ("ONEDNN_MAX_CPU_ISA", "DDPM_MS_NATIVE")]
    digest.update(repr((versions, device_target(), rank, settings, native_library(), key)).encode())
    return digest.hexdigest()[:32]
