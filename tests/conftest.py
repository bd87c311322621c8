"""What all tests share: one CPU runtime, and a network small enough to compile in seconds."""

import os

import pytest

os.environ.setdefault("GLOG_v", "3")

from ddpm_ms import runtime
from ddpm_ms.config import RuntimeConfig
from ddpm_ms.runtime import graphs


@pytest.fixture(scope="session", autouse=True)
def cpu_runtime():
    graphs._cache_was_used = True  # what tests compile is compiled, and not left in the user's cache
    return runtime.setup(RuntimeConfig(device="CPU"))


@pytest.fixture
def without_graphs(monkeypatch):
    """Operator by operator: for tests of the loop, to which graphs add nothing but the time that compiling them takes."""
    monkeypatch.setattr("ddpm_ms.runtime.graphs._mode", "pynative")


@pytest.fixture
def without_values(monkeypatch):
    """Parameters that have shapes alone: the largest networks would take gigabytes."""
    monkeypatch.setattr("mindspore.Parameter.init_param", False, raising=False)


@pytest.fixture
def tiny_unet():
    """A function that makes a network of a few thousand parameters, the same one every time."""
    from ddpm_ms import Unet

    def make(**changes):
        runtime.seed_weights(0)
        keywords = dict(dim=8, dim_mults=(1, 2), channels=1, attn_heads=1, attn_dim_head=4)
        return Unet(**{**keywords, **changes})

    return make
