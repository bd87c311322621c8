"""Compile the native operators against the oneDNN that MindSpore ships, once per machine and version."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES, HEADERS = (tuple(sorted(Path(__file__).parent.glob(f"*.{suffix}"))) for suffix in ("cpp", "h"))
# Nothing here depends on errno or on floating-point traps; without saying so, few loops would become vector instructions.
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-fPIC", "-pthread")


class BuildError(RuntimeError):
    """There is no native library, and why."""


def build(onednn: Path | None, cache: Path) -> Path:
    """The compiled library, from ``cache`` if it is there.

    Args:
        onednn: MindSpore's libdnnl.so.3, the library that the result links to; None if MindSpore ships another.
        cache: directory for the result; its name depends on the source, the flags and ``onednn``.

    Raises:
        BuildError: no compiler, no oneDNN 3, or the compilation fails.
    """
    if onednn is None:
        raise BuildError("this MindSpore does not ship oneDNN 3")
    status = onednn.stat()
    key = repr(([path.read_bytes() for path in SOURCES + HEADERS], FLAGS, str(onednn), status.st_size, status.st_mtime_ns))
    target = cache / f"libddpm_ms_{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if target.is_file():
        return target
    compiler = next((c for c in ("g++", "c++", "clang++") if shutil.which(c)), None)
    if compiler is None:
        raise BuildError("no C++ compiler: install g++")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [Path(folder, source.stem + ".o") for source in SOURCES]
            list(pool.map(lambda source, made: _run(compiler, *FLAGS, "-c", source, "-o", made), SOURCES, objects))
            made = Path(folder, target.name)
            _run(compiler, *FLAGS, "-shared", "-o", made, *objects, onednn, f"-Wl,-rpath,{onednn.parent}")
            os.replace(made, target)  # two processes may build at once; either result will do
    except OSError as error:
        raise BuildError(str(error)) from None
    return target


def _run(compiler: str, *arguments: object) -> None:
    done = subprocess.run([compiler, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{compiler} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
