"""What a run directory holds, read without touching it: nothing here needs the device, the network or MindSpore."""

from __future__ import annotations

import contextlib
import json
import math
from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Sequence

from safetensors import SafetensorError, safe_open

from ddpm_ms.errors import InputError

STARTS = ("started", "resumed")  # the events that open a session


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint as it lies there, not checked."""

    name: str
    size: int  # bytes
    written: datetime


@dataclass(frozen=True)
class Phase:
    """After ``step`` steps the run went on with another training.train_lr."""

    step: int
    old: float
    new: float


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


def rows_or_none(run_dir: str | Path) -> list[dict[str, Any]]:
    """As `read_metrics`; no rows of a run directory that ``ddpm-ms convert`` made, which was not trained here."""
    converted = conversion(read_events(Path(run_dir))) and not Path(run_dir, "metrics.jsonl").exists()
    return [] if converted else read_metrics(run_dir)


def conversion(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The event of a run directory that ``ddpm-ms convert`` made: its project, source, files with their sha256, parameters."""
    return next((event for event in events if event["event"] == "converted"), None)


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


def read_measurements(run_dir: str | Path) -> list[dict[str, Any]]:
    """What a run measured of drawn images while it trained: rows of its metrics.jsonl with ``step``, metrics by name, and
    ``evaluated``, what they are of; in order of steps. None where there is no such file."""
    try:
        return measurements(Path(run_dir, "metrics.jsonl").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


def measurements(text: str) -> list[dict[str, Any]]:
    """Those rows in the text of a metrics.jsonl; a line that a kill cut off is passed over."""
    rows = {}
    for line in text.splitlines():
        if '"evaluated"' in line:
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                row = json.loads(line)
                rows[int(row["step"])] = {**row, "step": int(row["step"]), "evaluated": str(row["evaluated"])}
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
    """The lines of log.txt, which are for people; none where there is no such file."""
    try:
        return (run_dir / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """The objects of events.jsonl, in the order of the file; none where there is no such file, as in runs of older versions."""
    try:
        text = (run_dir / "events.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return events_of(text)


def events_of(text: str) -> list[dict[str, Any]]:
    """The events in the text of an events.jsonl; what is none, as a line that a kill cut off, is passed over."""
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
            events.append({**event, "event": str(event["event"]), "time": _moment(event), "step": int(event["step"])})
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            continue
    return events


@dataclass(frozen=True)
class Evaluation:
    """A line of evaluations.jsonl: numbers, and what they are of, in words."""

    when: datetime
    scores: Sequence[tuple[str, float, float | None]]  # name, value, deviation
    judged: str
    against: str
    features: str
    notes: Sequence[str]


def read_evaluations(run_dir: Path) -> list[Evaluation]:
    """What was compared with the run's images, in the order of evaluations.jsonl; lines that are none are passed over."""
    try:
        text = (run_dir / "evaluations.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            found.append(_evaluation(json.loads(line)))
    return found


def _evaluation(row: dict[str, Any]) -> Evaluation:
    scores = [(str(name), float(score["value"]), None if score["deviation"] is None else float(score["deviation"]))
              for name, score in row["scores"].items()]
    judged, against = (_in_words(row[side]) for side in ("judged", "against"))
    return Evaluation(datetime.fromtimestamp(_moment(row)), scores, judged, against, str(row["features"]["identity"]),
                      [str(note) for note in row["notes"]])


def _in_words(side: dict[str, Any] | None) -> str:
    """A side of an evaluation, of which there may be none."""
    if side is None:
        return ""
    return str(side["what"]) if side["images"] is None else f"{side['images']} images: {side['what']}"


def phases(events: Sequence[dict[str, Any]]) -> list[Phase]:
    """The changes of training.train_lr, by step. One that began at an earlier step than those before it replaces them: the run
    was taken up again there."""
    found: list[Phase] = []
    for event in events:
        if event["event"] == "phase":
            with contextlib.suppress(ValueError, TypeError, KeyError):
                phase = Phase(event["step"], float(event["old"]), float(event["new"]))
                found = [*(earlier for earlier in found if earlier.step < phase.step), phase]
    return found


def seconds_at_work(events: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> float | None:
    """Wall time of all sessions, without the breaks between them; None where that was not recorded.

    A session lasts from its first event to the last event or row of metrics before the next one begins. What a kill took with it
    since then is not known.
    """
    starts = sorted({event["time"] for event in events if event["event"] in STARTS})
    moments = [event["time"] for event in events]
    for row in rows:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # an older version wrote it
            moments.append(_moment(row))
    if not starts:
        return None
    moments.sort()
    ends = [moments[bisect_left(moments, following) - 1] for following in (*starts[1:], float("inf"))]
    return sum(end - start for start, end in zip(starts, ends))


def total_steps(training: dict[str, Any], events: Sequence[dict[str, Any]]) -> int | None:
    """How long the run is to be; of a run counted in epochs what its events say, None where they say nothing."""
    if training.get("train_num_epochs") is None:
        return training["train_num_steps"]
    told = [event.get("total_steps") for event in events]
    return next((steps for steps in reversed(told) if type(steps) is int and steps > 0), None)


def _moment(entry: dict[str, Any]) -> float:
    """When an event or a row was written, in seconds since 1970; `ValueError` if that is no time."""
    moment = float(entry["time"])
    if not 0 <= moment < 1e11:
        raise ValueError
    return moment


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
            with safe_open(path, framework="numpy") as file:  # reads the header alone, and refuses one that the file cannot have
                names = [name for name in file.keys() if name.startswith("moment1.")]  # noqa: SIM118  # it is no dict
                return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        except (OSError, SafetensorError):
            continue
    return None
