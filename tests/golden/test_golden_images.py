"""A converted network draws the images that the other project's own sampler draws from the same noise (see make_*_images.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
from images_cases import (
    COUNT,
    DDIM_PATH,
    DIFFUSERS_PATH,
    GUIDED_PATH,
    RESPACED,
    SCHEDULES,
    SEED,
    STRIDES,
    UNETS,
    carrying,
    carrying_v,
    shapes_of,
    weights,
)
from safetensors.numpy import save_file
from torch_writer import torch_file

from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.checkpoints.checkpoint import load_diffusion
from ddpm_ms.cli import main
from ddpm_ms.conversion import convert

GOLDEN = {name: np.load(Path(__file__).parent / f"{name}_images.npz") for name in ("diffusers", "ddim", "lucidrains", "guided")}
LARGEST_DIFFERENCE = 1e-3  # of images in [0, 1]


@pytest.fixture(scope="module")
def loaded():
    """A function of a run: its diffusion and its config. Runs of one network share its graph, which takes seconds to compile."""
    known = []

    def load(run):
        for first, network in known:
            if network == checkpoint.find(run).config.model:
                diffusion, found = load_diffusion(run, model=first.model)
                diffusion._network_graph = first.network_graph()
                return diffusion, found.config
        diffusion, found = load_diffusion(run)
        known.append((diffusion, found.config.model))
        return diffusion, found.config

    return load


def same(loaded, run, expected, **options):
    """Whether ``run`` draws the ``expected`` images, as its recipe says but for the ``options``."""
    diffusion, config = loaded(run)
    images = diffusion.pipeline.sample(COUNT, config.sampling.changed({"seed": SEED, **options})).images
    assert np.abs(images - expected).max() < LARGEST_DIFFERENCE


def recipe_and_weights(run):
    found = checkpoint.find(run)
    return found.config, {name: array.tobytes() for name, array in found.arrays(checkpoint.EMA_WEIGHTS).items()}


def write(path, value, **options):
    path.write_bytes(torch_file(value, **options))
    return path


def test_the_images_tell_settings_apart():
    """That a wrong one would be found."""
    for project, one, other in (("diffusers", "fixed_large", "unclipped"), ("diffusers", "ddim", "ddim_unclipped"),
                                ("ddim", "fixed_large", "fixed_small"), ("ddim", "ddim", "averaged.ddim"),
                                ("lucidrains", "ddim", "averaged.ddim"), ("guided", "old", "new")):
        assert np.abs(GOLDEN[project][one] - GOLDEN[project][other]).max() > 50 * LARGEST_DIFFERENCE


# diffusers

def folder_of_diffusers(path, case, old=False, bin_file=False):
    """As ``save_pretrained`` of a pipeline writes it; or as google/ddpm-* are."""
    network, kind, settings, _ = SCHEDULES[case]
    unet, scheduler = (path, path) if old else (path / "unet", path / "scheduler")
    for folder in {path, unet, scheduler}:
        folder.mkdir(parents=True, exist_ok=True)
    if not old:
        (path / "model_index.json").write_text(json.dumps({
            "_class_name": "DDPMPipeline", "_diffusers_version": "0.42.0", "scheduler": ["diffusers", kind],
            "unet": ["diffusers", "UNet2DModel"]}))
    (unet / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **UNETS[network]}))
    (scheduler / "scheduler_config.json").write_text(json.dumps({"_class_name": kind, **settings}))
    state = carrying(weights(shapes_of(GOLDEN["diffusers"], network)), **DIFFUSERS_PATH)
    if bin_file:
        write(unet / "diffusion_pytorch_model.bin", state, legacy=old)
    else:
        save_file(state, unet / "diffusion_pytorch_model.safetensors")
    return path


@pytest.mark.parametrize("case", SCHEDULES)
def test_a_folder_of_diffusers_draws_what_its_pipeline_draws(tmp_path, loaded, case):
    run = convert(folder_of_diffusers(tmp_path / "theirs", case), tmp_path / "run")
    assert checkpoint.find(run).config.sampling.sampler == SCHEDULES[case][1][:4].lower()
    same(loaded, run, GOLDEN["diffusers"][case], steps=SCHEDULES[case][3])


def test_each_layout_and_format_of_a_folder_gives_one_run(tmp_path):
    found = []
    for k, form in enumerate([(False, False), (False, True), (True, False), (True, True)]):
        theirs = folder_of_diffusers(tmp_path / f"theirs_{k}", "fixed_small", *form)
        found.append(recipe_and_weights(convert(theirs, tmp_path / f"run_{k}")))
    assert all(one == found[0] for one in found[1:])


# pytorch_diffusion and DDIM

OF_DDIM = ["data.image_size=8", "diffusion.timesteps=1000", "diffusion.beta_schedule=linear", "diffusion.variance=fixed_large"]
ANCESTRAL = [*OF_DDIM, "sampling.sampler=ddpm", f"sampling.steps={1000 // STRIDES['ddpm']}", "sampling.clip_x_start=true"]
IMPLICIT = [*OF_DDIM, "sampling.sampler=ddim", f"sampling.steps={1000 // STRIDES['ddim']}", "sampling.clip_x_start=false"]


def state_of_ddim(salt=""):
    return carrying(weights(shapes_of(GOLDEN["ddim"], "network"), salt), **DDIM_PATH)


@pytest.fixture(scope="module")
def run_of_ddim(tmp_path_factory):
    """Of a file like ema_cifar10.ckpt: weights alone."""
    folder = tmp_path_factory.mktemp("ddim")
    source = write(folder / "ema_cifar10.ckpt", state_of_ddim())
    assert main(["convert", str(source), str(folder / "run"), *ANCESTRAL]) == 0
    return folder / "run"


def test_a_file_of_pytorch_diffusion_draws_what_ddpm_and_ddim_draw(loaded, run_of_ddim):
    same(loaded, run_of_ddim, GOLDEN["ddim"]["fixed_large"])
    same(loaded, run_of_ddim, GOLDEN["ddim"]["fixed_small"], variance="fixed_small")
    same(loaded, run_of_ddim, GOLDEN["ddim"]["ddim"], sampler="ddim", steps=50, clip_x_start=False)


def test_a_checkpoint_of_ddim_holds_averaged_and_raw_weights(tmp_path, loaded, run_of_ddim):
    optimizer = {"state": {0: {"step": 3, "exp_avg": np.zeros(4, np.float32)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    raw = {f"module.{name}": array for name, array in state_of_ddim().items()}
    path = write(tmp_path / "ckpt.pth", [raw, optimizer, 2, 1234, state_of_ddim("averaged.")], legacy=True)
    averaged = convert(path, tmp_path / "averaged", overrides=IMPLICIT)
    same(loaded, averaged, GOLDEN["ddim"]["averaged.ddim"])
    assert checkpoint.find(averaged).step == 1234
    assert recipe_and_weights(convert(path, tmp_path / "raw", overrides=ANCESTRAL, ema=False)) == recipe_and_weights(run_of_ddim)


# denoising-diffusion-pytorch

def saved_by_a_trainer():
    """Its network and what its process keeps beside it; and an average of both, beside which there is the network once more."""
    golden = GOLDEN["lucidrains"]
    networks = {salt: {f"model.{name}": array for name, array in carrying_v(weights(shapes_of(golden, "network"), salt)).items()}
                for salt in ("", "averaged.")}

    def of(name, shape):
        part = name.removeprefix("ema_model.").removeprefix("online_model.")
        network = networks["averaged." if name.startswith("ema_model.") else ""]
        if part in network:
            return network[part]
        return golden[f"buffer.{part}"] if f"buffer.{part}" in golden else np.zeros(shape, np.int64)

    states = {part: {name: of(name, shape) for name, shape in shapes_of(golden, part).items()} for part in ("model", "ema")}
    return {"step": 4000, **states, "opt": {"state": {}, "param_groups": []}, "scaler": None, "version": "2.3.4"}


@pytest.fixture(scope="module")
def file_of_a_trainer(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lucidrains") / "model-4.pt", saved_by_a_trainer())


@pytest.mark.parametrize(("ema", "salt"), [(True, "averaged."), (False, "")])
def test_a_file_of_denoising_diffusion_pytorchs_trainer_draws_what_its_samplers_draw(tmp_path, loaded, file_of_a_trainer, ema,
                                                                                     salt):
    run = convert(file_of_a_trainer, tmp_path / "run", overrides=["data.image_size=8"], ema=ema)
    same(loaded, run, GOLDEN["lucidrains"][f"{salt}ddim"], sampler="ddim", steps=50)
    if ema:
        same(loaded, run, GOLDEN["lucidrains"][f"{salt}ddpm"], sampler="ddpm", steps=None)


# guided-diffusion

@pytest.mark.parametrize("order", ["old", "new"])
def test_a_file_of_guided_diffusion_draws_what_it_draws_respaced(tmp_path, loaded, order):
    path = write(tmp_path / "model.pt", carrying(weights(shapes_of(GOLDEN["guided"], "network")), **GUIDED_PATH))
    run = tmp_path / "run"
    assert main(["convert", str(path), str(run), "--attention-order", order, "data.image_size=8", "model.num_head_channels=64",
                 "diffusion.timesteps=1000", "diffusion.objective=pred_noise", "diffusion.beta_schedule=linear",
                 "sampling.sampler=ddpm", f"sampling.steps={RESPACED}", "sampling.clip_x_start=true"]) == 0
    same(loaded, run, GOLDEN["guided"][order])
