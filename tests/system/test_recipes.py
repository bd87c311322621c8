"""Every recipe loads and fits its network; every smoke variant trains."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_ms.cli import main
from ddpm_ms.config import load_config
from ddpm_ms.models import create_model, num_parameters

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
SMOKE = [path for path in RECIPES if path.stem.endswith("_cpu_smoke")]
IDS = dict(ids=lambda path: path.stem)


@pytest.mark.parametrize("path", RECIPES, **IDS)
def test_every_recipe_loads_and_says_its_device(path):
    config = load_config(ROOT / path)
    sides = np.atleast_1d(config.data.image_size)
    assert (sides % 2 ** (len(config.model.dim_mults) - 1) == 0).all()
    device = next((name for name in ("ascend", "gpu", "cpu") if f"_{name}" in path.stem), None)
    if device:
        assert config.runtime.device.lower() == device


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "configs"], **IDS)
def test_a_device_variant_changes_only_what_the_device_asks_for(path):
    base = path.with_name(path.name.replace("_ascend", "").replace("_gpu", ""))
    if base == path:
        return
    ours, theirs = load_config(ROOT / path), load_config(ROOT / base)
    assert (ours.model, ours.diffusion, ours.data) == (theirs.model, theirs.diffusion, theirs.data)


# Networks of the papers by their published numbers of parameters.
PAPERS = {"cifar10": 35_746_307, "lsun256": 113_673_219, "celeba64": 78_700_803, "celebahq256_p2": 93_563_910,
          "ffhq256_p2": 93_563_910, "imagenet64": 295_904_454}


@pytest.mark.parametrize("name", PAPERS)
def test_the_recipe_of_a_paper_has_its_network_and_says_how_large_it_is(name, without_values):
    config = load_config(name)
    no_class = 4 * config.model.dim if config.model.num_classes else 0  # a row of ours alone
    assert num_parameters(create_model(config.model, config.data.channels)) - no_class == PAPERS[name]
    texts = [(ROOT / "configs" / f"{stem}.yaml").read_text() for stem in (name, "celebahq256_p2") if "p2" in name or stem == name]
    assert any(f"{PAPERS[name]:,} parameters" in text for text in texts)
    assert (config.diffusion.objective, config.training.ema_decay, config.training.ema_update_every) == ("pred_noise", 0.9999, 1)
    assert config.training.adam_betas == (0.9, 0.999) and config.training.optimizer == "adam"


def test_the_learning_rates_batches_and_lengths_are_the_papers():
    stated = {name: load_config(name).training for name in PAPERS}
    assert {name: (t.train_lr, t.train_batch_size, t.lr_warmup_steps, t.max_grad_norm) for name, t in stated.items()} == {
        "cifar10": (2e-4, 128, 5000, 1), "lsun256": (2e-5, 64, 5000, 1), "celeba64": (2e-4, 128, 0, 1),
        "celebahq256_p2": (2e-5, 8, 0, 0), "ffhq256_p2": (2e-5, 8, 0, 0), "imagenet64": (3e-4, 2048, 0, 0)}
    assert [stated[name].train_num_steps for name in ("cifar10", "lsun256", "imagenet64")] == [800_000, 2_400_000, 540_000]
    assert load_config("ffhq256_p2").diffusion.p2_loss_weight_gamma == 0.5
    assert [load_config(name).diffusion.variance for name in ("cifar10", "lsun256")] == ["fixed_large", "fixed_small"]


# Each compiles for about 20 s; where time counts, one of each network is enough.
QUICK = ("cifar10_cpu_smoke", "s5_flowers_p2_selfcond_cpu_smoke")


@pytest.mark.parametrize("path", [pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.slow) for path in SMOKE],
                         **IDS)
def test_every_smoke_variant_trains_two_steps_on_images(path, tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(4):
        pixels = random.integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    run = tmp_path / "run"
    assert main(["train", "--config", str(ROOT / path), "--run-dir", str(run), f"data.root={tmp_path / 'images'}"]) == 0
    assert (run / "checkpoints" / "step_00000002" / "ema.safetensors").is_file()
    assert Image.open(run / "samples" / "step_00000002.png").width > 0


def test_the_documents_list_every_recipe_that_there_is():
    listed = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    missing = [str(path) for path in RECIPES if f"`{path}`" not in listed]
    assert not missing


def test_every_variant_of_the_ablation_is_a_recipe():
    spec = importlib.util.spec_from_file_location("ablate", ROOT / "scripts" / "ablate.py")
    ablate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ablate)
    for recipe, changes in ablate.DATA.values():
        changes = [*ablate.REFERENCE, *changes]
        plain = load_config(ROOT / "configs" / recipe, changes)
        changed = {name: load_config(ROOT / "configs" / recipe, [*changes, *overrides])
                   for name, overrides in ablate.variants(plain.training.train_lr, plain.training.train_num_steps).items()}
        unchanged = {name for name, config in changed.items() if config == plain}
        assert unchanged - {f"steps_{plain.training.train_num_steps}"} == {"reference", "zero_init"}
