"""Versions and the CPU guard."""

import shutil
import subprocess

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


def test_the_guard_never_overrides_the_users_setting(monkeypatch):
    monkeypatch.setattr(runtime, "_mindspore_ships_onednn3", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    runtime.guard_cpu_kernels()
    assert runtime.os.environ["ONEDNN_MAX_CPU_ISA"] == "SSE41"
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(runtime, "_mindspore_ships_onednn3", lambda: False)
    runtime.guard_cpu_kernels()
    assert "ONEDNN_MAX_CPU_ISA" not in runtime.os.environ


@pytest.mark.parametrize("capped", [True, False])
def test_what_is_timed_elsewhere_does_not_inherit_the_guard_but_the_users_setting(monkeypatch, capped):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr(runtime, "_capped", capped)
    assert ("ONEDNN_MAX_CPU_ISA" in runtime.environment_for_others()) is not capped
    assert "PATH" in runtime.environment_for_others()


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
