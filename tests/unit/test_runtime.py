"""Versions and the CPU guard."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import pytest

from ddpm_ms import runtime
from ddpm_ms.errors import InputError


@pytest.mark.parametrize(("package", "version", "message"), [
    ("numpy", (2, 1, 0), r"NumPy is 2\.1\.0, allowed: 1\.25"), ("numpy", None, "NumPy is not installed"),
    ("mindspore", (2, 2, 0), r"MindSpore is 2\.2\.0, allowed: 2\.9 to 2\.10"), ("mindspore", None, "MindSpore is not installed"),
])
def test_a_wrong_version_is_one_line(monkeypatch, package, version, message):
    installed = {"numpy": (1, 26, 4), "mindspore": (2, 10, 0), package: version}
    monkeypatch.setattr(runtime, "_installed_version", installed.get)
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
from ddpm_ms import runtime
from ddpm_ms.ops.convolution import Conv2d
Conv2d(1, 1, 3, 1, 1, has_bias=True)
print(ctypes.CDLL(str(runtime._onednn())).dnnl_get_effective_cpu_isa())
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
    of_cpu = runtime._graph_key({"dim": 8})
    assert runtime._graph_key({"dim": 8}) == of_cpu != runtime._graph_key({"dim": 16})
    monkeypatch.setattr(runtime, "device_target", lambda: "Ascend")
    assert runtime._graph_key({"dim": 8}) != of_cpu


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_revision_is_that_of_this_source_and_not_of_a_repository_around_it(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "a"]
    subprocess.run(commit, check=True)
    (tmp_path / "site" / "ddpm_ms").mkdir(parents=True)
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "site" / "ddpm_ms" / "runtime.py"))
    assert runtime._git_revision() is None
    (tmp_path / "ddpm_ms").mkdir()
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "ddpm_ms" / "runtime.py"))
    assert len(runtime._git_revision()) == 12


def test_only_devices_are_tried_out_before_the_settings_that_a_cpu_reads_when_it_first_computes(monkeypatch):
    def compute(*_):
        raise RuntimeError("computed")

    monkeypatch.setattr(ms, "set_device", lambda *_: None)
    monkeypatch.setattr(ms.ops, "add", compute)
    assert runtime._try_device("CPU") is None
    assert runtime._try_device("Ascend") is not None
