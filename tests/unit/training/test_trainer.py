"""The loop: what a run leaves behind, and that an interrupted one ends like one that was not."""

import errno
import json
import os
import shutil
import signal
import sys

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import load_file

from ddpm_ms import GaussianDiffusion, Trainer, Unet, load_config, load_diffusion, rng
from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import SamplingConfig, differences, resolve_precision
from ddpm_ms.errors import InputError, TrainingError
from ddpm_ms.runtime import Runtime
from ddpm_ms.training.metrics import Metrics
from ddpm_ms.training.run_directory import RunDirectory
from ddpm_ms.visual import runs


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (23, 4, 4)).astype(np.float32)


@pytest.fixture
def make_trainer(tiny_unet, images):
    def make(folder, model=None, process=None, **changes):
        network = tiny_unet(**{"self_condition": True, "dropout": 0.2, "dim_mults": (1,), **(model or {})})
        diffusion = GaussianDiffusion(network, image_size=4, timesteps=20, **(process or {}))
        keywords = dict(train_batch_size=3, gradient_accumulate_every=2, train_num_steps=4, ema_update_every=2, num_samples=0,
                        save_and_sample_every=2, log_every=2, train_lr=1e-3, results_folder=folder)
        return Trainer(diffusion, images, **{**keywords, **changes})

    return make


def contents(run, step):
    folder = run / "checkpoints" / f"step_{step:08d}"
    return {path.name: load_file(path) for path in folder.glob("*.safetensors")}


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys() == {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
    for name in ours:
        assert ours[name].keys() == theirs[name].keys()
        for key in ours[name]:
            np.testing.assert_array_equal(ours[name][key], theirs[name][key], err_msg=f"{name} {key}")


def stop_in_step_3(trainer, monkeypatch):
    """SIGTERM arrives, twice at once as launchers and terminals deliver it, while the third step is computed."""
    one_step = trainer._one_step

    def with_signal(batches):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        return one_step(batches)

    monkeypatch.setattr(trainer, "_one_step", with_signal)


def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits_and_the_same_metrics(make_trainer, tmp_path, monkeypatch):
    # Sampling with the averaged weights in between must leave no trace.
    first = make_trainer(tmp_path / "whole", num_samples=2, sampling=SamplingConfig(steps=2))
    whole = first.train()
    make_trainer(tmp_path / "parts", train_num_steps=2).train()
    stopped = make_trainer(tmp_path / "parts")
    stop_in_step_3(stopped, monkeypatch)
    stopped.train()
    assert (stopped.step, stopped.total_steps) == (3, 4)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ours_at_3 = contents(tmp_path / "parts", 3)["model.safetensors"]
    monkeypatch.undo()
    parts = stopped.train()  # as in a notebook: the same object goes on, with the graphs that it has
    assert_same_bits(contents(parts, 4), contents(whole, 4))

    ours, theirs = ([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, parts))
    assert [row["step"] for row in ours] == [2, 4] and all(row["grad_norm"] > 0 for row in ours)
    assert [row["step"] for row in theirs] == [2, 3, 4]
    for key in ("loss", "loss_q1", "grad_norm", "lr", "ema_decay"):
        assert ours[0][key] == theirs[0][key]
    # 23 images are 3.83 steps of 6: the first epoch ends with step 4, and its mean counts every loss of it.
    assert ours[1]["epoch"] == theirs[2]["epoch"] == 1 and "epoch" not in ours[0]
    assert ours[1]["epoch_loss"] == pytest.approx((ours[0]["loss"] + ours[1]["loss"]) / 2)
    assert theirs[2]["epoch_loss"] == pytest.approx(ours[1]["epoch_loss"], rel=1e-6)
    # The first step of a start compiles, so of a row that has no other the speed is not known.
    assert ours[0]["images_per_second"] > 0 and theirs[1]["images_per_second"] is theirs[2]["images_per_second"] is None
    state = json.loads((whole / "checkpoints" / "step_00000004" / "state.json").read_text())
    assert (state["step"], state["ema_updates"], state["data_position"]) == (4, 2, 24)
    # The average really is one: neither the weights nor where they started.
    end = contents(whole, 4)
    assert (end["ema.safetensors"]["init_conv.weight"] != end["model.safetensors"]["init_conv.weight"]).any()

    # events.jsonl tells the same story.
    told = [json.loads(line) for line in (parts / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in told] == [
        ("started", 0), ("checkpoint", 2), ("finished", 2), ("resumed", 2), ("checkpoint", 3), ("stopped", 3),
        ("resumed", 3), ("checkpoint", 4), ("finished", 4)]
    assert (told[0]["total_steps"], told[3]["total_steps"], told[5]["by"]) == (2, 4, "SIGTERM")
    assert told[4]["checkpoint"] == "step_00000003" and all(event["world"] == 1 for event in told)
    times = [event["time"] for event in told]
    assert times == sorted(times) and theirs[0]["time"] <= times[1] <= theirs[1]["time"]
    assert 0 < runs.seconds_at_work(told, theirs) <= times[-1] - times[0]

    # The checkpoint alone is enough to sample.
    diffusion, found = load_diffusion(parts)
    assert found.step == 4 and found.config == load_config(parts / "config.yaml")
    sample = diffusion.sample(2, steps=3, seed=0)
    assert sample.shape == (2, 1, 4, 4)
    raw, _ = load_diffusion(parts / "checkpoints" / "step_00000004", ema=False)
    own = raw.sample(2, steps=3, seed=0)
    assert np.abs(own - sample).max() > 0
    # Where it was trained, the same is drawn; and what is saved from there is the same.
    assert first.ema.ema_model is first.diffusion
    np.testing.assert_array_equal(first.diffusion.sample(2, steps=3, seed=0), sample)
    with first.ema.withdrawn():
        np.testing.assert_array_equal(first.diffusion.sample(2, steps=3, seed=0), own)
    first.directory.path, first._saved_step = tmp_path / "once more", -1
    first.save()
    assert_same_bits(contents(tmp_path / "once more", 4), end)

    # A damaged newest checkpoint: reported, and the one before is used.
    damaged = parts / "checkpoints" / "step_00000004" / "model.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    again = make_trainer(parts)
    again.resume()
    assert again.step == 3
    parameters = dict(again.model.parameters_and_names())
    for key, value in ours_at_3.items():
        np.testing.assert_array_equal(parameters[key].asnumpy(), value)
    # All of them damaged: nothing begins again unasked, and nothing is overwritten.
    rows = (parts / "metrics.jsonl").read_text()
    for folder in (parts / "checkpoints").iterdir():
        (folder / "model.safetensors").unlink()
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"no checkpoint of .* can be used .*step_00000004.*step_00000002"):
        again.train()
    assert (parts / "metrics.jsonl").read_text() == rows

    # Finished: nothing is done again.
    before = [(whole / name).stat().st_mtime_ns for name in ("metrics.jsonl", "events.jsonl")]
    make_trainer(whole).train()
    assert [(whole / name).stat().st_mtime_ns for name in ("metrics.jsonl", "events.jsonl")] == before
    # But that it is finished is said, though a kill came between the last checkpoint and that.
    told = (whole / "events.jsonl").read_text()
    (whole / "events.jsonl").write_text(told[:told.rindex('"finished"')])
    make_trainer(whole).train()
    assert [event["event"] for event in runs.read_events(whole)] == [
        json.loads(line)["event"] for line in told.splitlines()]

    # Another configuration is refused, with the keys that differ.
    with pytest.raises(InputError, match=r"holds another run \(training.train_lr: 0.001 -> 0.01\)"):
        make_trainer(whole, train_lr=1e-2)
    with pytest.raises(InputError, match=r"model.dropout: 0.2 -> 0.1"):
        make_trainer(whole, model={"dropout": 0.1})


@pytest.mark.usefixtures("without_graphs")
def test_learned_variance_and_importance_sampling_train_and_resume_with_the_same_bits(tiny_unet, images, tmp_path):
    def train(folder, steps):
        diffusion = GaussianDiffusion(tiny_unet(learned_variance=True, dim_mults=(1,)), image_size=4, timesteps=3)
        trainer = Trainer(diffusion, images, train_batch_size=12, train_num_steps=steps, num_samples=0, save_and_sample_every=4,
                          timestep_sampling="loss_second_moment", results_folder=folder)
        trainer.train()
        return trainer

    whole = train(tmp_path / "whole", 7)
    train(tmp_path / "parts", 4)
    train(tmp_path / "parts", 7)
    assert_same_bits(contents(tmp_path / "parts", 7), contents(tmp_path / "whole", 7))
    assert (whole.timesteps.counts == 10).all()
    _, weights = whole.timesteps.draw(7, 12)
    assert weights.std() > 0.01
    assert load_diffusion(tmp_path / "whole")[0].variance == "learned"


def test_a_checkpoint_that_cannot_be_written_is_tried_again_and_three_in_a_row_stop_the_run(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, train_num_steps=9)
    trainer.save()
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(full))
    for step in (1, 2):
        trainer.state.step = step
        trainer.save()
    trainer.state.step = 3
    with pytest.raises(TrainingError, match=r"step 3: .*\(No space left on device\); step_00000000 is the last good one"):
        trainer.save()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000000"]  # no half one either
    monkeypatch.undo()
    trainer.save()
    assert checkpoint.read(tmp_path / "checkpoints" / "step_00000003").step == 3
    assert [(event["event"], event["step"], event.get("failures")) for event in runs.read_events(tmp_path)] == [
        ("checkpoint", 0, None), *[("checkpoint_failed", step, step) for step in (1, 2, 3)], ("checkpoint", 3, None)]


def test_a_run_directory_of_another_version_is_refused(make_trainer, tmp_path):
    (tmp_path / "config.yaml").write_text("model: {depth: 3}")
    with pytest.raises(InputError, match=r"is of another version of ddpm_ms \(unknown key 'model.depth'"):
        make_trainer(tmp_path)


def test_the_same_images_in_other_portions_are_the_same_run(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, train_batch_size=3, gradient_accumulate_every=2)
    other = make_trainer(tmp_path, train_batch_size=6, gradient_accumulate_every=1)
    assert not differences(trainer.config, other.config)
    assert differences(trainer.config, make_trainer(tmp_path, train_batch_size=6).config) == [
        "training.train_batch_size: 3 -> 6 (the same run with training.gradient_accumulate_every=1)"]
    assert differences(other.config, make_trainer(tmp_path, train_batch_size=6).config) == [
        "training.gradient_accumulate_every: 1 -> 2 (the same run with training.train_batch_size=3)"]
    assert differences(trainer.config, make_trainer(tmp_path, train_batch_size=4).config) == ["training.train_batch_size: 3 -> 4"]


@pytest.mark.parametrize(("given", "expected"), [
    ((None, None), ("fp32", "O0")), (("fp16", None), ("fp16", "O2")), ((None, "O1"), ("fp16", "O1")),
    (("bf16", "O1"), ("bf16", "O1")), ((None, "O0"), ("fp32", "O0"))])
def test_precision_and_amp_level_complete_each_other(given, expected):
    assert resolve_precision(*given) == expected


def test_a_precision_that_cannot_be_is_refused(make_trainer, tmp_path):
    with pytest.raises(InputError, match=r"amp_level is O2 with training.precision=fp32, allowed: O0"):
        make_trainer(tmp_path, precision="fp32", amp_level="O2")
    with pytest.raises(InputError, match=r"precision is bf16, but this CPU has no kernels for BFloat16, allowed: fp32, fp16"):
        make_trainer(tmp_path, precision="bf16")
    assert not (tmp_path / "config.yaml").exists()


def test_half_precision_trains_as_float32_does_and_an_overflow_changes_nothing(make_trainer, tmp_path):
    # Without a weight every gradient is far from zero, where Adam's first steps would follow its sign.
    small = dict(model={"self_condition": False, "dropout": 0.0}, process={"loss_weight": "none"}, gradient_accumulate_every=1,
                 train_num_steps=3)
    exact = make_trainer(tmp_path / "fp32", **small)
    exact.train()
    half = make_trainer(tmp_path / "fp16", precision="fp16", **small)
    assert half.state.loss_scale.value == 2.0**16
    half.state.loss_scale.value = 2.0**40  # overflows: the first attempts must leave no trace
    half.train()
    assert half.state.skipped_steps >= 8 and half.state.loss_scale.value == 2.0**40 / 2**half.state.skipped_steps
    skipped = [event for event in runs.read_events(tmp_path / "fp16") if event["event"] == "skipped"]
    assert [event["loss_scale"] for event in skipped] == [2.0**(40 - k) for k in range(half.state.skipped_steps)]
    for (name, ours), theirs in zip(half.model.parameters_and_names(), exact.model.get_parameters()):
        assert ours.dtype == ms.float32
        assert np.abs(ours.asnumpy() - theirs.asnumpy()).mean() < 2e-4, name  # three steps of Adam moved each by up to 3e-3
    assert half.metrics.rows[-1]["loss"] == pytest.approx(exact.metrics.rows[-1]["loss"], rel=0.01)
    assert half.metrics.rows[-1]["loss"] != exact.metrics.rows[-1]["loss"]


@pytest.mark.usefixtures("without_graphs")
def test_epochs_end_with_the_best_checkpoint_by_held_out_images_and_pictures(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, validation_images=5, train_num_epochs=3, save_and_sample_every="epoch", keep_last=1,
                           model={"self_condition": False, "dropout": 0.1}, gradient_accumulate_every=1, train_batch_size=9,
                           train_lr=1e-2, num_samples=2, sampling=SamplingConfig(steps=2))
    assert trainer.total_steps == 6
    assert len(trainer.dataset) == 18 and len(trainer.validation.dataset) == 5
    assert sorted(trainer.validation.times) == [0, 4, 8, 12, 16]
    # By hand: the loss of each held-out image on its own, with the averaged weights and without dropout, which training has.
    before = trainer.validation.loss(trainer.ema)
    assert trainer.validation.loss(trainer.ema) == before
    trainer.diffusion.set_train(False)
    by_hand = [trainer.diffusion.losses(
        ms.Tensor(trainer.validation.dataset.load([k])), ms.Tensor(trainer.validation.times[[k]]),
        ms.Tensor(rng.normal(0, "validation_noise", 0, [k], (1, 4, 4)))).asnumpy()[0] for k in range(5)]
    assert before == pytest.approx(np.mean(by_hand), rel=1e-5)
    measured = iter([0.5, 0.25, 0.75])
    monkeypatch.setattr(trainer.validation, "loss", lambda ema: next(measured))
    trainer.train()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_00000004", "step_00000006"]
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [f"step_0000000{k}.png" for k in (2, 4, 6)]
    ends = [row for row in trainer.metrics.rows if "epoch" in row]
    assert [(row["step"], row["epoch"], row["validation_loss"]) for row in ends] == [(2, 1, 0.5), (4, 2, 0.25), (6, 3, 0.75)]
    assert all(row["epoch_loss"] > 0 for row in ends)
    assert load_diffusion(tmp_path, best_one=True)[1].step == 4
    assert load_diffusion(tmp_path)[1].step == 6


def test_a_stop_in_a_step_that_is_due_keeps_its_validation_loss_and_the_last_grid(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, validation_images=5)
    drawn = []
    monkeypatch.setattr(trainer.validation, "loss", lambda ema: 0.5)
    monkeypatch.setattr(trainer, "sample", lambda: drawn.append(trainer.step))

    def two_steps_and_a_signal(batches):
        trainer.state.step += 2
        trainer.metrics.add(np.ones(6, np.float32), np.arange(6), None, 1.0)
        return True

    monkeypatch.setattr(trainer, "_one_step", two_steps_and_a_signal)
    trainer.describe()
    trainer._loop()
    trainer._loop()
    assert drawn == [4]
    assert [checkpoint.read(path).state["validation_loss"] for path in checkpoint.in_run(tmp_path)] == [0.5, 0.5]


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_save_that_fails_at_the_end_is_an_error_whoever_was_asked_to_stop(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, train_num_steps=9)
    trainer.state.step = 2
    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(TrainingError, match=r"step 2: .*none at the end"):
        trainer.save(last=True)


def events(run):
    """(step, tag, value or size of the picture) of every entry of the run's event files."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((run / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")  # then a checksum of it, the entry, and a checksum of that
            entry, data = Event.FromString(data[12:12 + length]), data[16 + length:]
            for value in entry.summary.value:
                picture = value.HasField("image")
                yield entry.step, value.tag, (value.image.width, value.image.height) if picture else value.simple_value


def test_tensorboard_is_told_what_metrics_jsonl_is_told_and_shown_the_grids(make_trainer, tmp_path):
    how = dict(num_samples=4, tensorboard=True, sampling=SamplingConfig(steps=2))
    make_trainer(tmp_path, train_num_steps=2, **how).train()
    make_trainer(tmp_path, train_num_steps=4, **how).train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = list(events(tmp_path))
    for name in ("loss", "grad_norm", "images_per_second"):
        found = [(step, value) for step, tag, value in told if tag == f"training/{name}"]
        assert found == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    assert [step for step, tag, _ in told if tag == "samples"] == [2, 4]
    assert next(value for _, tag, value in told if tag == "samples")[0] > 100
    make_trainer(tmp_path / "without").train()
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_tensorboard_without_its_writer_is_refused_before_anything_is_written(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="tensorboardX is not installed: pip install tensorboardX"):
        make_trainer(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_without_held_out_images_no_checkpoint_is_the_best(make_trainer, tmp_path):
    make_trainer(tmp_path).save()
    with pytest.raises(InputError, match=r"holds no validation loss"):
        load_diffusion(tmp_path, best_one=True)


@pytest.mark.usefixtures("without_graphs")
@pytest.mark.parametrize("every", [1, 3])
def test_the_last_step_is_saved_and_old_checkpoints_go(make_trainer, tmp_path, every):
    run = make_trainer(tmp_path, save_and_sample_every=2, keep_last=2, train_num_steps=5, model={"self_condition": False},
                       gradient_accumulate_every=every, log_every=5).train()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_00000004", "step_00000005"]


def test_damaged_checkpoints_after_the_present_step_neither_count_nor_are_the_best(tmp_path):
    for step, loss in ((2, 0.3), (3, 0.2), (8, 0.1), (9, 0.4)):
        checkpoint.save(tmp_path / "checkpoints", step, {checkpoint.WEIGHTS: {"w": np.ones(3, np.float32)}},
                        {"config": {}, "validation_loss": loss})
    for step in (8, 9):
        (tmp_path / "checkpoints" / f"step_{step:08d}" / checkpoint.WEIGHTS).write_bytes(b"")
    assert checkpoint.best(tmp_path).name == "step_00000003"
    checkpoint.remove_old(tmp_path, keep=1, step=3)
    assert [int(path.name[5:]) for path in checkpoint.in_run(tmp_path)] == [9, 8, 3]


def test_a_network_of_ones_own_is_recorded_as_such_whatever_it_inherits(tiny_unet, images, tmp_path):
    class Mine(Unet):
        pass

    diffusion = GaussianDiffusion(Mine(dim=8, dim_mults=(1,), channels=1, attn_heads=1, attn_dim_head=4), image_size=4)
    assert Trainer(diffusion, images, results_folder=tmp_path).config.model.name == "custom"
    with pytest.raises(InputError, match="compile_cache is True with a network of your own, allowed: False"):
        Trainer(diffusion, images, results_folder=tmp_path, compile_cache=True)


def test_rows_of_metrics_survive_a_full_disk_and_bytes_that_are_no_text(tmp_path, monkeypatch):
    def collected():
        metrics = Metrics(tmp_path / "metrics.jsonl", 20, Runtime("CPU", 0, 1, "a test"))
        metrics.add(np.ones(3, np.float32), np.arange(3), None, 1.0)
        return metrics

    collected().write(1, None, [0.0, 0.0])
    with monkeypatch.context() as patch:
        def half_a_line(row):
            with open(tmp_path / "metrics.jsonl", "a") as file:
                file.write('{"step": 2, "lo')
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("ddpm_ms.training.metrics.json.dumps", half_a_line)
        collected().write(2, None, [0.0, 0.0])
    collected().write(3, None, [0.0, 0.0])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\n{"loss": 1}\n{"step": 4, "loss"')
    metrics = collected()
    metrics.rewind(9)
    assert [row["step"] for row in metrics.rows] == [1, 3]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_an_event_after_half_a_line_or_on_a_full_disk_spoils_no_other(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path, 1, writes=True)
    directory.event("started", 0, total_steps=9)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "checkpo')  # a kill
    directory.event("resumed", 2)
    with monkeypatch.context() as patch:
        patch.setattr("ddpm_ms.training.files.json.dumps", full_disk)
        directory.event("checkpoint", 4)
    directory.event("finished", 9)
    RunDirectory(tmp_path, 2, writes=False).event("finished", 9)  # of another rank
    assert [event["event"] for event in runs.read_events(tmp_path)] == ["started", "resumed", "finished"]
    assert (tmp_path / "events.jsonl").read_text().count("\n") == 4


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, model={"self_condition": False, "dropout": 0.0}, gradient_accumulate_every=1)
    weight = trainer.model.final_conv.bias
    weight.set_data(weight + np.inf)
    with pytest.raises(TrainingError, match=r"step 1: the gradient is not finite after 1 attempt.*images [0-9]+, "):
        trainer.train()
    assert not list(tmp_path.glob("checkpoints/*"))
    started, failed = runs.read_events(tmp_path)
    assert (started["event"], failed["event"], failed["step"]) == ("started", "failed", 0)
    assert failed["reason"].startswith("step 1: the gradient is not finite")


def test_impossible_runs_are_refused_before_anything_is_written(make_trainer, tiny_unet, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(InputError, match=r"takes 24 images .* at most the 23"):
        make_trainer(run, train_batch_size=12)
    with pytest.raises(InputError, match=r"training.optimizer is 'adamw', allowed: adam with a weight_decay above 0"):
        make_trainer(run, optimizer="adamw")
    with pytest.raises(InputError, match=r"training.train_num_steps is -1"):
        make_trainer(run, train_num_steps=-1)
    with pytest.raises(InputError, match="the data has 1 channel, 4x4, but the diffusion is for 1 channel, 8x8"):
        Trainer(GaussianDiffusion(tiny_unet(), image_size=8), np.zeros((9, 4, 4), np.float32), results_folder=run)
    assert not run.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "digit", "truncate", "empty", "remove"])
def test_any_damage_to_a_checkpoint_is_found(tmp_path, name, harm):
    array = {"w": np.arange(9, dtype=np.float32)}
    files = {n: array for n in (checkpoint.WEIGHTS, checkpoint.EMA_WEIGHTS, checkpoint.OPTIMIZER)}
    path = checkpoint.save(tmp_path / "checkpoints", 7, files, {"config": {}})
    assert checkpoint.read(path).step == 7
    target = path / name
    data = bytearray(target.read_bytes())
    if harm == "remove":
        target.unlink()
    else:
        if harm == "flip":
            data[len(data) // 2] ^= 0x80
        if harm == "digit":  # what stays readable: another step, another weight
            data[data.index(b'"step": 7') + 8 if name == "state.json" else -1] ^= 1
        target.write_bytes({"flip": data, "digit": data, "truncate": data[: len(data) // 2], "empty": b""}[harm])
    with pytest.raises(checkpoint.DamagedCheckpoint, match="step_00000007"):
        checkpoint.read(path)


def test_whoever_may_read_by_the_umask_reads_every_file_of_a_checkpoint(tmp_path):
    before = os.umask(0o027)
    try:
        path = checkpoint.save(tmp_path / "checkpoints", 7, {checkpoint.WEIGHTS: {"w": np.ones(3, np.float32)}}, {"config": {}})
    finally:
        os.umask(before)
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in (*path.iterdir(), path)} == {
        checkpoint.WEIGHTS: "0o640", checkpoint.STATE: "0o640", path.name: "0o750"}


def test_an_interrupted_save_leaves_no_checkpoint(tmp_path, monkeypatch):
    def save():
        checkpoint.save(tmp_path / "checkpoints", 7, {checkpoint.WEIGHTS: {"w": np.ones(3, np.float32)}}, {"config": {}})

    monkeypatch.setattr(checkpoint, "_sync", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save()
    assert checkpoint.in_run(tmp_path) == []
    monkeypatch.undo()
    save()
    checkpoint.remove_old(tmp_path, keep=3, step=7)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000007"]


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    path = checkpoint.save(tmp_path / "checkpoints", 1, {}, {"config": {}})
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(InputError, match="has format 99, allowed: 2"):
        checkpoint.read(path)
    shutil.rmtree(path)
    with pytest.raises(InputError, match="does not exist"):
        load_diffusion(path)


def test_a_conditional_network_needs_labels_that_fit(tiny_unet, tmp_path):
    from ddpm_ms.data import ArrayDataset, split

    diffusion = GaussianDiffusion(tiny_unet(num_classes=3), image_size=4)
    images = np.zeros((20, 4, 4), np.float32)
    with pytest.raises(InputError, match=r"model.num_classes is 3, but the data has no labels"):
        Trainer(diffusion, images, results_folder=tmp_path / "r")
    with pytest.raises(InputError, match=r"the data has labels 0 to 4, allowed with model.num_classes=3: 0 to 2"):
        Trainer(diffusion, ArrayDataset(images, 1, np.arange(20) % 5), results_folder=tmp_path / "r")
    # Of images that are held out, too.
    _, held_out = split(ArrayDataset(np.arange(20)[:, None, None] / 20.0 * np.ones((4, 4)), 1), 5, seed=0)
    labels = np.zeros(20, int)
    labels[round(float(held_out.load([0]).mean()) * 20)] = 3
    with pytest.raises(InputError, match="the data has labels 0 to 3"):
        Trainer(diffusion, ArrayDataset(images, 1, labels), results_folder=tmp_path / "r", validation_images=5)
