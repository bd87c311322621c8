"""Metrics during training: what they are of, where they go, and that training does not notice them."""

import json
import os
import signal
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops
from safetensors.numpy import load_file

from ddpm_ms import GaussianDiffusion, Trainer, load_diffusion, runtime
from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import (
    Config,
    EvaluationConfig,
    SamplingConfig,
    config_of_run,
    differences,
    load_recorded,
    load_run_config,
    to_dict,
)
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation import metrics, protocol
from ddpm_ms.sampling.pipeline import SamplingPipeline
from ddpm_ms.training.event_files import EventFiles
from ddpm_ms.training.metrics import Metrics
from ddpm_ms.visual import runs, to_uint8
from ddpm_ms.visual.report import report_html

EVERY_2 = dict(every=2, images=6, metric=["fid", "kid", "precision"], features="pixels")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Where statistics are kept. Nothing is compiled: to these tests graphs add nothing but time."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "cache_dir", lambda: cache)
        patch.setattr("ddpm_ms.runtime.graphs._mode", "pynative")
        yield cache / "statistics"


IMAGES = np.random.default_rng(0).uniform(0, 1, (13, 4, 4)).astype(np.float32)


class Net(nn.Cell):
    """As little as can be trained."""

    channels = 1

    def __init__(self):
        super().__init__()
        runtime.seed_weights(0)
        self.conv, self.level = nn.Conv2d(1, 1, 3, has_bias=True), nn.Dense(1, 1)

    def construct(self, x, t, x_self_cond=None, classes=None, dropout_key=None):
        return self.conv(x) + self.level(ops.cast(t, ms.float32).reshape(-1, 1) / 20).reshape(-1, 1, 1, 1)


def make_trainer(folder, evaluation=None, data=IMAGES, **changes):
    diffusion = GaussianDiffusion(Net(), image_size=4, timesteps=20)
    keywords = dict(train_batch_size=3, train_num_steps=5, num_samples=4, save_and_sample_every=5, log_every=1, train_lr=1e-3,
                    sampling=SamplingConfig(steps=2), results_folder=folder)
    evaluation = None if evaluation is None else EvaluationConfig(**{**EVERY_2, **evaluation})
    return Trainer(diffusion, data, evaluation=evaluation, **{**keywords, **changes})


def lines(run):
    """The rows of metrics.jsonl, in the order of the file, without what a clock says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("time", "images_per_second", "compile_seconds")}
            for row in rows]


def weights(run, step):
    folder = run / "checkpoints" / f"step_{step:08d}"
    return {(path.name, key): array.tobytes() for path in folder.glob("*.safetensors") for key, array in load_file(path).items()}


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """A run of five steps that is measured after every second step, and after the last."""
    return make_trainer(tmp_path_factory.mktemp("whole"), {}).train()


def test_the_numbers_are_those_of_what_is_drawn_and_training_does_not_notice(whole, tmp_path, cache):
    plain = make_trainer(tmp_path / "plain").train()
    trained = [row for row in lines(whole) if "evaluated" not in row]
    assert trained == lines(plain) and weights(whole, 5) == weights(plain, 5)
    assert runs.read_measurements(plain) == [] and load_run_config(plain / "config.yaml").evaluation == EvaluationConfig()
    assert [row["step"] for row in lines(whole)] == [1, 2, 2, 3, 4, 4, 5, 5]  # what is measured is a row of its own

    rows = runs.read_measurements(whole)
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert {row["evaluated"] for row in rows} == {
        "6 images, ddim, 2 steps, seed 0, against the 13 of training, in pixels 1x4x4"}
    drawn = load_diffusion(whole / "checkpoints" / "step_00000004", model=Net())[0].sample(6, steps=2, seed=0)
    x, y = (to_uint8(part).reshape(len(part), -1).astype(np.float32) / np.float32(255) for part in (drawn, IMAGES))
    gaussians = [metrics.Gaussian(rows.mean(0), np.cov(rows, rowvar=False)) for rows in (x.astype(float), y.astype(float))]
    assert rows[1]["fid"] == pytest.approx(metrics.frechet(*gaussians), rel=1e-3)
    assert rows[1]["kid"] == pytest.approx(metrics.kid(x, y).value, rel=1e-3)
    assert rows[1]["precision"] == pytest.approx(metrics.covered(x, y))
    assert len(list(cache.iterdir())) == 1


def count_calls_of_sample(monkeypatch, called):
    """``called(count, first_index)`` before each batch is drawn."""
    sample = SamplingPipeline.sample

    def watched(self, count, *arguments, first_index=0, **keywords):
        called(count, first_index)
        return sample(self, count, *arguments, first_index=first_index, **keywords)

    monkeypatch.setattr(SamplingPipeline, "sample", watched)


def test_a_stop_within_an_evaluation_is_heeded_and_the_resumed_run_has_the_same_rows(whole, tmp_path, monkeypatch):
    folder, now = tmp_path / "parts", []

    def signalled(count, first_index):
        trainer, step, first = now
        if (trainer.step, first_index) == (step, first):
            os.kill(os.getpid(), signal.SIGTERM)

    count_calls_of_sample(monkeypatch, signalled)
    # In the first batch after a step on the way, and in the second batch, which the sample grid has not, after the last step.
    for step, first, rows in ((2, 0, [1, 2]), (5, 4, [1, 2, 2, 3, 4, 4, 5])):
        now[:] = make_trainer(folder, {}), step, first
        now[0].train()
        assert now[0].step == step and runs.read_events(folder)[-1]["event"] == "stopped"
        assert [row["step"] for row in lines(folder)] == rows
    monkeypatch.undo()
    make_trainer(folder, {}).train()
    assert runs.read_events(folder)[-1]["event"] == "finished"
    ours, theirs = lines(folder), lines(whole)
    for row in (*ours, *theirs):
        row.pop("epoch_loss", None)  # the sum of other parts
    assert ours == theirs and weights(folder, 5) == weights(whole, 5)
    # A kill that takes the last rows with it: those after the checkpoint are written again.
    rows = (folder / "metrics.jsonl").read_text()
    measuring = Metrics(folder / "metrics.jsonl", 20, make_trainer(tmp_path / "other").runtime)
    measuring.rewind(4)
    assert (folder / "metrics.jsonl").read_text() == "".join(rows.splitlines(keepends=True)[:6])
    assert [row["step"] for row in measuring.measured] == [2, 4]


def test_evaluated_steps_are_saved_and_the_best_by_any_metric_stays(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, {"every": 1}, train_num_steps=6, keep_last=1, num_samples=0, save_and_sample_every=6)
    scores = {1: (9.0, 0.5, 0.1), 2: (3.0, 0.5, 0.2), 3: (5.0, 0.1, 0.2), 4: (5.0, 0.1, None), 5: (6.0, 0.2, 0.9),
              6: (7.0, 0.2, 0.3)}
    monkeypatch.setattr(trainer.evaluation, "scores",
                        lambda drawn: dict(zip(("fid", "kid", "precision"), scores[trainer.step])))
    trainer.train()
    assert [int(path.name[5:]) for path in checkpoint.in_run(tmp_path)] == [6, 5, 4, 2]
    best = {metric: load_diffusion(tmp_path, best_one=metric, model=Net())[1].step for metric in ("fid", "kid", "precision")}
    assert best == {"fid": 2, "kid": 4, "precision": 5}  # of equals the later one; of precision the highest
    assert load_diffusion(tmp_path, model=Net())[1].step == 6
    for metric, message in ((True, "holds no validation loss, .* training.validation_images, or the best by fid, kid, precision"),
                            ("recall", r"holds no recall, .* evaluation.every and evaluation.metric=recall, or the best by fid"),
                            ("loss", "is 'loss', allowed: fid, kid")):
        with pytest.raises(InputError, match=message):
            load_diffusion(tmp_path, best_one=metric, model=Net())
    # What was measured otherwise does not compare.
    trainer.metrics.measure(6, {"fid": 8.0}, "of other images")
    assert checkpoint.best(tmp_path, "fid").name == "step_00000006"


def test_tensorboard_the_log_and_the_report_have_the_numbers(whole):
    row, told = runs.read_measurements(whole)[0], {}
    files = EventFiles.__new__(EventFiles)
    files._writer = SimpleNamespace(add_scalar=lambda name, value, step: told.update({name: (value, step)}), flush=lambda: None)
    files.scalars(row)
    assert told == {f"evaluation/{name}": (row[name], 2) for name in EVERY_2["metric"]}
    line, = (line for line in (whole / "log.txt").read_text().splitlines() if "step 2/5  fid " in line)
    assert f"fid {row['fid']:.6g}  kid {row['kid']:.6g}  precision {row['precision']:.6g}  ({row['evaluated']})" in line
    config, defaults = load_recorded(whole / "config.yaml")
    page = report_html(whole, config, defaults)
    assert "fid of 6 images, ddim, 2 steps" in page and "evaluation.every" in page


def test_images_that_are_not_finite_give_no_numbers_and_training_goes_on(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, {}, train_num_steps=3, num_samples=0)
    draw = trainer._draw
    monkeypatch.setattr(trainer, "_draw", lambda *how: (images * (np.nan if trainer.step == 2 else 1) for images in draw(*how)))
    trainer.train()
    first, last = runs.read_measurements(tmp_path)
    assert first["fid"] is None and last["fid"] > 0 and checkpoint.best(tmp_path, "fid").name == "step_00000003"


def test_what_is_drawn_together_is_as_many_as_a_grid_has(tmp_path, monkeypatch):
    drawn = []
    count_calls_of_sample(monkeypatch, lambda *batch: drawn.append(batch))
    make_trainer(tmp_path, {}, train_num_steps=2).train()
    assert drawn == [(4, 0), (4, 0), (4, 4)]  # the grid, and 6 images in two batches: one shape, one graph


@pytest.mark.parametrize(("evaluation", "message"), [
    ({"metric": "sfid"}, "evaluation.metric is sfid, allowed with evaluation.features=pixels: fid, kid, precision, recall, mind"),
    ({"metric": ["fid", "is"]}, "evaluation.metric is is, allowed with evaluation.features=pixels: fid"),
    ({"images": 3}, "evaluation.images is 3, allowed with evaluation.metric=precision: at least 4"),
    ({"features": "digits"}, "images are 1x4x4, allowed with --features digits: 1x8x8"),
    ({"features": "inception"}, "features are inception, but no file of its weights is named"),
])
def test_what_cannot_be_measured_is_refused_before_anything_is_written(tmp_path, monkeypatch, evaluation, message):
    monkeypatch.delenv("DDPM_MS_INCEPTION", raising=False)
    with pytest.raises(InputError) as error:
        make_trainer(tmp_path / "run", evaluation)
    assert message in str(error.value) and not (tmp_path / "run").exists()


def test_data_that_does_not_serve_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"evaluation.every is 2 with data that has no length, allowed: null"):
        make_trainer(tmp_path, {}, (image[None] for image in IMAGES))
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"is fid, allowed with .*=pixels: kid, precision, "):
        patch.setattr("ddpm_ms.training.evaluation.WIDEST", 15)  # a covariance of this many numbers is too much
        make_trainer(tmp_path, {})
    with pytest.raises(InputError, match=r"evaluation.metric is precision with 3 training image\(s\), allowed: at least 4"):
        make_trainer(tmp_path, {}, IMAGES[:3])


@pytest.mark.parametrize(("values", "message"), [
    ({"metric": "fidd"}, "evaluation.metric is 'fidd', allowed: fid, kid, is, precision, recall, sfid, mind, did you mean 'fid'"),
    ({"metric": []}, "evaluation.metric is [], allowed: fid, kid"),
    ({"features": "resnet"}, "evaluation.features is 'resnet', allowed: pixels, digits, inception, classifier"),
    ({"every": 0}, "evaluation.every is 0, allowed: at least 1"),
    ({"images": 2.5}, "evaluation.images is 2.5, allowed: whole number"),
])
def test_an_impossible_setting_is_one_line(values, message):
    with pytest.raises(InputError) as error:
        EvaluationConfig(**values)
    assert str(error.value).startswith(message)


def test_a_run_of_an_earlier_version_has_no_evaluations_and_may_begin_with_them():
    recorded = to_dict(Config())
    del recorded["evaluation"]
    old = config_of_run(recorded)
    assert old.evaluation.every is None
    assert differences(old, Config(evaluation=EvaluationConfig(**EVERY_2))) == []
