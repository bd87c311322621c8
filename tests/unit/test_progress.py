"""What is said while something takes its time."""

import io
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_ms import runtime
from ddpm_ms.cli import drawing
from ddpm_ms.progress import duration, progress, watched
from ddpm_ms.training.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now, perf_counter=lambda: clock.now)
    monkeypatch.setattr("ddpm_ms.progress.time", fake)
    monkeypatch.setattr(drawing, "time", fake)
    return clock


def test_where_nobody_looks_a_line_says_after_two_seconds_how_long_the_rest_takes(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress(100, "image", what="reading") as bar:
        for _ in range(100):
            clock.now += 0.5
            bar.update()
    assert caplog.messages == ["reading: 4 of 100 images, about 48.0 s left", "reading: 64 of 100 images, about 18.0 s left"]


def test_the_first_step_which_compiles_is_no_measure_of_the_others(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress(10, what="drawing") as bar:
        for seconds in (0, 60, 0, 1):
            clock.now += seconds
            bar.update(seconds > 0)
    assert caplog.messages == ["drawing: 2 of 10 steps, about 8.0 s left"]


def test_what_is_short_and_what_other_ranks_do_is_not_talked_about(clock, caplog):
    caplog.set_level(logging.INFO)
    assert list(watched(range(9), 9, "image", "reading")) == list(range(9))
    with progress(9, active=False) as bar:
        for _ in range(9):
            clock.now += 10
            bar.update()
    assert caplog.messages == []


def test_where_somebody_looks_there_is_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(unit="step", what="drawing") as bar:
        bar.total = 3
        for _ in range(3):
            bar.update()
            bar.refresh()
    assert "drawing:  67%" in terminal.getvalue() and "2/3 [" in terminal.getvalue()


def test_beside_a_bar_the_lines_of_steps_go_to_the_file_alone_and_epochs_are_told_as_rarely(monkeypatch, tmp_path):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    log, file = logging.getLogger("ddpm_ms"), logging.FileHandler(tmp_path / "log.txt")
    monkeypatch.setattr(log, "handlers", [logging.StreamHandler(terminal), file])
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "level", logging.INFO)
    shown = Progress(40, 10, "CPU", True)
    row = {"loss": 1.0, "grad_norm": 1.0, "lr": 1e-3, "images_per_second": 9.0}
    with shown.shown(0):
        for step in range(4, 41, 4):
            shown.show({**row, "step": step, "epoch": step // 4, "epoch_loss": 1.0})
        shown.show({**row, "step": 40})
        log.info("saved")
    file.close()
    written = (tmp_path / "log.txt").read_text()
    assert "step 40/40  loss 1.0000" in written and "step 40/40" not in terminal.getvalue() and "saved" in terminal.getvalue()
    assert [line for line in written.splitlines() if "epoch" in line] == [
        f"epoch {k}: mean loss 1.0000" for k in (3, 6, 9, 10)]


@pytest.mark.parametrize(("seconds", "words"), [(12.34, "12.3 s"), (245, "4 min 05 s"), (7380, "2 h 03 min"),
                                                (1e5, "27 h 46 min"), (273_600, "3 days 4 h")])
def test_durations_are_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("count", "transitions", "speed"), [
    (2, 5, "NFE 5, 2.00 images/s once compiled, 31.0 s in all"), (5, 5, "NFE 5, 2.00 images/s once compiled, 33.0 s in all"),
    (2, 1, "NFE 1, 30.2 s in all")])
def test_the_speed_of_drawing_leaves_the_compilation_out(clock, count, transitions, speed):
    compiled = []

    def draw_batch(numbers, classes, callback):
        for done in range(transitions + 1):
            if done:
                clock.now += 0.2 if compiled else 30.2
                compiled.append(True)
            callback(done, transitions, None)
        return SimpleNamespace(images=np.zeros((len(numbers), 1, 2, 2), np.float32), nfe=transitions)

    drawn = drawing.draw(draw_batch, count, 2, runtime.Runtime("CPU", 0, 1, "a test"))
    assert drawn.speed == speed
