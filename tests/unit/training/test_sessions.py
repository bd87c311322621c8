"""One start of training as its user meets it: what is shown, how long it will take, and that nobody else trains there."""

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
import re
import signal
import socket
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from ddpm_ms import GaussianDiffusion, Trainer, runtime
from ddpm_ms.cli import main
from ddpm_ms.config import SamplingConfig
from ddpm_ms.errors import InputError
from ddpm_ms.training import progress as training_progress
from ddpm_ms.training.lock import alone
from ddpm_ms.training.progress import Progress
from ddpm_ms.visual import runs

ROOT = Path(__file__).parents[3]
IMAGES = np.random.default_rng(0).uniform(0, 1, (7, 4, 4)).astype(np.float32)
HERE = runtime.Runtime("CPU", 0, 1, "a test")


class Pixelwise(nn.Cell):
    """The smallest network that has everything a process asks for."""

    channels = 1

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones((1, 1, 1, 1)), ms.float32), name="weight")

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        return x * self.weight


@pytest.fixture
def trainer(tmp_path, without_graphs):
    diffusion = GaussianDiffusion(Pixelwise(), image_size=4, timesteps=20)
    return Trainer(diffusion, IMAGES, train_batch_size=3, train_num_steps=4, save_and_sample_every=2, log_every=2, num_samples=2,
                   sampling=SamplingConfig(steps=2), results_folder=tmp_path / "run")


@contextlib.contextmanager
def without_logging(monkeypatch):
    """As in a script or a notebook, which has set up none; pytest's handlers are gone, too."""
    with monkeypatch.context() as patch:
        patch.setattr(logging.root, "handlers", [])
        patch.setattr(logging.root, "level", logging.WARNING)
        yield


SAID = (
    "training .*run: 1 parameters, 7 images", "step 2/4  loss .* images/s  .* s left",
    "step 2: saved checkpoints/step_00000002", "step 2: drew samples/step_00000002.png", "step 4/4  loss .* images/s",
    ".*run is finished: 4 of 4 steps")


def assert_said_once(lines):
    for wanted in SAID:
        assert sum(bool(re.fullmatch(wanted, line)) for line in lines) == 1, (wanted, lines)


def test_a_script_gets_the_lines_and_the_files_of_the_command_line(trainer, capsys, monkeypatch):
    with without_logging(monkeypatch):
        run = trainer.train()
    assert_said_once(capsys.readouterr().err.splitlines())
    assert_said_once([re.sub(r"^\S+ \S+ ", "", line) for line in (run / "log.txt").read_text().splitlines()])
    assert runs.seconds_at_work(runs.read_events(run), runs.read_metrics(run)) > 0
    log = logging.getLogger("ddpm_ms")
    assert (log.handlers, log.level) == ([], logging.NOTSET)
    # Who wants less says so.
    log.setLevel(logging.WARNING)
    try:
        with without_logging(monkeypatch):
            trainer.train()
    finally:
        log.setLevel(logging.NOTSET)
    assert capsys.readouterr().err == ""


def test_at_a_terminal_there_is_a_bar_that_lines_do_not_break(trainer, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with without_logging(monkeypatch):
        trainer.train()
    shown = [line for line in re.split(r"[\r\n]", terminal.getvalue()) if "\x1b" not in line]
    assert sum(line == "step 2: saved checkpoints/step_00000002" for line in shown) == 1
    assert any(re.match(r"100%.*\| 4/4 \[", line) for line in shown) and any("drawing 2 images" in line for line in shown)
    assert not any("loss" in line and "step 2/4" in line for line in shown)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(training_progress, "time", clock)
    monkeypatch.setattr("ddpm_ms.progress.time", clock)
    return clock


@pytest.mark.parametrize(("device", "seconds", "total", "said"), [
    ("CPU", 1.0, 100_000, "about 27 h 46 min on this CPU for the 99,989 steps to go; for a CPU there is a smaller recipe, "
                          "configs/folder_cpu.yaml"),
    ("Ascend", 3.0, 100_000, "about 3 days 11 h on this Ascend for the 99,989 steps to go; Ctrl-C stops and saves, and the same "
                             "again resumes"),
    ("CPU", 1.0, 61, "about 50.0 s on this CPU for the 50 steps to go"), ("CPU", 0.001, 1000, None)])
def test_after_ten_steps_it_is_said_once_how_long_the_run_will_take(clock, caplog, device, seconds, total, said):
    caplog.set_level(logging.INFO)
    progress = Progress(total, 50, device, active=True)
    with progress.shown(0):
        clock.now += 300  # compiles
        for step in range(40):
            progress.advance()
            clock.now += seconds
            assert len(caplog.messages) == (step >= 10 and said is not None)
    assert caplog.messages == ([] if said is None else [said])


def test_of_slow_steps_it_is_said_after_a_minute_and_each_line_has_the_time_left(clock, caplog):
    caplog.set_level(logging.INFO)
    progress = Progress(100, 50, "CPU", active=True)
    with progress.shown(90):
        for _ in range(3):
            progress.advance()
            clock.now += 40
        row = {"step": 93, "loss": 0.5, "grad_norm": 1.0, "lr": 1e-4, "images_per_second": None}
        progress.show(row)
    assert caplog.messages == ["about 4 min 40 s on this CPU for the 7 steps to go",
                               "step 93/100  loss 0.5000  grad norm 1.000  lr 1.00e-04  7 min 00 s left"]


@pytest.fixture
def somebody_else(tmp_path):
    """The number of another process that trains in ``run``, until it is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with alone(tmp_path / "run", HERE):
            os.write(writing, b"!")
            signal.pause()
    os.read(reading, 1)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_run_that_another_process_trains_is_left_alone(trainer, tmp_path, somebody_else, capsys):
    holder = rf"is trained by process {somebody_else} on {socket.gethostname()} since [-0-9: ]{{19}}, allowed: this one when "
    with pytest.raises(InputError, match=holder):
        trainer.train()
    recipe = str(ROOT / "configs" / "digits.yaml")
    assert main(["train", "--config", recipe, "--run-dir", str(trainer.run_dir), "--device", "CPU", "model.dim=8"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ddpm-ms: run directory") and re.search(holder, line)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_process_that_was_killed_holds_nothing(trainer, tmp_path):
    child = os.fork()
    if child == 0:
        with alone(tmp_path / "run", HERE):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == child
    trainer.train()
    trainer.train()
    assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == os.getpid()


def test_within_a_process_a_run_is_trained_once_at_a_time(trainer):
    with alone(trainer.run_dir, HERE), pytest.raises(InputError, match="is trained by this process already, allowed: another"):
        trainer.train()
    assert trainer.train() == trainer.run_dir


def test_on_a_file_system_without_locks_a_run_goes_on_with_a_warning(trainer, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    trainer.train()
    assert trainer.step == 4
    assert f"run directory {trainer.run_dir} cannot be locked (No locks available): do not start it twice" in caplog.messages
