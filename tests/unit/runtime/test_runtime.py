"""Versions, caches, the CPU guard, and what is forced into an order."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import pytest

from ddpm_ms import runtime
from ddpm_ms.config import RuntimeConfig
from ddpm_ms.errors import InputError
from ddpm_ms.runtime import devices, graphs, ranks, start, versions


@pytest.mark.parametrize(("package", "version", "message"), [
    ("numpy", (2, 1, 0), r"NumPy is 2\.1\.0, allowed: 1\.25"), ("numpy", None, "NumPy is not installed"),
    ("mindspore", (2, 2, 0), r"MindSpore is 2\.2\.0, allowed: 2\.9 to 2\.10"), ("mindspore", None, "MindSpore is not installed"),
])
def test_a_wrong_version_is_one_line(monkeypatch, package, version, message):
    installed = {"numpy": (1, 26, 4), "mindspore": (2, 10, 0), package: version}
    monkeypatch.setattr(versions, "installed_version", installed.get)
    with pytest.raises(InputError, match=message) as error:
        runtime.check_versions()
    assert "\n" not in str(error.value)


AVX512 = Path("/proc/cpuinfo").exists() and "avx512f" in Path("/proc/cpuinfo").read_text()
# Makes a convolution in a process of its own and prints which instructions oneDNN will use at most.
LIMIT = """
import ctypes, os
before = dict(os.environ)
import ddpm_ms
assert dict(os.environ) == before, "importing changed the environment"
from ddpm_ms.runtime import cpu
from ddpm_ms.ops.convolution import Conv2d
Conv2d(1, 1, 3, 1, 1, has_bias=True)
print(ctypes.CDLL(str(cpu.onednn())).dnnl_get_effective_cpu_isa())
"""


@pytest.mark.skipif(not AVX512, reason="this processor has no AVX-512")
@pytest.mark.parametrize(("environment", "limit"), [
    ({"DDPM_MS_NATIVE": "0"}, 0x7), ({"DDPM_MS_NATIVE": "0", "ONEDNN_MAX_CPU_ISA": "SSE41"}, 0x1),
])
def test_stock_convolutions_stay_off_avx512_unless_the_user_says_otherwise(environment, limit):
    done = subprocess.run([sys.executable, "-c", LIMIT], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == limit


@pytest.mark.skipif(not AVX512 or shutil.which("g++") is None, reason="this processor has no AVX-512, or there is no compiler")
def test_native_convolutions_may_use_all_that_the_processor_has():
    done = subprocess.run([sys.executable, "-c", LIMIT], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout.split()[-1]) > 0x7, done.stderr


def test_the_compile_cache_tells_devices_apart(monkeypatch):
    of_cpu = graphs.graph_key({"dim": 8})
    assert graphs.graph_key({"dim": 8}) == of_cpu != graphs.graph_key({"dim": 16})
    monkeypatch.setattr(graphs, "device_target", lambda: "Ascend")
    assert graphs.graph_key({"dim": 8}) != of_cpu


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_revision_is_that_of_this_source_and_not_of_a_repository_around_it(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "a"]
    subprocess.run(commit, check=True)
    (tmp_path / "site").mkdir()
    assert versions.source_revision(tmp_path / "site") is None
    assert len(versions.source_revision(tmp_path)) == 12
    assert versions.source_revision(Path(runtime.__file__).parents[2]) == runtime.environment(runtime.current())["git"]


def test_only_devices_are_tried_out_before_the_settings_that_a_cpu_reads_when_it_first_computes(monkeypatch):
    def compute(*_):
        raise RuntimeError("computed")

    monkeypatch.setattr(ms, "set_device", lambda *_: None)
    monkeypatch.setattr(ms.ops, "add", compute)
    assert devices.try_device("CPU") is None
    assert devices.try_device("Ascend") is not None


@pytest.mark.parametrize(("there", "why"), [
    ((), "no Ascend, no GPU"), (("GPU",), "no Ascend, GPU cannot start (libcudart.so not found)")])
def test_why_a_device_was_not_taken_is_said_where_it_is_expected(monkeypatch, there, why):
    monkeypatch.setattr(devices, "try_device", lambda device: None if device == "CPU" else "libcudart.so not found")
    monkeypatch.setattr(devices, "_seems_there", lambda device: device in there)
    assert devices.start_device("auto") == ("CPU", why)
    with pytest.raises(InputError, match=r"device is GPU, but GPU cannot start \(libcudart.so not found\). It needs the NVIDIA"):
        devices.start_device("GPU")


def test_a_cache_of_graphs_can_be_read_by_whom_the_umask_lets(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ms, "set_context", lambda **_: None)
    monkeypatch.setattr(graphs, "_cache_was_used", False)
    before = os.umask(0o027)
    try:
        graphs.CompileCache("key").seal()
    finally:
        os.umask(before)
    (entry,) = (tmp_path / "ddpm_ms" / "graphs").iterdir()
    assert oct(entry.stat().st_mode & 0o777) == "0o750"


@pytest.mark.parametrize(("environment", "expected"), [({"XDG_CACHE_HOME": "/var/tmp/c"}, "/var/tmp/c/ddpm_ms"),
                                                      ({"XDG_CACHE_HOME": "", "HOME": "/home/a"}, "/home/a/.cache/ddpm_ms")])
def test_caches_are_where_the_xdg_specification_puts_them(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert runtime.cache_dir() == Path(expected)


def test_setting_up_keeps_the_order_that_mindspore_forces(monkeypatch):
    """Device, then the CPU's settings, which the first operator reads, then the other ranks; and nothing has computed by then."""
    done = []
    for module, name, result in ((start, "start_device", ("CPU", "a test")), (start.cpu, "tune", None),
                                 (ranks, "join", (1, 2))):
        monkeypatch.setattr(module, name, lambda *_, name=name, result=result: done.append(name) or result)
    monkeypatch.setattr(start, "is_one_of_several", lambda: True)
    monkeypatch.setattr(start.graphs, "_mode", "graph")
    started = runtime.setup(RuntimeConfig(device="CPU", mode="pynative"))
    assert done == ["start_device", "tune", "join"]
    assert (started.rank, started.world, started.reason) == (1, 2, "a test")
    assert not runtime.is_compiling() and runtime.compiled(len) is len


def test_importing_the_room_needs_neither_numpy_nor_mindspore():
    # They may be missing, or of a wrong version, which is said in one line when they are needed.
    code = "import sys; sys.modules.update(numpy=None, mindspore=None); import ddpm_ms.runtime"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
