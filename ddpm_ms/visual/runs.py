"""What a run directory holds, read without touching it: nothing here needs the device, the network or MindSpore."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Sequence

from ddpm_ms.errors import InputError

# A line of log.txt that opens a session; the time before it nobody was training.
_OPENS = ("training ", "resuming ", "compiling ")


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint as it lies there, not checked."""

    name: str
    size: int  # bytes
    written: datetime


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, in order of steps; a line that a kill cut off is passed over.

    Raises:
        InputError: no such run, or it has not logged anything yet.
    """
    path = Path(run_dir, "metrics.jsonl")
    if not path.is_file():
        raise InputError(f"run directory {run_dir} {'has no metrics.jsonl' if Path(run_dir).is_dir() else 'does not exist'}, "
                         "allowed: what `ddpm-ms train` has written its first log line into")
    rows = metrics_rows(path.read_text(encoding="utf-8", errors="replace"))
    if not rows:
        raise InputError(f"{path} has no rows, allowed: at least one, which training writes every training.log_every steps")
    return rows


def metrics_rows(text: str) -> list[dict[str, Any]]:
    """The rows in the text of a metrics.jsonl, in order of steps; what is no row, as a line that a kill cut off, is passed
    over."""
    rows = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
            rows[int(row["step"])] = {**row, "step": int(row["step"]), "loss": float(row["loss"])}
        except (ValueError, TypeError, KeyError):
            continue
    return [rows[step] for step in sorted(rows)]


def short_names(runs: Sequence[str | Path]) -> list[str]:
    """A name for each run directory: its last parts, as many as tell all of them apart.

    Raises:
        InputError: the same directory twice.
    """
    parts = [Path(run).resolve().parts for run in runs]
    for number, one in enumerate(parts):
        if one in parts[:number]:
            raise InputError(f"run directory {runs[number]} is given twice, allowed: each run once")
    for length in range(1, max(map(len, parts)) + 1):
        names = [str(Path(*one[-length:])) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


def read_environment(run_dir: Path) -> dict[str, Any]:
    """environment.json, or nothing where that is not to be had."""
    try:
        found = json.loads((run_dir / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_log(run_dir: Path) -> list[str]:
    """The lines of log.txt; none where there is no such file."""
    try:
        return (run_dir / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def seconds_at_work(log_lines: Sequence[str]) -> float | None:
    """Wall time from the log's dates, without the breaks between sessions; None where there are no dates."""
    total, before, opened = 0.0, None, False
    for line in log_lines:
        try:
            now = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f")
        except ValueError:  # a line that continues the one before
            continue
        opens = line[24:].startswith(_OPENS)
        if before is not None and (opened or not opens):
            total += (now - before).total_seconds()
        before, opened = now, opens
    return None if before is None else total


def total_steps(training: dict[str, Any], log_lines: Sequence[str]) -> int | None:
    """How long the run is to be; of a run counted in epochs what its log says, None where that says nothing."""
    if training.get("train_num_epochs") is None:
        return training["train_num_steps"]
    found = [re.search(r" step \d+/(\d+) | is finished: \d+ of (\d+) steps", line) for line in log_lines]
    return next((int(match[1] or match[2]) for match in reversed(found) if match), None)


def checkpoints(run_dir: Path) -> list[CheckpointFiles]:
    """The run's checkpoints, oldest first."""
    found = []
    for folder in sorted(run_dir.glob("checkpoints/step_*")):
        files = [path.stat() for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
        if files:
            written = datetime.fromtimestamp(max(file.st_mtime for file in files))
            found.append(CheckpointFiles(folder.name, sum(file.st_size for file in files), written))
    return found


def num_parameters(run_dir: Path) -> int | None:
    """How many numbers training changes: those that the optimizer of the newest checkpoint keeps a mean of."""
    for path in sorted(run_dir.glob("checkpoints/step_*/optimizer.safetensors"), reverse=True):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            sizes = [entry["data_offsets"] for name, entry in header.items() if name.startswith("moment1.")]
        except (OSError, ValueError, KeyError, struct.error, OverflowError, MemoryError):
            continue
        return sum(end - begin for begin, end in sizes) // 4  # float32
    return None
