"""Recipes: reading, inheriting, overriding, refusing."""

from pathlib import Path

import pytest
import yaml

from ddpm_ms.config import Config, config_from_dict, config_of_run, differences, load_config, load_run_config, to_dict, to_yaml
from ddpm_ms.errors import InputError

CONFIGS = sorted(Path(__file__).parents[2].joinpath("configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_recipe_is_valid_and_survives_a_round_trip(path, tmp_path):
    config = load_config(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(config))
    assert load_config(copy) == config


def test_a_recipe_overrides_its_base_and_the_command_line_overrides_both(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("model: {dim: 32, dropout: 0.1}\ntraining: {seed: 1}")
    (tmp_path / "sub" / "top.yaml").write_text("base: ../base.yaml\nmodel: {dim: 64}")
    config = load_config(tmp_path / "sub" / "top.yaml", ["training.train_lr=1e-3", "model.dim_mults=[1, 2]"])
    assert (config.model.dim, config.model.dropout, config.training.seed) == (64, 0.1, 1)
    assert config.training.train_lr == 1e-3 and config.model.dim_mults == (1, 2)


@pytest.mark.parametrize(("override", "message"), [
    ("model.dmi=32", "unknown key 'model.dmi', did you mean 'dim'?"),
    ("modle.dim=32", "unknown key 'modle', did you mean 'model'?"),
    ("model.dim=wide", "model.dim is 'wide', allowed: whole number"),
    ("model.dim=true", "model.dim is True, allowed: whole number"),
    ("model.dim=1", "model.dim is 1, allowed: at least 4"),
    ("model.dropout=.nan", "model.dropout is nan, allowed: 0.0 to 0.99"),
    ("model.dim_mults=[]", "model.dim_mults is empty"),
    ("model.dim_mults=[1, 0]", "model.dim_mults is 0, allowed: at least 1"),
    ("diffusion.objective=v", "diffusion.objective is 'v', allowed: pred_noise, pred_x0, pred_v"),
    ("training.train_num_steps=-5", "training.train_num_steps is -5, allowed: at least 0"),
    ("sampling.eta=1.5", "sampling.eta is 1.5, allowed: 0.0 to 1.0"),
    ("training.adam_betas=[0.9]", "training.adam_betas is [0.9], allowed: a list of 2 numbers"),
    ("model=3", "model is 3, allowed: a mapping of keys"),
    ("nonsense", "override 'nonsense', allowed: section.key=value"),
    ("model.dim=[", "not valid YAML"),
])
def test_a_wrong_override_is_one_line_that_names_it(tmp_path, override, message):
    path = tmp_path / "c.yaml"
    path.write_text("")
    with pytest.raises(InputError) as error:
        load_config(path, [override])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "message"), [
    ("a: [", "not valid YAML"), ("- 1", "allowed: a mapping"), ("base: me.yaml", "leads back to itself"),
    ("base: none.yaml", "No such file"), ("base: 3", "allowed: the name of a YAML file"),
    ("model: !!python/object/apply:os.system ['true']", "not valid YAML"),
])
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, message):
    path = tmp_path / "me.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_config(path)
    assert "\n" not in str(error.value)


def test_differences_names_keys_that_change_the_weights_and_no_others():
    old = Config()
    free = config_from_dict({"training": {"train_num_steps": 5, "keep_last": 1}, "sampling": {"steps": 7}})
    assert differences(old, free) == []
    runtime = {"cpu_math": "bf16", "device": "CPU"}
    bound = config_from_dict({"runtime": runtime, "model": {"dim": 32}, "training": {"train_lr": 1}})
    assert differences(old, bound) == ["runtime.cpu_math: fp32 -> bf16", "model.dim: 64 -> 32",
                                       "training.train_lr: 0.0001 -> 1.0"]
    cosine = [config_from_dict({"training": {"lr_schedule": "cosine", "train_num_steps": n}}) for n in (1, 2)]
    assert len(differences(*cosine)) == 1


def test_the_printed_recipe_is_plain_yaml():
    assert yaml.safe_load(to_yaml(Config()))["model"]["dim_mults"] == [1, 2, 4, 8]


@pytest.mark.parametrize(("recorded", "name", "gamma"), [
    (dict(loss_weight=None, p2_loss_weight_gamma=0.0, min_snr_loss_weight=False), "none", None),
    (dict(loss_weight=None, p2_loss_weight_gamma=0.5, min_snr_loss_weight=False), "p2", 0.5),
    (dict(loss_weight="p2", p2_loss_weight_gamma=0.5, min_snr_loss_weight=False), "p2", 0.5),
    (dict(loss_weight=None, p2_loss_weight_gamma=0.0, min_snr_loss_weight=True), "min_snr", None),
    (dict(loss_weight="truncated_snr", p2_loss_weight_gamma=0.0, min_snr_loss_weight=False), "truncated_snr", None),
    (dict(loss_weight="snr", p2_loss_weight_gamma=None), "snr", None),
])
def test_an_older_run_is_read_as_what_it_was_trained_with(tmp_path, recorded, name, gamma):
    tree = to_dict(Config())
    tree["diffusion"] = {"timesteps": 7, **recorded}
    tree["training"] = {"ema_decay": 0.995, "ema_update_every": 10}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    for config in (config_of_run(tree), load_run_config(path)):
        assert (config.diffusion.loss_weight, config.diffusion.p2_loss_weight_gamma) == (name, gamma)
        assert (config.training.ema_decay, config.training.ema_update_every, config.diffusion.timesteps) == (0.995, 10, 7)
    assert load_run_config(_written(tmp_path, config)) == config


def _written(folder, config):
    path = folder / "again.yaml"
    path.write_text(to_yaml(config))
    return path


def test_a_recipe_with_a_key_that_is_no_more_is_told_the_new_one(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("diffusion: {min_snr_loss_weight: true}")
    with pytest.raises(InputError, match=r"unknown key 'diffusion.min_snr_loss_weight', allowed: loss_weight: min_snr"):
        load_config(path)
