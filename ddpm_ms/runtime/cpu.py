"""What makes a CPU fast: the native operators, oneDNN's instruction sets, threads that do not wait in a loop.

All of it is read once per process, when MindSpore or oneDNN computes for the first time: hence the results are cached, and
`tune` comes before any operator.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import logging
import os
from pathlib import Path

from ddpm_ms.native import build
from ddpm_ms.runtime.caches import NATIVE, cache_dir

log = logging.getLogger("ddpm_ms")

_AVX2 = 0x7  # oneDNN's dnnl_cpu_isa_avx2


def tune() -> None:
    """Settings that MindSpore and oneDNN read when they compute for the first time, which is later than this."""
    # The main thread would wait for results in a busy loop and take a core away from the kernels: on two cores that
    # doubles the time of a step.
    os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
    native_library()


def native_library() -> str | None:
    """The library of `ddpm_ms.native` for this machine, built at first use; None without a compiler.

    ``DDPM_MS_NATIVE=0`` turns it off.
    """
    library = None if os.environ.get("DDPM_MS_NATIVE") == "0" else _build_native()
    if library is None:  # so MindSpore's own convolutions will be used
        _limit_onednn()
    return library


def onednn() -> Path | None:
    """The oneDNN 3 that MindSpore ships, if it is that."""
    spec = importlib.util.find_spec("mindspore")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(iter(sorted(Path(spec.submodule_search_locations[0], "lib").glob("libdnnl.so.3*"))), None)


@functools.cache
def _build_native() -> str | None:
    try:
        library = str(build.build(onednn(), cache_dir() / NATIVE))
        # What the user set, or the cores that this process may use.
        threads = os.environ.get("OMP_NUM_THREADS", "")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ctypes.CDLL(library).set_number_of_threads(int(threads) if threads.isdigit() and int(threads) > 0 else cores)
        return library
    except (build.BuildError, OSError) as error:
        log.info("native CPU operators not available (%s): using MindSpore's own, which are slower", error)
        return None


@functools.cache
def _limit_onednn() -> None:
    """Keep oneDNN 3 off its AVX-512 code paths, where MindSpore's own convolutions fall to a reference kernel.

    MindSpore 2.10 hands oneDNN fixed plain layouts; with AVX-512 a 3x3 convolution then runs about 70 times slower than with
    AVX2. oneDNN takes the limit before its first kernel alone. The user's own setting comes first.
    """
    library = onednn()
    if library is None or {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"} & os.environ.keys():
        return
    with contextlib.suppress(OSError):
        if "avx512f" in Path("/proc/cpuinfo").read_text() and ctypes.CDLL(str(library)).dnnl_set_max_cpu_isa(_AVX2) != 0:
            log.warning("MindSpore has computed before this package could set oneDNN up: convolutions will be slow. Set "
                        "ONEDNN_MAX_CPU_ISA=AVX2, or import ddpm_ms and make the network first")
