"""Checkpoints: directories that are complete or not there, checked when read, and never unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping

import mindspore as ms
import numpy as np
from mindspore import nn
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ddpm_ms import runtime
from ddpm_ms.config import Config, config_of_run
from ddpm_ms.digest import sha256_of
from ddpm_ms.errors import InputError, shown
from ddpm_ms.gaussian_diffusion import GaussianDiffusion, create_diffusion
from ddpm_ms.models import create_model
from ddpm_ms.parts import COMPARISONS
from ddpm_ms.visual.runs import read_measurements

FORMAT = 2
WEIGHTS, EMA_WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"
LARGEST_STATE = 2**24  # bytes of state.json
_NAME = re.compile(r"step_(\d{8})$")
_FILE = re.compile(r"[\w-]{1,100}\.safetensors")  # no path: a checkpoint names nothing outside of itself


class DamagedCheckpoint(InputError):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint that passed its checks: ``state`` is state.json's content, arrays are read on demand."""

    path: Path
    state: dict[str, Any] = field(repr=False)  # long

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.state["step"]

    @property
    def config(self) -> Config:
        """Of the run; `InputError` where it cannot be read."""
        try:
            return config_of_run(self.state["config"])
        except InputError as error:
            raise InputError(f"checkpoint {self.path}: {error}") from None

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """All arrays of one of its safetensors files; `DamagedCheckpoint` if it has no such file or cannot be read."""
        if name not in self.state["sha256"]:
            raise DamagedCheckpoint(f"checkpoint {self.path} has no {name}")
        try:
            return load_file(self.path / name)
        except Exception as error:  # besides SafetensorError, what NumPy says of a type that it does not know
            raise DamagedCheckpoint(f"checkpoint {self.path}: {name} cannot be read: {error}") from None


def save(folder: Path, step: int, arrays: dict[str, dict[str, np.ndarray]], state: dict[str, Any]) -> Path:
    """Write ``folder/step_00001000``: under a temporary name, synced to disk, then renamed.

    Args:
        folder: the run's ``checkpoints`` directory.
        step: optimizer steps done.
        arrays: file name to named arrays.
        state: what goes into state.json beside the step, the format and the checksums.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    final = folder / f"step_{step:08d}"
    partial = folder / f".partial_{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, step, arrays, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk its space is needed
        raise error if isinstance(error, OSError) else OSError(str(error)) from None
    shutil.rmtree(final, ignore_errors=True)  # only ever a damaged one that training has passed again
    partial.rename(final)
    _sync(folder)
    return final


def _write(folder: Path, step: int, arrays: dict[str, dict[str, np.ndarray]], state: dict[str, Any]) -> None:
    for name, tensors in arrays.items():
        save_file({key: np.asarray(value, order="C") for key, value in tensors.items()}, folder / name)
    checksums = {name: sha256_of(folder / name) for name in arrays}
    complete = {"format": FORMAT, "step": step, **state, "sha256": checksums}
    (folder / STATE).write_text(json.dumps({**complete, "checksum": _checksum(complete)}, indent=1), encoding="utf-8")
    mode = (folder / STATE).stat().st_mode
    for name in arrays:
        with contextlib.suppress(OSError):  # a file system without modes
            (folder / name).chmod(mode)  # safetensors keeps others from reading, whatever the umask says
    for path in (*folder.iterdir(), folder):
        _sync(path)


def read(path: str | Path) -> Checkpoint:
    """Check and open one checkpoint directory.

    Raises:
        InputError: there is none, or (`DamagedCheckpoint`) a file is missing, cut off or altered.
    """
    path = Path(path)
    state = _read_state(path)
    for name, expected in state["sha256"].items():
        if not (path / name).is_file():
            raise DamagedCheckpoint(f"checkpoint {path}: {name} is missing")
        try:
            found = sha256_of(path / name)
        except OSError as error:
            raise DamagedCheckpoint(f"checkpoint {path}: {name} cannot be read: {error.strerror or error}") from None
        if found != expected:
            raise DamagedCheckpoint(f"checkpoint {path}: {name} is damaged (its checksum is wrong)")
    return Checkpoint(path, state)


def _read_state(path: Path) -> dict[str, Any]:
    """The content of state.json, checked."""
    if not (path / STATE).is_file():
        raise (DamagedCheckpoint if path.is_dir() else InputError)(
            f"checkpoint {path} has no {STATE}, allowed: a run directory or one of its checkpoints")
    try:
        with (path / STATE).open("rb") as file:
            state = json.loads(file.read(LARGEST_STATE))
        if isinstance(state, dict) and isinstance(state.get("format"), int) and state["format"] != FORMAT:
            raise InputError(f"checkpoint {path} has format {shown(state['format'])}, allowed: {FORMAT}")
        intact = isinstance(state, dict) and state.pop("checksum", None) == _checksum(state)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError):
        intact = False
    if not intact:
        raise DamagedCheckpoint(f"checkpoint {path}: {STATE} is damaged")
    _check_state(path, state)
    return state


def _check_state(path: Path, state: dict[str, Any]) -> None:
    """state.json has what everything else relies on, and in the types that `save` gives it."""
    kinds = {"format": int, "step": int, "config": dict, "sha256": dict}
    if any(type(state.get(key)) is not kind for key, kind in kinds.items()):
        raise DamagedCheckpoint(f"checkpoint {path}: {STATE} is damaged")
    if not 0 <= state["step"] < 10**8:
        raise DamagedCheckpoint(f"checkpoint {path}: its step is {shown(state['step'])}, allowed: 0 to 99999999")
    for name in state["sha256"]:
        if not _FILE.fullmatch(name):
            raise DamagedCheckpoint(f"checkpoint {path}: a file is called {shown(name)}, allowed: a name in the checkpoint "
                                    "that ends in .safetensors")


def in_run(run_dir: str | Path) -> list[Path]:
    """The run's checkpoints, newest first."""
    found = [p for p in Path(run_dir, "checkpoints").glob("step_*") if _NAME.match(p.name) and p.is_dir()]
    return sorted(found, key=lambda p: p.name, reverse=True)


def latest(run_dir: str | Path) -> Iterator[Checkpoint | DamagedCheckpoint]:
    """From the newest on: damaged ones as the error that says so, up to and including the first good one."""
    for path in in_run(run_dir):
        try:
            yield read(path)
            return
        except DamagedCheckpoint as error:
            yield error


def best(run_dir: str | Path, metric: str | None = None) -> Path | None:
    """The good checkpoint with the smallest validation loss, or with the best of a ``metric`` that training measured, the later
    one of equals; None if none has any."""
    if metric is None:
        values = {path: loss for path in in_run(run_dir) if (loss := _validation_loss(path)) is not None}
    else:
        measured = _measured(run_dir, metric)
        values = {path: measured[step] for path in in_run(run_dir) if (step := _step(path)) in measured}
    for path in sorted(values, key=values.__getitem__, reverse=metric is not None and COMPARISONS[metric].higher):
        with contextlib.suppress(InputError):
            return read(path).path
    return None


def _measured(run_dir: str | Path, metric: str) -> dict[int, float]:
    """Step to value of a metric that training measured, as far as they compare: as the last one was measured."""
    rows = [row for row in read_measurements(run_dir) if isinstance(row.get(metric), float) and math.isfinite(row[metric])]
    return {row["step"]: row[metric] for row in rows if row["evaluated"] == rows[-1]["evaluated"]}


def metrics_measured(run_dir: str | Path) -> list[str]:
    """The metrics that training measured."""
    found = {name for row in read_measurements(run_dir) for name in row}
    return [name for name in COMPARISONS if name in found]


def remove_old(run_dir: Path, keep: int, step: int) -> None:
    """Delete all but the newest ``keep`` checkpoints up to ``step`` and the best by the validation loss and by each metric that
    training measured, and what an interrupted save left.

    Those after ``step`` were damaged when training resumed. They do not count, and stay until it has come so far again.
    """
    reached = [path for path in in_run(run_dir) if _step(path) <= step]
    old = set(reached[keep:]) - {best(run_dir), *(best(run_dir, metric) for metric in metrics_measured(run_dir))}
    for path in (*old, *run_dir.glob("checkpoints/.partial_*")):
        shutil.rmtree(path, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _validation_loss(path: Path) -> float | None:
    try:
        loss = _read_state(path).get("validation_loss")
    except InputError:  # damaged: not the best
        return None
    return loss if isinstance(loss, float) and not math.isnan(loss) else None


def misfit(parameters: Mapping[str, ms.Parameter], arrays: Mapping[str, np.ndarray]) -> str | None:
    """The first parameter that has no array of its shape, or array that has no parameter, and both shapes; None if all fit."""
    for name in dict.fromkeys([*parameters, *arrays]):
        here, there = (tuple(found[name].shape) if name in found else "missing" for found in (parameters, arrays))
        if here != there:
            return f"{name} is {here} here and {there} there"
    return None


def set_parameters(parameters: dict[str, ms.Parameter], arrays: dict[str, np.ndarray], what: str) -> None:
    """Set every parameter from the array of its name.

    Raises:
        InputError: names or shapes do not agree exactly: it names the first parameter that does not fit, and both shapes. Or an
            array is not of finite numbers. No parameter was set.
    """
    problem = misfit(parameters, arrays)
    if problem:
        raise InputError(f"{what} does not fit the network: {problem}, allowed: a run of the same network")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError(f"{what}: {name} is not made of finite numbers")
    for name, parameter in parameters.items():
        # In place: graphs that are compiled already go on using the memory that they were compiled with.
        ms.ops.assign(parameter, ms.Tensor(arrays[name], parameter.dtype))


def load_diffusion(path: str | Path, ema: bool = True, best_one: bool | str = False,
                   model: nn.Cell | None = None) -> tuple[GaussianDiffusion, Checkpoint]:
    """The trained process, from a checkpoint alone.

    Args:
        path: a run directory (its newest good checkpoint) or one checkpoint directory.
        ema: averaged weights, or those that the optimizer left.
        best_one: of a run, the checkpoint with the smallest validation loss instead of the newest; or, by its name, with the
            best of a metric of ``evaluation.metric``.
        model: the network to put the weights into, needed where it is one of your own that is not registered. It becomes the
            diffusion's.

    Returns:
        The diffusion, ready to sample, and the checkpoint with its config.

    Raises:
        InputError: no checkpoint there, or it is damaged, or the ``model`` is not what was trained.
    """
    runtime.current()  # in a notebook nothing has been set up yet
    checkpoint = chosen(path, best_one)
    config, name = checkpoint.config, EMA_WEIGHTS if ema else WEIGHTS
    if ema and EMA_WEIGHTS not in checkpoint.state["sha256"]:
        raise DamagedCheckpoint(f"checkpoint {checkpoint.path} has no {EMA_WEIGHTS}, allowed: the raw weights (--raw, ema=False)")
    try:
        if model is None:
            model = create_model(config.model, config.data.channels, config.data.image_size, config.diffusion.timesteps)
        diffusion = create_diffusion(config.diffusion, model, config.data.image_size)
    except Exception as error:  # a stranger's configuration can be impossible in ways that nobody can list
        problem = error if isinstance(error, InputError) else f"its network cannot be built: {error or type(error).__name__}"
        raise InputError(f"checkpoint {checkpoint.path}: {problem}") from None
    set_parameters(dict(model.parameters_and_names()), checkpoint.arrays(name), f"{checkpoint.path}/{name}")
    diffusion.set_train(False)
    return diffusion, checkpoint


def chosen(path: str | Path, best_one: bool | str = False) -> Checkpoint:
    """A checkpoint; or of a run the newest good one, or the ``best_one``, by validation loss or by the metric that it names.
    `InputError` if there is none."""
    return _find_best(Path(path), None if best_one is True else best_one) if best_one else find(Path(path))


def find(path: Path) -> Checkpoint:
    """A checkpoint, or the newest good one of a run; `InputError` if there is none, or all are damaged."""
    if not path.is_dir():
        problem = "is a file" if path.exists() else "does not exist"
        raise InputError(f"checkpoint {path} {problem}, allowed: a run directory or one of its checkpoints")
    if not in_run(path):
        return read(path)
    errors = []
    for found in latest(path):
        if isinstance(found, Checkpoint):
            return found
        errors.append(str(found))
    raise DamagedCheckpoint("; ".join(errors))


def _find_best(path: Path, metric: str | None) -> Checkpoint:
    if metric is not None:
        COMPARISONS.check("best", metric)
    found = best(path, metric)
    if found is None:
        others = metrics_measured(path) if path.is_dir() else []
        other = f", or the best by {', '.join(others)}" if others else ""
        key = "training.validation_images" if metric is None else f"evaluation.every and evaluation.metric={metric}"
        raise InputError(f"checkpoint {path} holds no {metric or 'validation loss'}, so none is the best; allowed: a run that "
                         f"was trained with {key}{other}")
    return read(found)


def _checksum(state: dict[str, Any]) -> str:
    """Of the content of state.json, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
