"""What diffusers and denoising-diffusion-pytorch draw with exported weights and settings is what the run draws; and every tensor
comes back from each of them bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from ddpm_unet_cases import CASES as NETWORKS
from ddpm_unet_cases import weight
from export_cases import CASES, IMAGES, noise
from mindspore import Tensor
from safetensors.numpy import load_file, safe_open

from ddpm_ms import load_diffusion
from ddpm_ms.config import Config, override_config, to_dict
from ddpm_ms.export import export_run
from ddpm_ms.export.diffusers import unet_config
from ddpm_ms.interop import (
    ddpm_unet_from_diffusers,
    ddpm_unet_to_diffusers,
    read_torch_file,
    unet_from_lucidrains,
    unet_to_lucidrains,
)
from ddpm_ms.models import DDPMUnetConfig
from ddpm_ms.parts import SAMPLERS

HERE = Path(__file__).parent
GOLDEN = np.load(HERE / "exports_read_back.npz")


def exported(name, save_run, folder):
    """The run of a case, and the texts that were exported beside its weights."""
    form, overrides = CASES[name]
    run = save_run(folder / "run", overrides)
    output = export_run(run, form, folder / (name if form == "diffusers" else f"{name}.safetensors"))
    if form == "diffusers":
        return run, {path.stem: path.read_text() for path in output.glob("*/*.json")}
    with safe_open(output, "np") as file:
        return run, {key: text for key, text in file.metadata().items() if key != "format"}


@pytest.mark.parametrize("name", CASES)
def test_the_other_project_draws_the_same_images(name, saved_run, tmp_path, without_graphs):
    run, texts = exported(name, saved_run, tmp_path)
    assert texts == {key: str(GOLDEN[f"{name}.{key}"]) for key in texts}
    diffusion, checkpoint = load_diffusion(run)
    batch = diffusion.pipeline.batch(IMAGES, checkpoint.config.sampling)
    start, *added = map(Tensor, noise((diffusion.channels, *diffusion.image_size)))
    for x in SAMPLERS["ddpm"](batch.denoise, start, batch.steps, batch.schedule, added.__getitem__, variance=batch.variance):
        last = x
    images = np.clip(last.asnumpy() * 0.5 + 0.5, 0, 1)
    np.testing.assert_allclose(images, GOLDEN[f"{name}.images"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_of_diffusers_comes_back_bit_for_bit(case):
    golden = np.load(HERE / "diffusers_unet.npz")
    shapes = [tuple(map(int, shape.split())) for shape in golden[f"{case}.shapes"].tolist()]
    state = {name: weight(name, shape) for name, shape in zip(golden[f"{case}.names"].tolist(), shapes)}
    again = ddpm_unet_to_diffusers(ddpm_unet_from_diffusers(state))
    assert again.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name, strict=True)


@pytest.mark.parametrize("case", NETWORKS)
def test_the_settings_are_those_that_diffusers_computed_the_golden_arrays_with(case):
    theirs, ours, size = NETWORKS[case]
    data = to_dict(override_config(Config(), [f"data.image_size=[{size[0]},{size[1]}]"]))["data"]
    config = Config.model_construct(model=DDPMUnetConfig(**ours), data=type(Config().data)(**data))
    found = unet_config(config)
    assert found["sample_size"] == size
    theirs = {"layers_per_block": 2, "attention_head_dim": 8, **json.loads(json.dumps(theirs))}
    classes = theirs.pop("num_class_embeds", None)
    if ours.get("resblock_updown"):  # without a convolution that pads
        del theirs["downsample_padding"]
    assert {key: found[key] for key in theirs} == theirs
    assert classes == (3 if case == "adm" else None) and "num_class_embeds" not in found


def lucidrains_states():
    for name in ("plain", "selfcond", "fourier"):
        golden = np.load(HERE / f"lucidrains_unet_{name}.npz")
        yield name, {key[len("weight."):]: golden[key] for key in golden.files if key.startswith("weight.")}
    saved = read_torch_file(HERE / "lucidrains_trainer.pt")["model"]
    yield "trainer", {key[len("model."):]: array for key, array in saved.items() if key.startswith("model.")}


@pytest.mark.parametrize(("name", "state"), list(lucidrains_states()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_network_of_denoising_diffusion_pytorch_comes_back_bit_for_bit(name, state):
    again = unet_to_lucidrains(unet_from_lucidrains(state))
    assert again.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(again[key], array, err_msg=key, strict=True)


def test_what_is_exported_are_the_averaged_weights_or_the_raw_ones(saved_run, tmp_path):
    form, overrides = CASES["ddpm"]
    run = saved_run(tmp_path / "run", overrides)
    of = {ema: load_file(export_run(run, form, tmp_path / f"{ema}", ema=ema) / "unet" / "diffusion_pytorch_model.safetensors")
          for ema in (True, False)}
    assert of[True].keys() == of[False].keys()
    assert all(np.array_equal(of[True][name], of[False][name] * np.float32(0.9)) for name in of[True])
