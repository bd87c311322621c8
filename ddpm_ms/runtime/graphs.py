"""Compiled graphs, and MindSpore's cache of them, made safe."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import logging
import os
import platform
import shutil
import time
import uuid
from pathlib import Path
from typing import Any, Callable

from ddpm_ms.runtime.caches import GRAPHS, cache_dir
from ddpm_ms.runtime.devices import device_target, native_library
from ddpm_ms.runtime.versions import installed_version

log = logging.getLogger("ddpm_ms")

PACKAGE = Path(__file__).parents[1]
CHECKSUMS, PARTIAL = "checksums.json", "partial-"
MOST_ENTRIES = 30  # each is one recipe on one version of the source, a few MB
SMALLEST_FREE = 2**30  # bytes on the disk, below which nothing is kept
SETTINGS = ("MS_DEV_", "MS_ENABLE_", "ONEDNN_", "DNNL_", "DDPM_MS_NATIVE")  # environment variables that alter how graphs are made

# Of the process, as MindSpore's own mode is. That one cannot stand for it: in MindSpore's graph mode every Cell that is called
# becomes a graph, here only what is `compiled`.
_mode = "graph"
_cache_was_used = False


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


def kept(graph: Callable, key: object) -> Callable:
    """``graph``, of `compiled`, whose first call takes what was compiled from the `CompileCache`, or leaves it there. Calls with
    other shapes compile as ever.

    Args:
        graph: it depends on its arguments' shapes and types, on the sources of this package, and on nothing but
        key: everything else.
    """
    caches = iter([CompileCache]) if is_compiling() else iter(())

    def call(*arguments: Any) -> Any:
        make = next(caches, None)
        if make is None:
            return graph(*arguments)
        cache = make((key, [(getattr(a, "shape", a), str(getattr(a, "dtype", ""))) for a in arguments]))
        result = graph(*arguments)
        cache.seal()
        return result

    return call


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
    and, by renaming, makes the directory visible: a directory that was not completed is never read. MindSpore counts from the
    start of the process, so there is one cache in a process: further ones do nothing.

    MindSpore works on a copy, whose files are first compared with the checksums of the entry: neither another process nor a
    damaged file can spoil a run. Where the directory cannot be written, or the disk is nearly full, the graphs are compiled as
    without a cache.

    Attributes:
        state: "new" where the graphs are compiled and will be kept, "found" where they were, "off" where nothing is kept.
    """

    def __init__(self, key: object) -> None:
        global _cache_was_used  # noqa: PLW0603
        self.state = "off"
        if _cache_was_used:
            return
        root = cache_dir() / GRAPHS
        self._final = root / graph_key(key)
        try:
            root.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(root).free < SMALLEST_FREE:
                raise OSError("the disk is nearly full")
            _tidy(root)
            self._path = root / f"{PARTIAL}{uuid.uuid4().hex}"  # tempfile would keep others from reading, whatever the umask says
            self._path.mkdir()
            self.state = "found" if _copied(self._final, self._path) else "new"
        except OSError as error:
            log.info("compiled graphs are not kept (%s: %s)", root, error.strerror or error)
            return
        _cache_was_used = True
        _set_cache(self._path)

    def seal(self) -> None:
        """All graphs are compiled: stop caching, and publish what was written. Calling it again does nothing."""
        if self.state == "off":
            return
        _set_cache(None)
        try:
            if self.state == "new":
                _write_checksums(self._path)
                self._path.rename(self._final)
        except OSError as error:  # of a directory that is there already: another process published the same graphs first
            log.debug("%s: %s", self._final, error)
        shutil.rmtree(self._path, ignore_errors=True)
        self.state = "off"


def _set_cache(path: Path | None) -> None:
    """Where MindSpore keeps graphs from now on; None: nowhere."""
    import mindspore as ms

    if path is None:
        ms.set_context(enable_compile_cache=False)
    else:
        ms.set_context(enable_compile_cache=True, compile_cache_path=str(path))


def _copied(entry: Path, target: Path) -> bool:
    """Copy an entry into ``target``; whether there is one and nothing of it is damaged. A damaged one is deleted."""
    if not entry.is_dir():
        return False
    try:
        shutil.copytree(entry, target, dirs_exist_ok=True)
        wanted = json.loads((target / CHECKSUMS).read_text(encoding="utf-8"))
        (target / CHECKSUMS).unlink()
        if wanted == _checksums(target):
            os.utime(entry)  # the oldest go first
            return True
        problem = "a file was altered"
    except (OSError, ValueError) as error:
        problem = str(error)
    log.warning("compiled graphs %s are damaged (%s): compiling them again", entry, problem)
    shutil.rmtree(entry, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    return False


def _write_checksums(entry: Path) -> None:
    (entry / CHECKSUMS).write_text(json.dumps(_checksums(entry)), encoding="utf-8")


def _checksums(entry: Path) -> dict[str, str]:
    files = [path for path in entry.rglob("*") if path.is_file()]
    return {str(path.relative_to(entry)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def _tidy(root: Path) -> None:
    """Delete what killed processes left a day ago, and the entries that were not used for the longest time."""
    entries: list[tuple[float, Path]] = []
    left: list[tuple[float, Path]] = []
    for path in root.iterdir():
        with contextlib.suppress(OSError):  # another process deletes it
            used = path.stat().st_mtime
            (left if path.name.startswith(PARTIAL) else entries).append((used, path))
    old = [path for used, path in left if used < time.time() - 24 * 3600] + [path for _, path in sorted(entries)[:-MOST_ENTRIES]]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)


def graph_key(key: object) -> str:
    """A name that changes whenever a compiled graph could: every source of this package, versions, processor and device, what the
    environment tells MindSpore, and the caller's ``key``."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    versions = [installed_version("mindspore"), _mindspore_commit(), platform.python_version(), platform.machine()]
    rank = [os.environ.get("RANK_ID"), os.environ.get("MS_WORKER_NUM")]
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith(SETTINGS))
    digest.update(repr((versions, device_target(), rank, settings, native_library(), key)).encode())
    return digest.hexdigest()[:32]


def _mindspore_commit() -> str:
    """Of the source that the installed MindSpore was built from, which may not be that of a release."""
    spec = importlib.util.find_spec("mindspore")
    with contextlib.suppress(OSError, AttributeError, TypeError):
        return Path(spec.submodule_search_locations[0], ".commit_id").read_text(encoding="utf-8", errors="replace")  # type: ignore
    return ""
