"""The one place for device, execution mode, ranks, environment variables and versions.

Nobody else in the package reads an environment variable or calls ``set_device``, ``set_context``, ``init`` or
``get_rank``. MindSpore is imported inside the functions, so that importing this module starts nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

from ddpm_ms.config import RuntimeConfig
from ddpm_ms.errors import InputError
from ddpm_ms.ops.cpu import build
from ddpm_ms.version import __version__

log = logging.getLogger("ddpm_ms")

DEVICES = ("Ascend", "GPU", "CPU")
MINDSPORE_VERSIONS = ((2, 9), (2, 10))  # oldest and newest that the tests were run on
_WHAT_TO_INSTALL = {
    "Ascend": "the CANN toolkit and kernels that match this MindSpore, then source its set_env.sh",
    "GPU": "the NVIDIA driver, CUDA and cuDNN of the versions this MindSpore was built for",
    "CPU": "a MindSpore wheel for this processor",
}

_mode = "graph"
_AVX2 = 0x7  # oneDNN's dnnl_cpu_isa_avx2


@dataclass(frozen=True)
class Runtime:
    """What `setup` started."""

    device: str
    rank: int
    world: int
    reason: str  # why this device, in one line
    cpu_math: str = "fp32"


def device_target() -> str:
    """The device that MindSpore computes on, or will choose: "Ascend", "GPU" or "CPU"."""
    import mindspore as ms

    return ms.get_context("device_target")


def native_library() -> str | None:
    """The library of `ddpm_ms.ops.cpu` for this machine, built at first use; None on Ascend and GPU or without a compiler.

    ``DDPM_MS_NATIVE=0`` turns it off.
    """
    if device_target() != "CPU":
        return None
    library = None if os.environ.get("DDPM_MS_NATIVE") == "0" else _build_native()
    if library is None:  # so MindSpore's own convolutions will be used
        _limit_onednn()
    return library


@functools.cache
def _build_native() -> str | None:
    try:
        library = str(build.build(_onednn(), cache_dir() / "native"))
        # What the user set, or the cores that this process may use.
        threads = os.environ.get("OMP_NUM_THREADS", "")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ctypes.CDLL(library).set_number_of_threads(int(threads) if threads.isdigit() and int(threads) > 0 else cores)
        return library
    except (build.BuildError, OSError) as error:
        log.info("native CPU operators not available (%s): using MindSpore's own, which are slower", error)
        return None


def check_versions() -> None:
    """Raise `InputError` when NumPy or MindSpore is missing or of a version that is known not to work."""
    numpy, mindspore = _installed_version("numpy"), _installed_version("mindspore")
    if numpy is None or not (1, 25) <= numpy < (2,):
        raise InputError(f"NumPy is {_dotted(numpy)}, allowed: 1.25 up to but not 2.0 (MindSpore's binaries need "
                         "NumPy 1): pip install 'numpy>=1.25,<2'")
    low, high = MINDSPORE_VERSIONS
    if mindspore is None or not low <= mindspore[:2] <= high:
        raise InputError(f"MindSpore is {_dotted(mindspore)}, allowed: {_dotted(low)} to {_dotted(high)}: "
                         f"pip install mindspore=={_dotted(high)}.0")


def setup(config: RuntimeConfig) -> Runtime:
    """Choose and start the device, set the execution mode, and join the other ranks if ``msrun`` started this process.

    Raises:
        InputError: a version is wrong, or the device that was asked for cannot start.
    """
    global _mode
    check_versions()
    quiet()
    import mindspore as ms

    device, reason = _start_device(config.device)
    _mode = config.mode
    if device == "CPU":
        _tune_cpu()
    if config.cpu_math == "bf16":
        _allow_bfloat16(device)
    # Graph mode here means: `compiled` functions are graphs. Everything around them stays plain Python.
    ms.set_context(mode=ms.PYNATIVE_MODE)
    rank, world = _join_ranks() if _distributed() else (0, 1)
    return Runtime(device, rank, world, reason, config.cpu_math)


def quiet() -> None:
    """Before MindSpore is imported: keep its warnings, which would drown a progress bar, to itself; errors stay."""
    os.environ.setdefault("GLOG_v", "3")


def current() -> Runtime:
    """One process on the device that MindSpore has or will choose: what a notebook gets without `setup`."""
    device = device_target()
    if device == "CPU":
        _tune_cpu()
    return Runtime(device, 0, 1, "MindSpore's current device")


def seed_weights(seed: int) -> None:
    """Make the initial weights of the networks built next a function of ``seed``."""
    import mindspore as ms

    ms.set_seed(seed % 2**32)


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
        self.final = root / _graph_key(key)
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


def cache_dir() -> Path:
    """Where this user's caches live (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddpm_ms"


def stderr_is_terminal() -> bool:
    """Whether a progress bar makes sense."""
    return sys.stderr.isatty()


def environment(runtime: Runtime) -> dict[str, Any]:
    """Versions, device and source revision, as a run records them."""
    packages = ("mindspore", "numpy", "pillow", "safetensors", "matplotlib", "scikit-learn")
    return {
        "ddpm_ms": __version__,
        "git": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _dotted(_installed_version(name)) for name in packages},
        "device": runtime.device,
        "world_size": runtime.world,
        "cpus": os.cpu_count(),
        "ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA"),
    }


def _distributed() -> bool:
    """Whether ``msrun`` started this process as one of several."""
    return int(os.environ.get("MS_WORKER_NUM", "1")) > 1


def _join_ranks() -> tuple[int, int]:
    """(rank, number of ranks), once all have come. msrun's scheduler process stays in here until they have gone."""
    from mindspore.communication import get_group_size, get_rank, init

    if os.environ.get("MS_ROLE") == "MS_SCHED":
        # Whoever signals a whole job means the workers: without the scheduler they could not finish their step.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    init()
    return get_rank(), get_group_size()


def _tune_cpu() -> None:
    """Settings that MindSpore and oneDNN read when they compute for the first time, which is later than this."""
    # The main thread would wait for results in a busy loop and take a core away from the kernels: on two cores that
    # doubles the time of a step.
    os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
    native_library()


def _allow_bfloat16(device: str) -> None:
    """Let the native convolutions compute in bfloat16, with float32 sums; `InputError` where that would gain nothing."""
    if device != "CPU":
        raise InputError(f"runtime.cpu_math is bf16 on {device}, allowed: fp32 (training.amp_level is for devices)")
    if not _has_bfloat16_units():
        raise InputError("runtime.cpu_math is bf16, but this processor has no bfloat16 units (amx_bf16, avx512_bf16), "
                         "allowed: fp32")
    library = native_library()
    if library is None:
        raise InputError("runtime.cpu_math is bf16, but there are no native operators (they need g++), allowed: fp32")
    ctypes.CDLL(library).allow_bfloat16()


def _has_bfloat16_units() -> bool:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"amx_bf16", "avx512_bf16", "bf16"})


def _start_device(wanted: str) -> tuple[str, str]:
    """Start ``wanted``, or for "auto" the first of `DEVICES` that starts: (device, why)."""
    refusals = []
    for device in DEVICES if wanted == "auto" else (wanted,):
        error = _try_device(device)
        if error is None:
            return device, "asked for" if wanted != "auto" else "; ".join(refusals) or "first choice"
        refusals.append(f"{device} cannot start ({error})")
    raise InputError(f"device is {wanted}, but {'; '.join(refusals)}. It needs {_WHAT_TO_INSTALL.get(wanted, '')}")


def _try_device(device: str) -> str | None:
    """None if ``device`` starts and, unless it is the CPU, computes; else what is missing."""
    import mindspore as ms

    with tempfile.TemporaryFile("w+") as noise:
        try:
            with _stderr_into(noise):
                ms.set_device(device, _device_id(device))
                # set_device must come before init, init before every operator; and _tune_cpu before the first one on CPUs
                if device != "CPU" and not _distributed():
                    ms.ops.add(ms.Tensor(1.0), ms.Tensor(1.0)).asnumpy()
            return None
        except (RuntimeError, ValueError) as error:
            noise.seek(0)
            text = f"{noise.read()} {error}"
    missing = sorted(set(re.findall(r"\blib(?:cu|ascend|hccl|nvidia|nccl)[\w.-]*?\.so", text)))
    return f"{', '.join(missing)} not found" if missing else "this MindSpore finds no such device or driver"


def _device_id(device: str) -> int | None:
    """The card that DEVICE_ID names, for one process; of several ranks each has its own from MindSpore."""
    named = os.environ.get("DEVICE_ID")
    if named is None or device == "CPU" or _distributed():
        return None
    if not named.isdigit():
        raise InputError(f"DEVICE_ID is {named!r}, allowed: the number of a card, from 0")
    return int(named)


@contextlib.contextmanager
def _stderr_into(file: Any) -> Iterator[None]:
    """Send file descriptor 2, which native code writes to, into ``file``."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


def _graph_key(key: object) -> str:
    """A name that changes whenever a compiled graph could: source, versions, processor, and the caller's ``key``."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    versions = [_installed_version("mindspore"), platform.python_version(), platform.machine()]
    rank = [os.environ.get("RANK_ID"), os.environ.get("MS_WORKER_NUM")]
    settings = [os.environ.get(name) for name in ("ONEDNN_MAX_CPU_ISA", "DDPM_MS_NATIVE")]
    digest.update(repr((versions, device_target(), rank, settings, native_library(), key)).encode())
    return digest.hexdigest()[:32]


def _onednn() -> Path | None:
    """The oneDNN 3 that MindSpore ships, if it is that."""
    spec = importlib.util.find_spec("mindspore")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(iter(sorted(Path(spec.submodule_search_locations[0], "lib").glob("libdnnl.so.3*"))), None)


@functools.cache
def _limit_onednn() -> None:
    """Keep oneDNN 3 off its AVX-512 code paths, where MindSpore's own convolutions fall to a reference kernel.

    MindSpore 2.10 hands oneDNN fixed plain layouts; with AVX-512 a 3x3 convolution then runs about 70 times slower than with
    AVX2. oneDNN takes the limit before its first kernel alone. The user's own setting comes first.
    """
    library = _onednn()
    if library is None or {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"} & os.environ.keys():
        return
    with contextlib.suppress(OSError):
        if "avx512f" in Path("/proc/cpuinfo").read_text() and ctypes.CDLL(str(library)).dnnl_set_max_cpu_isa(_AVX2) != 0:
            log.warning("MindSpore has computed before this package could set oneDNN up: convolutions will be slow. Set "
                        "ONEDNN_MAX_CPU_ISA=AVX2, or import ddpm_ms and make the network first")


def _installed_version(package: str) -> tuple[int, ...] | None:
    try:
        text = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _dotted(version: tuple[int, ...] | None) -> str:
    return "not installed" if version is None else ".".join(map(str, version))


def _git_revision() -> str | None:
    """Commit of the source tree this package runs from, with "-dirty" if edited; None outside a checkout."""
    source = Path(__file__).resolve().parents[1]

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(source), *command], capture_output=True, text=True, check=True,
                              timeout=10).stdout.strip()

    try:
        # Installed below somebody else's repository, this would be the commit of that.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != source:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return None
