"""Recipes: reading, inheriting, overriding, refusing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ddpm_ms.config import (
    Config,
    SamplingConfig,
    config_from_dict,
    config_of_run,
    differences,
    load_config,
    load_run_config,
    network_section,
    override_section,
    replace,
    to_dict,
    to_yaml,
)
from ddpm_ms.config.sections import SECTIONS
from ddpm_ms.errors import InputError
from ddpm_ms.parts import NETWORKS

CONFIGS = sorted(Path(__file__).parents[3].joinpath("configs").rglob("*.yaml"))


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


def test_what_is_wrong_in_a_base_is_said_with_the_name_of_that_file(tmp_path):
    (tmp_path / "deep.yaml").write_text("model: {dim: 8}\ntraining: {lr: 1}")
    (tmp_path / "base.yaml").write_text("base: deep.yaml")
    top = tmp_path / "top.yaml"
    top.write_text("base: base.yaml\nmodel: {dim_mults: [1]}")
    with pytest.raises(InputError, match=r"^config .*deep\.yaml: unknown key 'training\.lr', did you mean 'training\.train_lr'"):
        load_config(top)
    (tmp_path / "deep.yaml").write_text("model: {dim: 1}")
    with pytest.raises(InputError, match=r"^config .*deep\.yaml: model\.dim is 1, allowed: at least 4$"):
        load_config(top, ["model.dim_mults=[1, 2]"])
    assert load_config(top, ["model.dim=8"]).model.dim == 8
    for text in ("base: base.yaml\nmodel: {dim: 2}", "base: base.yaml\nmodel: {dim: 8, colour: 3}"):
        top.write_text(text)
        with pytest.raises(InputError, match=r"^(model\.dim is 2|unknown key 'model\.colour')"):
            load_config(top)


def test_a_section_without_keys_is_an_empty_one(tmp_path):
    (tmp_path / "base.yaml").write_text("model: {dim: 8}\ndata:\ninit:")
    (tmp_path / "top.yaml").write_text("base: base.yaml\nmodel:\n# dim: 3\ntraining:\n")
    config = load_config(tmp_path / "top.yaml")
    assert config.model.dim == 8 and config.training == Config().training and config.init is None


@pytest.mark.parametrize(("override", "message"), [
    ("model.dmi=32", "unknown key 'model.dmi', did you mean 'model.dim'?"),
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


@pytest.mark.parametrize(("override", "meant"), [
    ("training.lr=1", "'training.train_lr'"), ("training.learning_rate=1", "'training.train_lr'"),
    ("lr=1", "'training.train_lr'"),
    ("training.batch_size=8", "'training.train_batch_size'"), ("training.batch=8", "'training.train_batch_size'"),
    *[(f"training.{key}=9", "'training.train_num_steps'") for key in ("steps", "max_steps", "iterations", "num_steps")],
    ("training.ema=0.9", "'training.ema_decay'"), ("training.ema_rate=0.9", "'training.ema_decay'"),
    *[(f"diffusion.{key}=linear", "'diffusion.beta_schedule'") for key in ("noise_schedule", "beta-schedule", "scheduler")],
    ("diffusion.num_timesteps=9", "'diffusion.timesteps'"), ("diffusion.diffusion_steps=9", "'diffusion.timesteps'"),
    ("training.timesteps=9", "'diffusion.timesteps'"), ("data.image-size=8", "'data.image_size'"),
    ("model.imageSize=8", "'data.image_size'"), ("model.channels=1", "'data.channels'"),
    ("model.in_channels=1", "'data.channels'"),
    ("model.n_heads=2", "'model.attn_heads'"), ("training.sampler=ddim", "'sampling.sampler'"),
    ("model.seed=1", "'training.seed' or 'sampling.seed'"),
])
def test_a_setting_by_the_name_that_other_projects_give_it_is_told_the_name_here(tmp_path, override, meant):
    (tmp_path / "c.yaml").write_text("")
    with pytest.raises(InputError) as error:
        load_config(tmp_path / "c.yaml", [override])
    assert str(error.value) == f"unknown key '{override.partition('=')[0]}', did you mean {meant}?"


def test_no_other_name_of_a_setting_is_that_of_another_in_its_section():
    for section in [kind for name, kind in SECTIONS.items() if name != "model"] + [network_section(name) for name in NETWORKS]:
        fields = section.model_fields
        also = [name for field in fields.values() for name in (field.json_schema_extra or {}).get("also", ())]
        assert len(set(also)) == len(also) and not set(also) & set(fields), section


@pytest.mark.parametrize(("text", "message"), [
    ("a: [", "not valid YAML"), ("- 1", "allowed: a mapping"),
    ("base: me.yaml", "me.yaml: base is 'me.yaml', which leads back to itself"),
    ("base: none.yaml", r"^config .*me\.yaml: base is 'none\.yaml': .*none\.yaml: No such file"),
    ("base: 3", r"me\.yaml: base is 3, allowed: the name of a YAML file"),
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
    bound = config_from_dict({"runtime": {"device": "CPU"}, "model": {"dim": 32}, "training": {"train_lr": 1}})
    assert differences(old, bound) == ["model.dim: 64 -> 32", "training.train_lr: 0.0001 -> 1.0"]
    cosine = [config_from_dict({"training": {"lr_schedule": "cosine", "train_num_steps": n}}) for n in (1, 2)]
    assert len(differences(*cosine)) == 1
    unnamed, cats, dogs = (config_from_dict({"data": {"class_names": names}}) for names in (None, ["cats"], ["dogs"]))
    assert differences(unnamed, cats) == []  # of a run that was made before names were recorded
    assert differences(cats, dogs) == ["data.class_names: ['cats'] -> ['dogs']"]


def test_classes_without_a_name_are_called_by_their_numbers_and_the_last_one_none():
    assert config_from_dict({"data": {"class_names": ["cats"]}}).data.called(3) == ["cats", "1", "2", "none"]
    assert Config().data.called(2) == ["0", "1", "none"]


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


@pytest.mark.parametrize(("recorded", "read"), [
    ({"sampling": {"sampler": "heun", "eta": 0.0, "variance": "fixed_large"}},
     {"sampling": {"sampler": "heun", "eta": None, "variance": None}}),
    ({"sampling": {"sampler": "ddim", "eta": 0.5, "variance": "fixed_large"}},
     {"sampling": {"sampler": "ddim", "eta": 0.5, "variance": None}}),
    ({"sampling": {"sampler": "ddpm", "eta": 0.0, "variance": "fixed_large"}},
     {"sampling": {"sampler": "ddpm", "eta": None, "variance": "fixed_large"}}),
    ({"sampling": {"sampler": "euler", "eta": 0.7}}, {"sampling": {"sampler": "ddim", "eta": 0.0}}),
    ({"training": {"optimizer": "adamw", "weight_decay": 0.1, "amp_level": "O3"}},
     {"training": {"optimizer": "adam", "weight_decay": 0.1, "amp_level": "O2"}}),
    ({"training": {"train_lr": 0.1}}, {"training": {"optimizer": "adam", "train_lr": 0.1}}),
    ({"training": {"optimizer": "muon"}}, {"training": {"optimizer": "muon"}}),
    ({"runtime": {"device": "CPU", "cpu_math": "bf16"}}, {"runtime": {"device": "CPU"}}),
    ({"model": {"name": "unet", "learned_sinusoidal_cond": True, "random_fourier_features": False, "learned_sinusoidal_dim": 8}},
     {"model": {"name": "unet", "time_embedding": "learned_fourier", "fourier_dim": 8}}),
    ({"model": {"learned_sinusoidal_cond": True, "random_fourier_features": True}},
     {"model": {"name": "unet", "time_embedding": "random_fourier", "fourier_dim": 16}}),
    # The keys of all networks, as they were recorded before each network had its own.
    ({"model": {"name": "unet", "time_embedding": "learned", "down": "pool", "residual": True, "learned_sinusoidal_cond": False,
                "random_fourier_features": False}}, {"model": {"name": "unet", "time_embedding": "sinusoidal"}}),
    ({"model": {"name": "simple_unet", "time_embedding": "learned", "dropout": 0.1, "learned_sinusoidal_cond": False,
                "learned_sinusoidal_dim": 16}}, {"model": {"name": "simple_unet", "time_embedding": "learned"}}),
    ({"model": {"name": "custom", "dropout": 0.1, "down": "pool"}}, {"model": {"name": "custom"}}),
])
def test_what_an_older_run_recorded_is_read_in_todays_keys(recorded, read):
    assert config_of_run(recorded) == config_from_dict(read)
    assert config_of_run(to_dict(config_of_run(recorded))) == config_from_dict(read)


@pytest.mark.parametrize(("override", "message"), [
    ("sampling.sampler=euler", "sampling.sampler is 'euler', allowed: ddim with eta 0"),
    ("diffusion.beta_schedule=squaredcos_cap_v2", "beta_schedule is 'squaredcos_cap_v2', allowed: cosine, which is the same"),
    ("training.amp_level=O3", "training.amp_level is 'O3', allowed: O2"),
    ("training.optimizer=adamw", "training.optimizer is 'adamw', allowed: adam with a weight_decay above 0"),
    ("model.learned_sinusoidal_cond=true", "key 'model.learned_sinusoidal_cond', allowed: time_embedding: learned_fourier"),
    ("model.random_fourier_features=true", "key 'model.random_fourier_features', allowed: time_embedding: random_fourier"),
    ("model.learned_sinusoidal_dim=8", "unknown key 'model.learned_sinusoidal_dim', allowed: fourier_dim"),
    ("model.name=untt", "model.name is 'untt', allowed: unet, ddpm_unet, simple_unet, tiny_unet, did you mean 'unet'?"),
    ("model.name=my_package.net:Net",
     r"allowed: unet, ddpm_unet, simple_unet, tiny_unet \(ddpm_ms.register_network adds one of your own\)"),
    ("model.down=pool", "model.down is 'pool', which unet does not take but simple_unet, allowed: name, dim, "),
])
def test_an_old_spelling_is_refused_by_a_line_that_names_the_new_one(tmp_path, override, message):
    (tmp_path / "c.yaml").write_text("")
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "c.yaml", [override])


def test_what_is_wrong_elsewhere_is_said_before_a_network_is_imported(tmp_path):
    (tmp_path / "c.yaml").write_text("model: {name: unet}\nsampling: {stepz: 3}\ndata: {name: mnits}\n")
    code = ("import sys\nfrom ddpm_ms.config import load_config\n"
            "try:\n    load_config('c.yaml', sys.argv[1:])\n"
            "except ValueError as error:\n    print(error, 'mindspore' in sys.modules)")
    for override, message in (("sampling={}", "unknown key 'sampling.stepz', did you mean 'sampling.steps'? False"),
                              ("modle.dim=3", "unknown key 'modle', did you mean 'model'? False")):
        done = subprocess.run([sys.executable, "-c", code, override], capture_output=True, text=True, cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": str(CONFIGS[0].parents[1])})
        assert done.stdout.strip() == message, done.stderr


def test_an_option_that_the_sampler_does_not_take_is_refused_only_where_it_is_said_of_it():
    recorded = SamplingConfig(sampler="ddim", eta=0.5)
    assert override_section(recorded, {"sampler": "heun"}) == SamplingConfig(sampler="heun")
    assert override_section(recorded, {"steps": "7"}).eta == 0.5 and replace(recorded, sampler="ddim").eta == 0.5
    for values in ({"sampler": "heun", "eta": "0.5"}, {"sampler": "ddpm", "eta": "0.0"}):
        with pytest.raises(InputError, match=r"sampling.eta is 0\.\d, which \w+ does not take but ddim, allowed: null"):
            override_section(recorded, values)
    with pytest.raises(InputError, match=r"sampling\.variance is 'fixed_large', which ddim does not take but ddpm"):
        SamplingConfig(variance="fixed_large")
    with pytest.raises(InputError, match=r"sampling\.sampler is 'hen', allowed: .*, did you mean 'heun'?"):
        override_section(recorded, {"sampler": "hen"})


def _written(folder, config):
    path = folder / "again.yaml"
    path.write_text(to_yaml(config))
    return path


def test_a_recipe_with_a_key_that_is_no_more_is_told_the_new_one(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("diffusion: {min_snr_loss_weight: true}")
    with pytest.raises(InputError, match=r"unknown key 'diffusion.min_snr_loss_weight', allowed: loss_weight: min_snr"):
        load_config(path)


def test_a_path_on_the_command_line_is_taken_as_it_stands_but_for_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "c.yaml").write_text("")
    config = load_config(tmp_path / "c.yaml", ["data.root=~/My Pictures #1", "init='~/a run'"])
    assert (config.data.root, config.init) == ("/home/somebody/My Pictures #1", "/home/somebody/a run")


def test_a_recipe_that_chooses_another_network_inherits_what_all_networks_have(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("model: {dim: 24, dim_mults: [1, 2], attn_heads: 2}\n")
    model = load_config(base, ["model.name=ddpm_unet", "model.norm_groups=8"]).model
    assert (model.name, model.dim, model.dim_mults, model.norm_groups) == ("ddpm_unet", 24, (1, 2), 8)
    (tmp_path / "c.yaml").write_text("base: base.yaml\nmodel: {name: ddpm_unet}\n")
    assert load_config(tmp_path / "c.yaml").model.name == "ddpm_unet"
    with pytest.raises(InputError, match=r"model\.attn_heads is 4, which ddpm_unet does not take but unet"):
        load_config(base, ["model.attn_heads=4", "model.name=ddpm_unet"])
