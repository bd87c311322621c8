"""What all tests share: one CPU runtime, and a network small enough to compile in seconds."""

import os

import numpy as np
import pytest

os.environ.setdefault("GLOG_v", "3")

from ddpm_ms import runtime
from ddpm_ms.config import RuntimeConfig
from ddpm_ms.runtime import graphs


@pytest.fixture(scope="session", autouse=True)
def cpu_runtime():
    graphs._cache_was_used = True  # what tests compile is compiled, and not left in the user's cache
    return runtime.setup(RuntimeConfig(device="CPU"))


def save_run(folder, overrides):
    """A run directory as training leaves it, whose averaged weights are numbers that keep the scale of what passes through them;
    those of the optimizer are other ones."""
    from ddpm_ms.checkpoints import checkpoint
    from ddpm_ms.config import Config, override_config, to_dict
    from ddpm_ms.models import create_model

    config = override_config(Config(), overrides)
    model = create_model(config.model, config.data.channels, config.data.image_size, config.diffusion.timesteps)
    random = np.random.Generator(np.random.Philox(key=7))
    raw = {}
    for name, parameter in model.parameters_and_names():
        numbers = random.uniform(-1, 1, parameter.shape)
        gain = name.endswith(("gamma", ".g"))
        raw[name] = np.float32(1 + 0.3 * numbers if gain else numbers * (3 / max(np.prod(parameter.shape[1:]), 10)) ** 0.5)
    averaged = {name: array * np.float32(0.9) for name, array in raw.items()}
    checkpoint.save(folder / "checkpoints", 7, {checkpoint.WEIGHTS: raw, checkpoint.EMA_WEIGHTS: averaged},
                    {"config": to_dict(config)})
    return folder


@pytest.fixture(name="saved_run", scope="session")
def _saved_run():
    return save_run


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
