"""Versions and the CPU guard."""

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


def test_only_devices_are_tried_out_before_the_settings_that_a_cpu_reads_when_it_first_computes(monkeypatch):
    def compute(*_):
        raise RuntimeError("computed")

    monkeypatch.setattr(ms, "set_device", lambda *_: None)
    monkeypatch.setattr(ms.ops, "add", compute)
    assert runtime._try_device("CPU") is None
    assert runtime._try_device("Ascend") is not None
