"""Starting: one order, which MindSpore forces."""

from __future__ import annotations

import os

from ddpm_ms.config import RuntimeConfig
from ddpm_ms.runtime import cpu, graphs
from ddpm_ms.runtime.devices import Runtime, device_target, is_one_of_several, start_device
from ddpm_ms.runtime.versions import check_versions


def setup(config: RuntimeConfig) -> Runtime:
    """Choose and start the device, set the execution mode, and join the other ranks if ``msrun`` started this process.

    Raises:
        InputError: a version is wrong, or the device that was asked for cannot start.
    """
    check_versions()  # before MindSpore is imported: with a wrong NumPy that ends in a message nobody understands
    quiet()
    import mindspore as ms

    from ddpm_ms.runtime import ranks  # needs NumPy

    device, reason = start_device(config.device)
    graphs.use(config.mode)
    if device == "CPU":
        cpu.tune()  # before the first operator: both MindSpore and oneDNN read their settings then, and never again
    # Graph mode here means: `compiled` functions are graphs. Everything around them stays plain Python.
    ms.set_context(mode=ms.PYNATIVE_MODE)
    rank, world = ranks.join() if is_one_of_several() else (0, 1)  # after the device, before the first operator
    return Runtime(device, rank, world, reason)


def quiet() -> None:
    """Before MindSpore is imported: keep its warnings, which would drown a progress bar, to itself; errors stay."""
    os.environ.setdefault("GLOG_v", "3")


def current() -> Runtime:
    """One process on the device that MindSpore has or will choose: what a notebook gets without `setup`."""
    device = device_target()
    if device == "CPU":
        cpu.tune()
    return Runtime(device, 0, 1, "MindSpore's current device")
