"""Versions: which are refused, and which a run records."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from ddpm_ms.errors import InputError
from ddpm_ms.runtime.devices import Runtime
from ddpm_ms.version import __version__

MINDSPORE_VERSIONS = ((2, 9), (2, 10))  # oldest and newest that the tests were run on


def check_versions() -> None:
    """Raise `InputError` when NumPy or MindSpore is missing or of a version that is known not to work."""
    numpy, mindspore = installed_version("numpy"), installed_version("mindspore")
    if numpy is None or not (1, 25) <= numpy < (2,):
        raise InputError(f"NumPy is {_dotted(numpy)}, allowed: 1.25 up to but not 2.0 (MindSpore's binaries need "
                         "NumPy 1): pip install 'numpy>=1.25,<2'")
    low, high = MINDSPORE_VERSIONS
    if mindspore is None or not low <= mindspore[:2] <= high:
        raise InputError(f"MindSpore is {_dotted(mindspore)}, allowed: {_dotted(low)} to {_dotted(high)}: "
                         f"pip install mindspore=={_dotted(high)}.0")


def environment(runtime: Runtime) -> dict[str, Any]:
    """Versions, device and source revision, as a run records them."""
    packages = ("mindspore", "numpy", "pillow", "safetensors", "matplotlib", "scikit-learn")
    return {
        "ddpm_ms": __version__,
        "git": source_revision(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _dotted(installed_version(name)) for name in packages},
        "device": runtime.device,
        "world_size": runtime.world,
        "cpus": os.cpu_count(),
        "ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA"),
    }


def installed_version(package: str) -> tuple[int, ...] | None:
    """The first three numbers of its version; None if it is not installed."""
    try:
        text = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def source_revision(source: Path) -> str | None:
    """Commit of the checkout ``source``, with "-dirty" if edited; None if that is no checkout of its own."""
    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(source), *command], capture_output=True, text=True, check=True,
                              timeout=10).stdout.strip()

    try:
        # Installed below somebody else's repository, this would be the commit of that.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != source.resolve():
            return None
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return None


def _dotted(version: tuple[int, ...] | None) -> str:
    return "not installed" if version is None else ".".join(map(str, version))
