"""Compiled graphs, and MindSpore's cache of them, made safe."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import uuid
from pathlib import Path
from typing import Callable

from ddpm_ms.runtime.caches import cache_dir
from ddpm_ms.runtime.devices import device_target, native_library
from ddpm_ms.runtime.versions import installed_version

PACKAGE = Path(__file__).parents[1]

# Of the process, as MindSpore's own mode is. That one cannot stand for it: in MindSpore's graph mode every Cell that is called
# becomes a graph, here only what is `compiled`.
_mode = "graph"


def use(mode: str) -> None:
    """From here on `compiled` makes graphs ("graph"), or nothing ("pynative")."""
    global _mode  # noqa: PLW0603
    _mode = mode


def compiled(method: Callable) -> Callable:
    """``method`` as one graph, or unchanged in PyNative mode.

    ``method`` must be bound to the Cell that owns every parameter it touches: MindSpore links parameters through
    ``self``, and a graph from the compile cache whose parameters hang elsewhere computes NaN without a word.
    """
    if _mode == "pynative":
        return method
    import mindspore as ms

    return ms.jit(method)


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
        self.path = self.final
        if not self.final.is_dir():
            self.path = root / f"partial-{uuid.uuid4().hex}"  # tempfile would keep others from reading, whatever the umask says
            self.path.mkdir()
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
