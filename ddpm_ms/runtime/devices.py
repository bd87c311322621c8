"""Which device: the one that was asked for, or the first that starts."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from ddpm_ms.errors import InputError
from ddpm_ms.runtime import cpu

DEVICES = ("Ascend", "GPU", "CPU")
_WHAT_TO_INSTALL = {
    "Ascend": "the CANN toolkit and kernels that match this MindSpore, then source its set_env.sh",
    "GPU": "the NVIDIA driver, CUDA and cuDNN of the versions this MindSpore was built for",
    "CPU": "a MindSpore wheel for this processor",
}

_portable = False


@dataclass(frozen=True)
class Runtime:
    """What `setup` started."""

    device: str
    rank: int
    world: int
    reason: str  # why this device, in one line


def device_target() -> str:
    """The device that MindSpore computes on, or will choose: "Ascend", "GPU" or "CPU"."""
    import mindspore as ms

    return ms.get_context("device_target")


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Networks that are built within the block have MindSpore's own operators alone, and of those only such as ONNX has, too:
    so that their graphs can leave this package. They compute the same function, up to rounding."""
    global _portable  # noqa: PLW0603
    was, _portable = _portable, True
    try:
        yield
    finally:
        _portable = was


def is_portable() -> bool:
    """Whether what is built now is to be exported, see `portable`."""
    return _portable


def native_library() -> str | None:
    """The library of native operators for this device: None on Ascend and GPU, see `cpu.native_library`, and for `portable`
    networks."""
    return cpu.native_library() if device_target() == "CPU" and not _portable else None


def seed_weights(seed: int) -> None:
    """Make the initial weights of the networks built next a function of ``seed``."""
    import mindspore as ms

    ms.set_seed(seed % 2**32)


def is_one_of_several() -> bool:
    """Whether ``msrun`` started this process as one of several."""
    return int(os.environ.get("MS_WORKER_NUM", "1")) > 1


def start_device(wanted: str) -> tuple[str, str]:
    """Start ``wanted``, or for "auto" the first of `DEVICES` that starts: (device, why).

    Raises:
        InputError: it cannot start.
    """
    refusals: dict[str, str] = {}
    for device in DEVICES if wanted == "auto" else (wanted,):
        error = try_device(device)
        if error is None:
            return device, "asked for" if wanted != "auto" else _why_not(refusals) or "first choice"
        refusals[device] = f"{device} cannot start ({error})"
    raise InputError(f"device is {wanted}, but {'; '.join(refusals.values())}. It needs {_WHAT_TO_INSTALL.get(wanted, '')}")


def _why_not(refusals: dict[str, str]) -> str:
    """What kept the devices from being chosen; of those that this machine does not seem to have, that they are not there."""
    return ", ".join(why if _seems_there(device) else f"no {device}" for device, why in refusals.items())


def _seems_there(device: str) -> bool:
    """Whether this machine has a card of this kind, or the software for it."""
    if device == "GPU":
        return Path("/dev/nvidia0").exists()
    return "ASCEND_HOME_PATH" in os.environ or any(Path("/dev").glob("davinci[0-9]*"))


def try_device(device: str) -> str | None:
    """None if ``device`` starts and, unless it is the CPU, computes; else what is missing."""
    import mindspore as ms

    with tempfile.TemporaryFile("w+") as noise:
        try:
            with _stderr_into(noise):
                ms.set_device(device, _device_id(device))
                # set_device must come before init, init before every operator; and cpu.tune before the first one on CPUs
                if device != "CPU" and not is_one_of_several():
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
    if named is None or device == "CPU" or is_one_of_several():
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
