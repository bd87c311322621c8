"""From files of other projects to run directories: every weight in its place and everything settled, or one line."""

import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from mindspore import float32 as ms_float32
from mindspore import int32 as ms_int32
from safetensors.numpy import save_file
from saved_files import as_project, ddpm_network, random_weights, save_torch

from ddpm_ms import Unet, load_diffusion
from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import DiffusionConfig, load_over, replace, to_dict
from ddpm_ms.conversion import convert
from ddpm_ms.diffusion.loss_weights import create_loss_weight
from ddpm_ms.diffusion.schedules import schedule_of
from ddpm_ms.errors import InputError
from ddpm_ms.interop import read_torch_file
from ddpm_ms.interop.diffusers_folder import read_diffusers_folder
from ddpm_ms.interop.lucidrains_process import process_of
from ddpm_ms.interop.sources import open_source
from ddpm_ms.models.ddpm_unet import DDPMUnetConfig
from ddpm_ms.models.layers import per_level
from ddpm_ms.visual import runs

GOLDENS = Path(__file__).parents[2] / "golden"
sys.path.append(str(GOLDENS))
from ddpm_unet_cases import CASES, CLASSES, TIMES, numbers, weight  # noqa: E402

GOLDEN = np.load(GOLDENS / "diffusers_unet.npz")
SCHEDULER = {"_class_name": "DDPMScheduler", "_diffusers_version": "0.33.0", "num_train_timesteps": 1000, "beta_start": 1e-4,
             "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None, "variance_type": "fixed_large",
             "clip_sample": True, "prediction_type": "epsilon", "thresholding": False, "timestep_spacing": "leading",
             "steps_offset": 0, "rescale_betas_zero_snr": False, "clip_sample_range": 1.0, "dynamic_thresholding_ratio": 0.995,
             "sample_max_value": 1.0}
SETTLED = ["diffusion.timesteps=1000", "diffusion.beta_schedule=linear", "diffusion.variance=fixed_large",
           "sampling.clip_x_start=true", "data.image_size=8"]
ADM = [*SETTLED, "diffusion.objective=pred_noise"]


def state_of(case):
    return {name: weight(name, tuple(map(int, shape.split()))).astype(np.float32) for name, shape in
            zip(GOLDEN[f"{case}.names"].tolist(), GOLDEN[f"{case}.shapes"].tolist())}


def config_of(case):
    keywords, _, size = CASES[case]
    return json.loads(json.dumps({"_class_name": "UNet2DModel", "_diffusers_version": "0.33.0", "sample_size": size[0],
                                  "in_channels": 3, "out_channels": 3, **keywords}))


def folder(path, case="training_script", config=(), scheduler=(), state=None, newer=True):
    """A folder as diffusers saves it, with some keys changed; None leaves one out."""
    inside, beside = (path / "unet", path / "scheduler") if newer else (path, path)
    inside.mkdir(parents=True)
    beside.mkdir(exist_ok=True)
    keys = {**config_of(case), **dict(config)}
    (inside / "config.json").write_text(json.dumps({key: value for key, value in keys.items() if value != "absent"}))
    learned = {"variance_type": "learned_range"} if keys["out_channels"] == 6 else {}
    (beside / "scheduler_config.json").write_text(json.dumps({**SCHEDULER, **learned, **dict(scheduler)}))
    if newer:
        (path / "model_index.json").write_text(json.dumps(
            {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}))
    save_file(state_of(case) if state is None else state, inside / "diffusion_pytorch_model.safetensors")
    return path


def converted(source, run, *overrides, **keywords):
    """(configuration, weights) of the run that conversion made."""
    made = checkpoint.find(convert(source, run, overrides=overrides, **keywords))
    weights = made.arrays(checkpoint.EMA_WEIGHTS)
    raw = made.arrays(checkpoint.WEIGHTS)
    assert weights.keys() == raw.keys() and all(np.array_equal(weights[name], raw[name]) for name in raw)
    return made, weights


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def refused(source, run, message, *overrides, **keywords):
    with pytest.raises(InputError, match=message) as error:
        convert(source, run, overrides=overrides, **keywords)
    assert str(error.value).isprintable()
    assert not run.exists() and not list(run.parent.glob(".partial*"))


# diffusers

@pytest.mark.parametrize(("case", "newer"), [("cifar10", False), ("cat256", True), ("training_script", False), ("adm", True)])
def test_a_folder_of_diffusers_computes_what_diffusers_does(tmp_path, case, newer):
    run = convert(folder(tmp_path / "source", case, newer=newer), tmp_path / "run",
                  overrides=["data.image_size=[8, 12]"] if case == "training_script" else [])
    diffusion, found = load_diffusion(run)
    expected = DDPMUnetConfig(**CASES[case][1])
    attends = per_level("attention_levels", expected.attention_levels, len(expected.dim_mults))
    padding = found.config.model.downsample_padding if expected.resblock_updown else expected.downsample_padding
    assert found.config.model == replace(expected, attention_levels=attends, downsample_padding=padding)
    x = Tensor(numbers("x", (len(TIMES), 3, *CASES[case][2])), ms_float32)
    classes = Tensor(CLASSES, ms_int32) if diffusion.num_classes else None
    output = diffusion.model(x, Tensor(TIMES, ms_int32), None, classes).asnumpy()
    np.testing.assert_allclose(output, GOLDEN[f"{case}.output"], rtol=1e-3, atol=1e-4)


def test_its_process_is_that_of_the_scheduler(tmp_path):
    found, _ = converted(folder(tmp_path / "a"), tmp_path / "run_a")
    diffusion, sampling = found.config.diffusion, found.config.sampling
    assert (diffusion.timesteps, diffusion.objective, diffusion.beta_schedule, diffusion.betas, diffusion.variance) == (
        1000, "pred_noise", "linear", None, "fixed_large")
    assert (sampling.sampler, sampling.steps, sampling.clip_x_start, sampling.spacing) == ("ddpm", None, True, "leading")
    assert not sampling.rederive_pred_noise

    found, _ = converted(folder(tmp_path / "b", scheduler={
        "_class_name": "DDIMScheduler", "set_alpha_to_one": True, "beta_end": 0.01, "clip_sample": False,
        "prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}), tmp_path / "run_b")
    diffusion, sampling = found.config.diffusion, found.config.sampling
    np.testing.assert_allclose(diffusion.betas, np.linspace(1e-4, 0.01, 1000))
    assert diffusion.objective == "pred_v" and diffusion.rescale_betas_zero_snr
    assert (sampling.sampler, sampling.steps, sampling.clip_x_start, sampling.spacing) == ("ddim", 50, False, "trailing")


@pytest.mark.parametrize(("keys", "betas"), [
    ({"beta_schedule": "squaredcos_cap_v2"}, None), ({"beta_schedule": "scaled_linear"}, np.linspace(0.01, 0.02**0.5, 1000) ** 2),
    ({"trained_betas": [0.01, 0.02, 0.03], "num_train_timesteps": 3}, [0.01, 0.02, 0.03]),
    ({"beta_schedule": "sigmoid"}, 1e-4 + 0.0199 / (1 + np.exp(-np.linspace(-6, 6, 1000)))),
    ({"num_train_timesteps": 100}, np.linspace(1e-4, 0.02, 100))])
def test_its_schedule_has_the_same_betas(tmp_path, keys, betas):
    found, _ = converted(folder(tmp_path / "a", scheduler=keys), tmp_path / "run")
    if betas is None:
        angle = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - angle[1:] / angle[:-1], 0.999)
        assert found.config.diffusion.beta_schedule == "cosine" and found.config.diffusion.betas is None
    np.testing.assert_allclose(schedule_of(found.config.diffusion).betas, betas, rtol=1e-9)


@pytest.mark.parametrize(("keys", "name"), [
    ({}, "linear"), ({"beta_schedule": "scaled_linear"}, "quadratic"), ({"num_train_timesteps": 500, "beta_start": 2e-4,
                                                                         "beta_end": 0.04}, "linear"),
    ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, "scaled_linear")])
def test_a_schedule_that_is_ours_has_its_name(tmp_path, keys, name):
    recipe = read_diffusers_folder(folder(tmp_path / "a", scheduler=keys)).recipe
    assert recipe["diffusion"]["beta_schedule"] == name and "betas" not in recipe["diffusion"]


@pytest.mark.parametrize(("limit", "threshold"), [(1.0, None), (1e6, 0.9)])
def test_dynamic_thresholding_is_taken_where_its_limit_is_none_or_plain_clipping(tmp_path, limit, threshold):
    found, _ = converted(folder(tmp_path / "a", scheduler={
        "thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": limit, "clip_sample": False,
        "trained_betas": [0.1, 0.5, 1.0], "num_train_timesteps": 3, "prediction_type": "sample"}), tmp_path / "run")
    assert (found.config.sampling.clip_x_start, found.config.sampling.dynamic_threshold) == (True, threshold)
    assert found.config.diffusion.betas == (0.1, 0.5, 1.0)


@pytest.mark.parametrize("flip", [False, True])
def test_an_embedding_in_another_order_is_put_in_ours_exactly(tmp_path, flip):
    case = "cifar10" if flip else "training_script"
    _, expected = converted(folder(tmp_path / "a", case), tmp_path / "run_a", "data.image_size=8")
    state = state_of(case)
    name = "time_embedding.linear_1.weight"
    state[name] = np.concatenate(np.split(state[name], 2, axis=1)[::-1], axis=1)
    _, weights = converted(folder(tmp_path / "b", case, {"flip_sin_to_cos": flip}, state=state), tmp_path / "run_b",
                           "data.image_size=8")
    equal(weights, expected)


def test_the_heads_are_those_of_the_port_or_of_the_class_where_nobody_states_them(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ddpm_ms")
    found, _ = converted(folder(tmp_path / "a", "cifar10", {"attention_head_dim": "absent"}), tmp_path / "run_a")
    assert (found.config.model.num_heads, found.config.model.num_head_channels) == (1, None)
    assert "attention_head_dim is not stated: one head is taken" in caplog.text
    found, _ = converted(folder(tmp_path / "b"), tmp_path / "run_b")  # the case leaves the key out
    assert found.config.model.num_head_channels == 8 and "heads of width 8 are taken" in caplog.text
    found, _ = converted(tmp_path / "a", tmp_path / "run_c", "model.num_head_channels=8")
    assert found.config.model.num_head_channels == 8 and "as asked" in caplog.text


def test_the_averaged_folder_is_taken_unless_the_raw_one_is_asked_for(tmp_path):
    state = state_of("training_script")
    source = folder(tmp_path / "a")
    averaged = folder(tmp_path / "b", config={"decay": 0.9999, "power": 0.75, "optimization_step": 3},
                      state={name: 2 * array for name, array in state.items()})
    (averaged / "unet").rename(source / "unet_ema")
    _, weights = converted(source, tmp_path / "run_a")
    _, raw = converted(source, tmp_path / "run_b", ema=False)
    equal(weights, {name: 2 * array for name, array in raw.items()})


def test_bin_files_shards_and_16_bits_hold_the_same(tmp_path):
    _, expected = converted(folder(tmp_path / "a"), tmp_path / "run_a")
    state = state_of("training_script")

    source = folder(tmp_path / "b")
    (source / "unet/diffusion_pytorch_model.safetensors").unlink()
    save_torch(source / "unet/diffusion_pytorch_model.bin", state)
    equal(converted(source, tmp_path / "run_b")[1], expected)

    source = folder(tmp_path / "c")
    (source / "unet/diffusion_pytorch_model.safetensors").unlink()
    places = {name: f"part_{k % 2}.safetensors" for k, name in enumerate(state)}
    for part in sorted(set(places.values())):
        save_file({name: state[name] for name in state if places[name] == part}, source / "unet" / part)
    index = source / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    equal(converted(source, tmp_path / "run_c")[1], expected)
    (source / "unet/part_1.safetensors").unlink()
    refused(source, tmp_path / "run_d", r"part_1\.safetensors cannot be read: No such file")

    half = {name: array.astype(np.float16) for name, array in state.items()}
    _, found = converted(folder(tmp_path / "e", state=half), tmp_path / "run_e")
    assert all(array.dtype == np.float32 for array in found.values())
    np.testing.assert_array_equal(found["conv_in.weight"], half["conv_in.weight"].astype(np.float32))


def test_bfloat16_is_read_from_safetensors(tmp_path):
    rounded = {name: array.view(np.uint32) & 0xffff0000 for name, array in state_of("training_script").items()}
    _, expected = converted(folder(tmp_path / "a", state={n: a.view(np.float32) for n, a in rounded.items()}), tmp_path / "run_a")
    source = folder(tmp_path / "b", state={name: (bits >> 16).astype(np.uint16) for name, bits in rounded.items()})
    path = source / "unet/diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8:8 + length].replace(b'"U16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length:])
    equal(converted(source, tmp_path / "run_b")[1], expected)


@pytest.mark.parametrize(("config", "message"), [
    ({"down_block_types": ["MagicDownBlock2D", "AttnDownBlock2D"]},
     "down_block_types is 'MagicDownBlock2D', allowed: DownBlock2D, AttnDownBlock2D, ResnetDownsampleBlock2D"),
    ({"down_block_types": ["CrossAttnDownBlock2D", "AttnDownBlock2D"]}, "'CrossAttnDownBlock2D'.*has cross-attention"),
    ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "attention at other levels on the way up"),
    ({"up_block_types": ["AttnUpBlock2D"]}, "allowed: 2 of them"),
    ({"downsample_type": "resnet"}, "by convolutions and within residual blocks"),
    ({"_class_name": "UNet2DConditionModel"}, "a network with cross-attention as latent diffusion has"),
    ({"_class_name": "AutoencoderKL"}, "is of a AutoencoderKL, a VAE, allowed: UNet2DModel"),
    ({"_class_name": "Transformer2DModel"}, "is of a 'Transformer2DModel', allowed: UNet2DModel"),
    ({"block_out_channels": [8, 12]}, "block_out_channels is .8, 12., allowed: multiples of the first"),
    ({"add_attention": False}, "add_attention is False, allowed: True"),
    ({"mid_block_type": None}, "mid_block_type is None, allowed: UNetMidBlock2D"),
    ({"mid_block_scale_factor": 2}, "mid_block_scale_factor is 2, allowed: 1"),
    ({"act_fn": "gelu"}, "act_fn is 'gelu', allowed: silu, swish"),
    ({"center_input_sample": True}, "center_input_sample is True, allowed: False"),
    ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier', allowed: positional"),
    ({"freq_shift": 0.5}, "freq_shift is 0.5, allowed: 0, 1"),
    ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
    ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups is None, allowed: 4"),
    ({"out_channels": 4}, "out_channels is 4, allowed: 3, 6"), ({"layers_per_block": "two"}, "layers_per_block is 'two'"),
    ({"mystery": 1}, "'mystery' is a key that is not known"),
    ({"attention_head_dim": 0}, "attention_head_dim is 0, allowed: null"),
    ({"norm_num_groups": 3}, "norm_groups is 3, allowed: divisors of"),
    ({"block_out_channels": [4, 8], "attention_head_dim": None}, r"time_emb\.1\.weight is \(16, 4\) here and \(32, 8\) there"),
    ({"num_class_embeds": 4}, r"class_emb\.embedding_table is \(5, 16\) here and missing there|class_emb.embedding_table is"),
])
def test_a_network_that_is_not_here_is_named(tmp_path, config, message):
    refused(folder(tmp_path / "a", config=config), tmp_path / "run", message)


@pytest.mark.parametrize(("keys", "message"), [
    ({"_class_name": "PNDMScheduler"}, "_class_name is 'PNDMScheduler', allowed: DDPMScheduler, DDIMScheduler"),
    ({"thresholding": True, "sample_max_value": 1.5}, "sample_max_value is 1.5, allowed: with thresholding 1"),
    ({"clip_sample_range": 2.0}, "clip_sample_range is 2.0"),
    ({"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"},
     "timestep_spacing is 'linspace', allowed: leading, trailing"),
    ({"steps_offset": 1}, "steps_offset is 1, allowed: 0"),
    ({"variance_type": "fixed_large_log"}, "variance_type is 'fixed_large_log'"),
    ({"variance_type": "learned_range"}, "variance_type is 'learned_range', allowed: fixed_small"),
    ({"beta_schedule": "laplace"}, "beta_schedule is 'laplace'"), ({"prediction_type": "flow"}, "prediction_type is 'flow'"),
    ({"trained_betas": [0.1]}, "trained_betas is .0.1., allowed: null, or 1000 numbers"), ({"mystery": 1}, "'mystery' is a key"),
    ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"), ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
    ({"_class_name": "DDIMScheduler", "set_alpha_to_one": False}, "set_alpha_to_one is False, allowed: True"),
])
def test_a_process_that_is_not_here_is_named(tmp_path, keys, message):
    refused(folder(tmp_path / "a", scheduler=keys), tmp_path / "run", message)


@pytest.mark.parametrize(("content", "message"), [
    (b"<!DOCTYPE html><html>sign in</html>", "is a page of HTML"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "is a pointer of Git LFS"),
    (b"", "cannot be read|is empty"), (b"nonsense", "cut short or damaged|of another format")])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_download_that_went_wrong_is_named(tmp_path, content, message, ending):
    source = folder(tmp_path / "a")
    (source / "unet/diffusion_pytorch_model.safetensors").unlink()
    (source / f"unet/diffusion_pytorch_model.{ending}").write_bytes(content)
    refused(source, tmp_path / "run", message)


def test_what_is_cut_short_missing_or_left_over_is_named(tmp_path):
    source, state = folder(tmp_path / "a"), state_of("training_script")
    path = source / "unet/diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused(source, tmp_path / "run", "is cut short or damaged")
    path.unlink()
    refused(source, tmp_path / "run", "has no weights, allowed: diffusion_pytorch_model.safetensors or")
    save_file({**state, "extra.weight": state["conv_in.weight"]}, path)
    refused(source, tmp_path / "run", "the weights have 'extra.weight'")
    save_file({name: array for name, array in state.items() if name != "conv_out.bias"}, path)
    refused(source, tmp_path / "run", r"conv_out\.bias is \(3,\) here and missing there")
    save_file({**state, "mid_block.attentions.0.query.weight": state["conv_in.bias"]}, path)
    refused(source, tmp_path / "run", "two names of one thing")
    save_file({**state, "conv_in.bias": np.full(8, np.nan, np.float32)}, path)
    refused(source, tmp_path / "run", "conv_in.bias is not made of finite numbers")
    refused(tmp_path / "nowhere", tmp_path / "run", "does not exist, allowed: a folder of diffusers, or a file of")
    refused(tmp_path, tmp_path / "run", "has no config.json")
    index = source / "model_index.json"
    index.write_text(json.dumps({"unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "VQModel"]}))
    refused(source, tmp_path / "run", "latent-diffusion pipeline .it has a part 'vqvae'")


# Files

@pytest.mark.parametrize("learned", [False, True])
def test_a_file_of_pytorch_diffusion_is_known_by_its_shapes(tmp_path, learned):
    model = ddpm_network(learned_variance=learned, num_res_blocks=2)
    weights = random_weights(model)
    source = save_torch(tmp_path / "ema_cifar10", as_project("pytorch_diffusion", weights, num_res_blocks=2))
    asked = [text for text in SETTLED if not learned or "variance" not in text]
    found, ours = converted(source, tmp_path / "run", *asked)
    equal(ours, weights)
    assert found.config.model == model.config and found.config.data.channels == 3 and found.step == 0
    assert found.config.diffusion.objective == "pred_noise"
    assert found.config.diffusion.variance == ("learned" if learned else "fixed_large")
    refused(source, tmp_path / "other", "does not say diffusion.timesteps, diffusion.beta_schedule or diffusion.betas, "
            f"{'' if learned else 'diffusion.variance, '}sampling.clip_x_start, data.image_size, allowed: a conversion that is ")


def test_a_checkpoint_of_ddim_holds_averaged_and_raw_weights(tmp_path):
    model = ddpm_network()
    raw, averaged = random_weights(model), random_weights(model, 1)
    network = {f"module.{name}": array for name, array in as_project("pytorch_diffusion", raw).items()}
    source = save_torch(tmp_path / "ckpt.pth", [network, {"state": {}}, 3, 1234, as_project("pytorch_diffusion", averaged)])
    found, ours = converted(source, tmp_path / "run", *SETTLED)
    equal(ours, averaged)
    assert found.step == 1234 and found.path.name == "step_00001234"
    equal(converted(source, tmp_path / "raw", *SETTLED, ema=False)[1], raw)
    alone = save_torch(tmp_path / "alone.pth", [network, {"state": {}}, 3, 1234])
    refused(alone, tmp_path / "other", "the list holds no averaged weights .--raw takes the others.", *SETTLED)


def old_order(saved, heads):
    """guided-diffusion's older order: queries, keys and values of the first head, then of the next."""
    return {name: array.reshape(3, heads, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape) if ".qkv." in name else array
            for name, array in saved.items()}


@pytest.mark.parametrize("updown", [False, True])
def test_a_file_of_guided_diffusion_takes_its_heads_and_their_order_from_its_flags(tmp_path, updown):
    model = ddpm_network(resblock_updown=updown, use_scale_shift_norm=True, learned_variance=True, num_classes=3, num_heads=4,
                         norm_eps=1e-5, time_embedding="cos_sin", downsample_padding="around")
    weights = random_weights(model)
    new = as_project("guided_diffusion", weights)
    recipe = tmp_path / "flags.yaml"
    recipe.write_text("model: {num_heads: 4}\nsampling: {clip_x_start: true}\ndata: {image_size: 8}\n"
                      "diffusion: {timesteps: 100, objective: pred_noise, beta_schedule: cosine}\n")
    for order, state in (("new", new), ("old", old_order(new, 4))):
        source = save_torch(tmp_path / f"{order}.pt", {name: array.astype(np.float16 if order == "new" else np.float64)
                                                       for name, array in state.items()})
        found, ours = converted(source, tmp_path / order, recipe=recipe, attention_order=order)
        equal(ours, {name: array.astype(np.float16).astype(np.float32) for name, array in weights.items()}
              if order == "new" else weights)
        assert found.config.model == model.config and found.config.diffusion.variance == "learned"
    refused(source, tmp_path / "other", "the order of queries, keys and values in its attention is not known", recipe=recipe)
    refused(source, tmp_path / "other", "does not say model.num_heads or model.num_head_channels, allowed", *ADM)
    refused(source, tmp_path / "other", r"mid_attn.*|an attention has", *ADM, "model.num_heads=5", attention_order="old")


def lucidrains_run(tmp_path, **keywords):
    return converted(GOLDENS / "lucidrains_trainer.pt", tmp_path / "run", "data.image_size=8", **keywords)


def test_a_trainers_file_of_denoising_diffusion_pytorch_says_all_but_the_size(tmp_path):
    found, _ = lucidrains_run(tmp_path)
    config = found.config
    saved = read_torch_file(GOLDENS / "lucidrains_trainer.pt")
    assert found.step == saved["step"] and found.state["converted"]["project"] == "denoising-diffusion-pytorch"
    schedule = schedule_of(config.diffusion)
    np.testing.assert_allclose(schedule.betas, saved["model"]["betas"], rtol=1e-5)
    np.testing.assert_allclose(create_loss_weight(config.diffusion, schedule.snr), saved["model"]["loss_weight"], rtol=1e-3)
    golden = np.load(GOLDENS / "lucidrains_trainer.npz")
    diffusion, _ = load_diffusion(tmp_path / "run")
    output = diffusion.model(Tensor(golden["x"]), Tensor(golden["time"])).asnumpy()
    np.testing.assert_allclose(output, golden["averaged"], rtol=2e-4, atol=2e-5)
    refused(GOLDENS / "lucidrains_trainer.pt", tmp_path / "other", "does not say data.image_size, allowed")


@pytest.mark.parametrize("changes", [
    dict(dim=8, dim_mults=(1, 2), channels=1, attn_dim_head=(4, 6), attn_heads=(2, 3), full_attn=(False, True)),
    dict(dim=8, dim_mults=(1, 3), init_dim=12, channels=3, self_condition=True, learned_variance=True, attn_dim_head=(4, 4),
         attn_heads=(1, 1), full_attn=(True, False)),
    dict(dim=8, dim_mults=(1,), channels=4, time_embedding="learned_fourier", fourier_dim=6, attn_dim_head=(4,), attn_heads=(2,),
         full_attn=(True,)),
])
def test_a_state_dict_of_its_unet_is_known_by_its_shapes(tmp_path, changes):
    model = Unet(**changes)
    weights = random_weights(model)
    source = save_torch(tmp_path / "unet.pt", {_lucidrains_name(name): _lucidrains_array(name, array)
                                               for name, array in weights.items()})
    asked = [text for text in ADM if "variance" not in text and "clip" not in text]
    found, ours = converted(source, tmp_path / "run", *asked)
    equal(ours, weights)
    assert found.config.model == model.config and found.config.data.channels == model.channels
    assert found.config.diffusion.variance == ("learned" if model.learned_variance else "fixed_small")


def _lucidrains_name(name):
    for pattern, there in ((r"\.resize\.conv\.", ".3.1."), (r"\.resize\.", ".3."),
                           (r"^(downs|ups)\.(\d+)\.block1\.", r"\1.\2.0."), (r"^(downs|ups)\.(\d+)\.block2\.", r"\1.\2.1."),
                           (r"\.attn\.", ".2."), (r"\.time_proj\.", ".mlp.1."),
                           (r"\.out_norm\.g", ".to_out.1.g")):
        name = re.sub(pattern, there, name)
    return name


def _lucidrains_array(name, array):
    if name.startswith("downs") and ".resize.conv.weight" in name:
        return array.reshape(array.shape[0], -1, 1, 1)
    return array[0] if name == "time_mlp.0.weights" else array


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("loss", [{"loss_weight": "snr"}, {"loss_weight": "min_snr"},
                                  {"loss_weight": "min_snr", "min_snr_gamma": 3.0}])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_its_process_is_known_by_its_buffers(objective, loss, schedule):
    config = DiffusionConfig(objective=objective, beta_schedule=schedule, timesteps=200, **loss)
    snr = schedule_of(config)
    state = {"betas": snr.betas.astype(np.float32), "loss_weight": create_loss_weight(config, snr.snr).astype(np.float32)}
    for prefix in ("", "ema_model."):
        found = process_of({f"{prefix}{name}": array for name, array in state.items()})
        assert DiffusionConfig(**found) == config
    assert "objective" not in process_of({**state, "loss_weight": np.arange(200.0)})
    bent = process_of({"betas": np.linspace(0.01, 0.02, 10)})
    np.testing.assert_allclose(bent.pop("betas"), np.linspace(0.01, 0.02, 10))
    assert bent == {"timesteps": 10}


@pytest.mark.parametrize(("names", "message"), [
    (["first_stage_model.encoder.conv_in.weight"], "it has weights of a latent-diffusion model"),
    (["input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", "time_embed.0.weight"], "with cross-attention"),
    (["encoder.down.0.block.0.conv1.weight", "quant_conv.weight"], "of a VAE"),
    (["time_embedding.linear_1.weight"], "a network of diffusers alone, allowed: its folder"),
    (["layer.weight"], "of no network that is known here .'layer.weight'."), ([], "there are none")])
def test_weights_of_other_kinds_are_named(tmp_path, names, message):
    source = save_torch(tmp_path / "file.pt", {name: np.zeros((2, 2), np.float32) for name in names})
    refused(source, tmp_path / "run", message, *ADM)


def test_files_without_weights_are_one_line(tmp_path):
    for number, (content, message) in enumerate((
            (b"<html>no</html>", "is a page of HTML"), (b"\n<html>no</html>", "is a page of HTML"), (b"", "is empty"),
            (b"\n\xff", "cut short, damaged or of another format"), (b"version https://git-lfs", "pointer of Git LFS"))):
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(content)
        refused(path, tmp_path / "run", message, *ADM)
    refused(save_torch(tmp_path / "list.pt", [1, 2]), tmp_path / "run", "the list holds no averaged weights", *ADM)
    refused(save_torch(tmp_path / "number.pt", {"a": 1}), tmp_path / "run", "there is no state dict", *ADM)
    refused(GOLDENS / "lucidrains_trainer.pt", tmp_path / "run", "the order of attention is 'old', allowed with these",
            attention_order="old")


def varint(value):
    return bytes([value & 127 | (128 if value > 127 else 0)]) + (varint(value >> 7) if value > 127 else b"")


def entry(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def save_mindspore(path, state, slices=1):
    """What mindspore.save_checkpoint writes: a large tensor in several ``slices``."""
    content = b""
    for name, array in state.items():
        dims = b"".join(varint(1 << 3) + varint(n) for n in array.shape or (0,))
        for part in np.array_split(array.ravel(), slices if array.ndim == 4 else 1):
            tensor = dims + entry(2, str(array.dtype).capitalize().encode()) + entry(3, part.tobytes())
            content += entry(1, entry(1, name.encode()) + entry(2, tensor))
    path.write_bytes(content)
    return path


def predecessor_name(name):
    for pattern, there in ((r"\.norm\.norm\.", ".norm."), (r"(\.|mid_)attn\.norm\.", r"\1attn.fn.norm."),
                           (r"attn\.(to_qkv|to_out|out_norm)", r"attn.fn.fn.\1"),
                           (r"(downs\.\d+)\.resize\.conv\.", r"\1.resize."),
                           (r"^((downs|ups)\.\d+\.attn.*)\.to_out\.", r"\1.to_out.0.")):
        name = re.sub(pattern, there, name)
    return _lucidrains_name(name)


@pytest.mark.parametrize("prefix", ["", "model.", "online_model.model."])
def test_a_checkpoint_of_the_mindspore_predecessor_is_read_without_mindspore(tmp_path, prefix):
    model = Unet(dim=8, dim_mults=(1, 2), channels=3, full_attn=False, block="group")
    raw, averaged = random_weights(model), random_weights(model, 1)
    state = {f"{prefix}{predecessor_name(name)}": array for name, array in raw.items()}
    assert f"{prefix}downs.0.2.fn.fn.to_out.0.weight" in state and f"{prefix}downs.0.3.weight" in state
    assert f"{prefix}mid_attn.fn.fn.to_out.weight" in state and f"{prefix}ups.0.3.1.weight" in state
    beside = {"moment1.model.init_conv.weight": averaged["init_conv.weight"], "learning_rate": np.float32(1e-4),
              "step": np.array([3], np.int32)}
    source = save_mindspore(tmp_path / "model-1.ckpt", {**state, **beside}, slices=3)
    found, ours = converted(source, tmp_path / "run", *ADM)
    equal(ours, raw)
    assert found.config.model == replace(model.config, full_attn=(False, False), attn_heads=(4, 4), attn_dim_head=(32, 32))
    both = {**state, **{f"ema..model.{predecessor_name(name)}": array for name, array in averaged.items()}}
    source = save_mindspore(tmp_path / "model-2.ckpt", both)
    equal(converted(source, tmp_path / "averaged", *ADM)[1], averaged)
    equal(converted(source, tmp_path / "raw", *ADM, ema=False)[1], raw)
    source.write_bytes(source.read_bytes()[:-5])
    refused(source, tmp_path / "other", "is cut short, damaged or of another format", *ADM)


@pytest.mark.parametrize("config", [{"block_out_channels": [10**6, 10**6]}, {"layers_per_block": 10**6},
                                    {"num_class_embeds": 10**9}])
def test_a_network_beyond_its_weights_is_refused_before_it_is_built(tmp_path, config):
    refused(folder(tmp_path / "a", config=config), tmp_path / "run", "does not fit the network: model.* is 1.*of at most 48 rows")


def spoiled(data, random):
    """``data`` with some bytes changed, or cut, or doubled."""
    data = bytearray(data)
    for _ in range(random.integers(1, 6)):
        where = random.integers(min(len(data), random.choice([300, 3000, 10**6])))  # most of what can be wrong stands in front
        count = random.integers(1, 3)
        data[where:where + count] = random.bytes(count if random.integers(3) else random.integers(3))
    return bytes(data[:random.integers(1, len(data) + 1)] if random.integers(4) == 0 else data)


@pytest.mark.parametrize("kind", ["json", "safetensors", "ckpt", "pt"])
def test_spoiled_files_are_opened_or_refused_in_one_line(tmp_path, kind):
    random = np.random.default_rng(5)
    saved = as_project("pytorch_diffusion", random_weights(ddpm_network(dim_mults=(1,), attention_levels=False)), levels=1)
    if kind == "json":
        source = folder(tmp_path / "a")
        files = [source / "unet/config.json", source / "scheduler/scheduler_config.json", source / "model_index.json"]
    else:
        source = tmp_path / f"file.{kind}"
        {"safetensors": save_file, "ckpt": lambda state, path: save_mindspore(path, state),
         "pt": lambda state, path: save_torch(path, state)}[kind](saved, source)
        files = [source]
    good = {path: path.read_bytes() for path in files}
    assert open_source(source).weights(None)
    for _ in range(150):
        path = files[random.integers(len(files))]
        path.write_bytes(spoiled(good[path], random))
        try:
            found = open_source(source)
            load_over(found.recipe, None, SETTLED)
        except InputError as error:
            assert str(error).isprintable()
        finally:
            path.write_bytes(good[path])


# What is made

def test_a_run_says_where_it_came_from_and_is_not_trained_in_place(tmp_path):
    source = GOLDENS / "lucidrains_trainer.pt"
    found, _ = lucidrains_run(tmp_path)
    event, = runs.read_events(tmp_path / "run")
    assert event["event"] == "converted" and event["source"] == str(source) and event["parameters"] > 0
    assert found.state["converted"] == {name: event[name] for name in ("source", "project", "files")}
    assert len(event["files"]["lucidrains_trainer.pt"]) == 64
    assert to_dict(found.config)["data"]["image_size"] == 8 and (tmp_path / "run/config.yaml").is_file()
    with pytest.raises(InputError, match="exists, allowed: a new one"):
        convert(source, tmp_path / "run", overrides=["data.image_size=8"])


def test_images_take_no_more_steps_than_the_process_has(tmp_path):
    source = save_torch(tmp_path / "a.pt", as_project("pytorch_diffusion", random_weights(ddpm_network())))
    found, _ = converted(source, tmp_path / "run", *SETTLED, "diffusion.timesteps=40")
    assert found.config.sampling.steps is None and found.config.training.precision == "fp32"


def test_a_disk_that_is_full_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    refused(GOLDENS / "lucidrains_trainer.pt", tmp_path / "run", "cannot be written: No space left on", "data.image_size=8")
    assert not list(tmp_path.iterdir())


def test_a_recipe_of_another_network_is_refused(tmp_path):
    refused(GOLDENS / "lucidrains_trainer.pt", tmp_path / "run", "model.name is 'ddpm_unet', allowed with .*: unet",
            "data.image_size=8", "model.name=ddpm_unet")
