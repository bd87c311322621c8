"""A run that begins with another run's weights, and one that goes on with another learning rate."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from safetensors.numpy import load_file

from ddpm_ms import GaussianDiffusion, Trainer, load_config
from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.cli import main
from ddpm_ms.config import config_from_dict, load_recorded, to_dict, to_yaml
from ddpm_ms.errors import InputError
from ddpm_ms.training.files import append_json
from ddpm_ms.training.initial import begin_with
from ddpm_ms.training.run_directory import RunDirectory
from ddpm_ms.visual import report, runs

pytestmark = pytest.mark.usefixtures("without_graphs")


class Pixelwise(nn.Cell):
    """The smallest network that has everything a process asks for."""

    channels, self_condition = 1, False

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones((1, 1, 4, 4)), ms.float32), name="weight")

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        return x * self.weight


@pytest.fixture
def make_trainer(monkeypatch):
    images = np.random.default_rng(0).uniform(0, 1, (23, 4, 4)).astype(np.float32)
    monkeypatch.setattr(RunDirectory, "save_pictures", lambda *_: None)

    def make(folder, network=None, **changes):
        diffusion = GaussianDiffusion(network or Pixelwise(), image_size=4, timesteps=20)
        keywords = dict(train_batch_size=3, train_num_steps=6, num_samples=0, save_and_sample_every=2, keep_last=9, log_every=1,
                        train_lr=1e-3, results_folder=folder)
        return Trainer(diffusion, images, **{**keywords, **changes})

    return make


def weights(run, step, name="model"):
    return load_file(run / "checkpoints" / f"step_{step:08d}" / f"{name}.safetensors")


def told(run, name):
    return [event for event in runs.read_events(run) if event["event"] == name]


def rates(run):
    return {row["step"]: row["lr"] for row in runs.read_metrics(run)}


# Another run's weights.


def test_a_run_begins_with_the_averaged_weights_of_another_and_says_so(make_trainer, tmp_path):
    first = make_trainer(tmp_path / "first", train_num_steps=4, train_lr=1e-2).train()
    for init in (first, first / "checkpoints" / "step_00000002"):
        trainer = make_trainer(tmp_path / f"from {init.name}", init=init, train_num_steps=0)
        run, taken = trainer.train(), checkpoint.find(init)
        wanted = taken.arrays("ema.safetensors")
        assert (wanted["weight"] != weights(first, taken.step)["weight"]).any()
        for found in (dict(trainer.model.parameters_and_names()), trainer.ema.parameters_by_name()):
            assert found.keys() == wanted.keys() and all((found[key].asnumpy() == wanted[key]).all() for key in wanted)
        event, = told(run, "initialised")
        assert (event["checkpoint"], event["sha256"]) == (str(taken.path), taken.state["sha256"]["ema.safetensors"])
        assert load_config(run / "config.yaml").init == str(init) == trainer.config.init


def test_a_resumed_run_takes_its_own_weights_and_no_longer_needs_the_others(make_trainer, tmp_path):
    first = make_trainer(tmp_path / "first", train_num_steps=2).train()
    whole = make_trainer(tmp_path / "whole", init=first, train_num_steps=4).train()
    make_trainer(tmp_path / "parts", init=first, train_num_steps=2).train()
    first.rename(tmp_path / "elsewhere")
    parts = make_trainer(tmp_path / "parts", init=first, train_num_steps=4).train()
    assert all((weights(parts, 4)[name] == value).all() for name, value in weights(whole, 4).items())
    assert len(told(parts, "initialised")) == 1
    with pytest.raises(InputError, match=r"holds another run \(init: .*first -> None\)"):
        make_trainer(parts)


@pytest.mark.parametrize(("model", "message"), [
    ({"init_dim": 12}, r"init_conv\.weight is \(12, 1, 7, 7\) here and \(8, 1, 7, 7\) there"),
    ({"num_classes": 3}, r"class_emb\.embedding_table is \(4, 32\) here and missing there"),
])
def test_weights_that_do_not_fit_are_one_line_and_change_nothing(make_trainer, tiny_unet, tmp_path, model, message):
    first = make_trainer(tmp_path / "first", tiny_unet(dim_mults=(1,)))
    first.save()
    network = tiny_unet(dim_mults=(1,), **model)
    before = [parameter.asnumpy().copy() for parameter in network.get_parameters()]
    with pytest.raises(InputError, match=rf"^init .*step_00000000 does not fit the network: {message}, allowed: a run of"):
        begin_with(network, str(first.run_dir), tmp_path / "run")
    assert all((value == parameter.asnumpy()).all() for value, parameter in zip(before, network.get_parameters()))
    with pytest.raises(InputError, match=r"checkpoint .*none does not exist"):
        make_trainer(tmp_path / "run", init=tmp_path / "none")
    assert not (tmp_path / "run").exists()


def test_a_recipe_names_the_run_that_it_begins_with_and_others_say_nothing_of_it(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("init: runs/first\ntraining: {seed: 3}")
    config = load_config(tmp_path / "a.yaml")
    assert config.init == "runs/first" and config_from_dict(to_dict(config)) == config
    assert load_config(tmp_path / "a.yaml", ["init=runs/second"]).init == "runs/second"
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_recorded(tmp_path / "config.yaml")[0]["training"]["seed"] == 3
    plain = load_config(tmp_path / "a.yaml", ["init=null"])
    assert "init" not in to_dict(plain)
    with pytest.raises(InputError, match=r"^init is 3, allowed: a run directory or one of its checkpoints$"):
        load_config(tmp_path / "a.yaml", ["init=3"])
    with pytest.raises(InputError, match="unknown key 'inti', did you mean 'init'"):
        load_config(tmp_path / "a.yaml", ["inti=x"])
    assert main(["train", "--config", "digits", "--run-dir", str(tmp_path / "run"), "--device", "CPU", "model.dim=8",
                 "model.dim_mults=[1]", f"init={tmp_path}/none"]) == 2
    assert f"checkpoint {tmp_path}/none does not exist" in capsys.readouterr().err and not (tmp_path / "run").exists()


# Another learning rate.


def test_another_learning_rate_is_a_phase_that_is_asked_for_and_recorded(make_trainer, tmp_path):
    whole = make_trainer(tmp_path / "whole").train()
    run = make_trainer(tmp_path / "run", train_num_steps=4).train()
    with pytest.raises(InputError, match=r"train_lr: 0.001 -> 0.01\), allowed: .*, or --new-phase, to go on with the new value"):
        make_trainer(run, train_lr=1e-2)
    with pytest.raises(InputError, match=r"training.seed: 0 -> 1\), allowed: the same configuration, or another --run-dir$"):
        make_trainer(run, train_lr=1e-2, seed=1, new_phase=True)
    make_trainer(run, train_lr=1e-2, new_phase=True).train()
    assert rates(run) == {**dict.fromkeys((1, 2, 3, 4), 1e-3), **dict.fromkeys((5, 6), 1e-2)}
    phase, = told(run, "phase")
    assert (phase["step"], phase["key"], phase["old"], phase["new"]) == (4, "training.train_lr", 1e-3, 1e-2)
    # Before it the run is what it was, after it another one, which is resumed as it is.
    assert all((weights(run, 4)[name] == value).all() for name, value in weights(whole, 4).items())
    assert any((weights(run, 6)[name] != value).any() for name, value in weights(whole, 6).items())
    make_trainer(run, train_lr=1e-2, train_num_steps=7, new_phase=True).train()
    assert len(told(run, "phase")) == 1 and rates(run)[7] == 1e-2
    page = report.report_html(run, *load_recorded(run / "config.yaml"))
    assert "training.train_lr since step 4" in page and "0.01, before 0.001" in page and "key: training.train_lr" in page


def test_a_run_that_falls_back_behind_a_phase_takes_its_steps_with_the_rates_that_they_had(make_trainer, tmp_path):
    def phases(folder):
        make_trainer(folder, train_num_steps=4).train()
        return make_trainer(folder, train_lr=1e-2, new_phase=True).train()

    whole, run = phases(tmp_path / "whole"), phases(tmp_path / "run")
    for step in (4, 6):
        (run / "checkpoints" / f"step_{step:08d}" / "model.safetensors").write_bytes(b"")
    make_trainer(run, train_lr=1e-2).train()
    assert len(told(run, "phase")) == 1 and rates(run) == rates(whole)
    assert all((weights(run, 6)[name] == value).all() for name, value in weights(whole, 6).items())
    # Another phase from there on replaces the one that lies ahead.
    for step in (4, 6):
        (run / "checkpoints" / f"step_{step:08d}" / "model.safetensors").write_bytes(b"")
    make_trainer(run, train_lr=1e-4, new_phase=True).train()
    assert rates(run) == {1: 1e-3, 2: 1e-3, **dict.fromkeys((3, 4, 5, 6), 1e-4)}
    assert runs.phases(runs.read_events(run)) == [runs.Phase(2, 1e-3, 1e-4)]


def test_a_phase_that_cannot_be_recorded_does_not_begin(make_trainer, tmp_path, monkeypatch):
    run = make_trainer(tmp_path / "run", train_num_steps=2).train()

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("ddpm_ms.training.run_directory.append_json", full_disk)
    with pytest.raises(InputError, match="cannot record a new phase: No space left"):
        make_trainer(run, train_lr=1e-2, new_phase=True).train()
    # The next start, which finds the new recipe, still makes a phase of it.
    monkeypatch.setattr("ddpm_ms.training.run_directory.append_json", append_json)
    make_trainer(run, train_lr=1e-2, train_num_steps=3).train()
    assert [phase["step"] for phase in told(run, "phase")] == [2] and rates(run)[3] == 1e-2


def test_what_is_no_phase_in_a_history_is_passed_over():
    text = "\n".join(map(json.dumps, (
        {"event": "phase", "time": 1, "step": 3, "old": 1, "new": 2}, {"event": "phase", "time": 1, "step": 4, "old": "x"},
        {"event": "phase", "time": 1, "step": 5, "old": "x", "new": 2}, {"event": "stopped", "time": 1, "step": 6, "old": 1})))
    assert runs.phases(runs.events_of(text)) == [runs.Phase(3, 1.0, 2.0)]
