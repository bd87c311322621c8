"""What a run leaves behind: one directory, of which every file is complete or not there."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np

from ddpm_ms import visual
from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import Config, differences, load_run_config, to_yaml
from ddpm_ms.errors import InputError, TrainingError
from ddpm_ms.training.event_files import EventFiles
from ddpm_ms.training.files import append_json, log_to, write_whole
from ddpm_ms.visual.runs import conversion, read_events

log = logging.getLogger("ddpm_ms")

NEW_IN_A_PHASE = ("training.train_lr",)  # what a run may change on its way, if it is asked to, and records
MAX_SAVE_FAILURES = 3  # checkpoints in a row that could not be written, before the run stops


class RunDirectory:
    """The files of a run, except metrics.jsonl, which is that of `Metrics`.

    ``config.yaml`` and ``environment.json`` say what the run is; ``log.txt`` is for people; ``events.jsonl`` says the same to
    programs, one object per line with ``event``, ``time`` (seconds since 1970), ``step`` and ``world``. It is a history, to which
    every start of the run adds: steps that a kill threw away happened twice. Beside them are ``checkpoints/``, ``samples/``,
    ``loss.png``, for TensorBoard ``tensorboard/``, and the ``.lock`` of `alone`.

    Args:
        path: of the directory, which need not be there.
        world: number of ranks.
        writes: whether this rank writes; the others' calls do nothing, except that problems with `describe` are raised by all.
    """

    def __init__(self, path: Path, world: int, writes: bool) -> None:
        self.path, self._world, self._writes = path, world, writes
        self._save_failures = 0
        self._event_files: EventFiles | None = None

    def check(self, config: Config, new_phase: bool = False) -> None:
        """Raise `InputError` if there is something else than a run of ``config``, or of one that a ``new_phase`` makes of it."""
        path = self.path / "config.yaml"
        if conversion(read_events(self.path)):
            raise InputError(f"run directory {self.path} holds weights that were converted, and no state of an optimizer, "
                             f"allowed: another --run-dir, with init={self.path}")
        if path.is_file():
            try:
                before = load_run_config(path)
            except InputError as error:
                raise InputError(f"run directory {self.path} is of another version of ddpm_ms ({error}), allowed: another "
                                 "--run-dir") from None
            unlike = differences(before, config, NEW_IN_A_PHASE if new_phase else ())
            if unlike:
                phase = "" if differences(before, config, NEW_IN_A_PHASE) else ", or --new-phase, to go on with the new value"
                raise InputError(f"run directory {self.path} holds another run ({'; '.join(unlike)}), allowed: "
                                 f"the same configuration, or another --run-dir{phase}")
        elif self.path.exists() and (not self.path.is_dir() or checkpoint.in_run(self.path)):
            raise InputError(f"run directory {self.path} is no run directory (it has no config.yaml), allowed: a new one")

    def describe(self, config: Config, environment: dict[str, Any]) -> None:
        """Write config.yaml and environment.json; `InputError` if that cannot be."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "config.yaml", to_yaml(config))
            write_whole(self.path / "environment.json", json.dumps(environment, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"run directory {self.path} cannot be written: {error.strerror or error}") from None

    def logging(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the package's log lines go to log.txt as well."""
        return log_to(self.path / "log.txt", self._writes)

    def event(self, event: str, step: int, **facts: Any) -> None:
        """Add a line to events.jsonl. A disk that does not take it costs the line, not the run: the terminal says it too."""
        if self._writes:
            with contextlib.suppress(OSError):
                append_json(self.path / "events.jsonl",
                            {"event": event, "time": round(time.time(), 3), "step": step, "world": self._world, **facts})

    def phase(self, step: int, old: float, new: float) -> None:
        """Add the event of a changed training.train_lr. Unlike others it must not be lost: the rates of all steps follow from it.

        Raises:
            InputError: it cannot be written.
        """
        try:
            append_json(self.path / "events.jsonl", {"event": "phase", "time": round(time.time(), 3), "step": step,
                                                     "world": self._world, "key": NEW_IN_A_PHASE[0], "old": old, "new": new})
        except OSError as error:
            raise InputError(f"run directory {self.path} cannot record a new phase: {error.strerror or error}") from None

    def finish(self, step: int) -> None:
        """Say that the run is finished, unless that was said last: a kill may come between the last checkpoint and this. Of a run
        without events.jsonl, which an older version made, it is not known when that was."""
        events = read_events(self.path) if self._writes else []
        if events and events[-1]["event"] != "finished":
            self.event("finished", step)

    @contextlib.contextmanager
    def event_files(self, wanted: bool, step: int) -> Iterator[None]:
        """Within the block there are event files for TensorBoard, if they are ``wanted``, from ``step`` on."""
        if not wanted or not self._writes:
            yield
            return
        self._event_files = EventFiles(self.path / "tensorboard", step)
        try:
            yield
        finally:
            self._event_files.close()
            self._event_files = None

    def show(self, row: dict[str, Any]) -> None:
        """Show a row of metrics.jsonl in TensorBoard, within `event_files`."""
        if self._event_files is not None:
            self._event_files.scalars(row)

    def save(self, step: int, arrays: dict[str, dict[str, np.ndarray]], numbers: dict[str, Any], keep_last: int,
             last: bool) -> bool:
        """Write a checkpoint, then delete those that ``keep_last`` does not cover, but not the best. Returns whether it could.

        Raises:
            TrainingError: it failed `MAX_SAVE_FAILURES` times in a row, or it is the ``last``.
        """
        try:
            written = checkpoint.save(self.path / "checkpoints", step, arrays, numbers)
        except OSError as error:
            self._save_failed(step, error, last)
            return False
        self._save_failures = 0
        self.event("checkpoint", step, checkpoint=written.name)
        log.info("step %d: saved %s", step, written.relative_to(self.path))
        checkpoint.remove_old(self.path, keep_last, step)
        return True

    def _save_failed(self, step: int, error: OSError, last: bool) -> None:
        self._save_failures += 1
        reason, kept = error.strerror or str(error), [path.name for path in checkpoint.in_run(self.path)[:1]]
        self.event("checkpoint_failed", step, reason=reason, failures=self._save_failures)
        problem = (f"step {step}: the checkpoint could not be written ({reason}); "
                   f"{kept[0] if kept else 'none'} is the last good one")
        if self._save_failures >= MAX_SAVE_FAILURES or last:
            raise TrainingError(f"{problem}. Failures in a row: {self._save_failures}, allowed: {MAX_SAVE_FAILURES - 1}, none at "
                                "the end. Make room and resume with the same command")
        log.error("%s; trying again at the next (failure %d of %d)", problem, self._save_failures, MAX_SAVE_FAILURES)

    def save_pictures(self, step: int, rows: Sequence[dict[str, Any]], images: np.ndarray | None,
                      captions: Sequence[str] = ()) -> None:
        """Draw the loss curve of ``rows`` and, if there are ``images`` (N, C, H, W) in [0, 1], their grid with ``captions``."""
        if not self._writes:
            return
        try:
            visual.save_loss_curve(rows, self.path / "loss.png")
            if images is not None:
                grid = Path("samples", f"step_{step:08d}.png")
                visual.save_grid(images, self.path / grid, captions)
                log.info("step %d: drew %s", step, grid)
                if self._event_files is not None:
                    self._event_files.picture("samples", np.asarray(visual.to_grid(images, captions=captions)), step)
        except OSError as error:
            log.warning("step %d: the pictures could not be written (%s)", step, error.strerror or error)
