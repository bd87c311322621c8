"""For diffusers: the folder of a ``DDPMPipeline``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ddpm_ms.config import Config
from ddpm_ms.errors import InputError
from ddpm_ms.export.trained import Target, Trained, refuse, save_weights
from ddpm_ms.interop import ddpm_unet_to_diffusers
from ddpm_ms.models import DDPMUnetConfig
from ddpm_ms.models.layers import per_level

_INDEX = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
_OBJECTIVES = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}
_VARIANCES = {"fixed_small": "fixed_small", "fixed_large": "fixed_large", "learned": "learned_range"}
# Those that have two ends there; of the others all betas are written, but for one.
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "quadratic": "scaled_linear"}
_OFFSET = 0.008  # of the only cosine schedule there
_LARGEST = 1e6  # of the estimate's quantile in dynamic thresholding: no limit, as here


def write(trained: Trained, path: Path) -> str:
    """model_index.json, unet/ and scheduler/, which ``DDPMPipeline.from_pretrained`` reads."""
    scheduler = scheduler_config(trained)
    settings = unet_config(trained.config)
    arrays = ddpm_unet_to_diffusers(trained.weights())
    if trained.config.model.num_classes:
        settings["num_class_embeds"] = len(arrays["class_embedding.weight"])
    (path / "unet").mkdir(parents=True)
    (path / "scheduler").mkdir()
    for name, content in (("model_index.json", _INDEX), ("unet/config.json", settings),
                          ("scheduler/scheduler_config.json", scheduler)):
        (path / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_weights(path / "unet" / "diffusion_pytorch_model.safetensors", arrays, {"format": "pt"})
    return f"DDPMPipeline of diffusers, {len(arrays)} tensors; num_inference_steps={trained.config.diffusion.timesteps} are all"


def unet_config(config: Config) -> dict[str, Any]:
    """Keywords of ``UNet2DModel``, all that decide what it computes.

    Raises:
        InputError: it cannot be built so.
    """
    c = config.model
    if not isinstance(c, DDPMUnetConfig):
        refuse("model.name", c.name, "UNet2DModel of diffusers", "ddpm_unet")
    if c.self_condition:
        refuse("model.self_condition", True, "UNet2DModel of diffusers", False)
    if c.dim_mults[0] != 1:
        raise InputError(f"model.dim_mults begins with {c.dim_mults[0]}, allowed with UNet2DModel of diffusers: 1 (its first "
                         "convolution is as wide as its first level)")
    widths = [c.dim * m for m in c.dim_mults]
    attends = per_level("attention_levels", c.attention_levels, len(widths))
    plain, resize = ("Resnet{}sampleBlock2D", "resnet") if c.resblock_updown else ("{}Block2D", "conv")
    blocks = ["Attn{}Block2D" if there else plain for there in attends]
    channels, cosine_first = config.data.channels, c.time_embedding == "cos_sin"
    return {
        "_class_name": "UNet2DModel", "sample_size": config.data.image_size, "in_channels": channels,
        "out_channels": channels * (2 if c.learned_variance else 1), "center_input_sample": False,
        "time_embedding_type": "positional", "flip_sin_to_cos": cosine_first, "freq_shift": 0 if cosine_first else 1,
        "down_block_types": [name.format("Down") for name in blocks],
        "up_block_types": [name.format("Up") for name in reversed(blocks)],
        "block_out_channels": widths, "layers_per_block": c.num_res_blocks, "mid_block_scale_factor": 1,
        "downsample_padding": {"after": 0, "around": 1}[c.downsample_padding], "downsample_type": resize, "upsample_type": resize,
        "dropout": c.dropout, "act_fn": "silu", "attention_head_dim": _width_of_heads(c, [*_where(widths, attends), widths[-1]]),
        "norm_num_groups": c.norm_groups, "norm_eps": c.norm_eps, "add_attention": True,
        "attn_norm_num_groups": c.norm_groups if c.use_scale_shift_norm else None,  # else the norm in the middle would go
        "resnet_time_scale_shift": "scale_shift" if c.use_scale_shift_norm else "default",
    }


def scheduler_config(trained: Trained) -> dict[str, Any]:
    """Keywords of ``DDPMScheduler`` for the run's process and its way of clipping.

    Raises:
        InputError: the network learns a variance that the run does not use.
    """
    c, sampling = trained.config.diffusion, trained.config.sampling
    if trained.config.model.learned_variance and trained.variance != "learned":
        refuse("the variance", trained.variance, "DDPMScheduler, with a network that learns it,", "learned")
    threshold = sampling.dynamic_threshold if sampling.clip_x_start else None
    return {
        "_class_name": "DDPMScheduler", "num_train_timesteps": c.timesteps, **_betas(trained),
        "variance_type": _VARIANCES[trained.variance], "prediction_type": _OBJECTIVES[c.objective],
        "clip_sample": sampling.clip_x_start, "clip_sample_range": 1.0, "thresholding": threshold is not None,
        **({} if threshold is None else {"dynamic_thresholding_ratio": threshold, "sample_max_value": _LARGEST}),
        # With fewer steps than all, DDPMScheduler adds noise to its result but where the last step that it visits is 0.
        "timestep_spacing": "trailing" if c.rescale_betas_zero_snr else "leading", "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }


def _betas(trained: Trained) -> dict[str, Any]:
    """The schedule by its name there, if it has one; else every beta."""
    c, betas = trained.config.diffusion, trained.schedule.betas
    if c.betas is None and not c.rescale_betas_zero_snr:
        if c.beta_schedule in _SCHEDULES:
            return {"beta_schedule": _SCHEDULES[c.beta_schedule], "beta_start": betas[0], "beta_end": betas[-1]}
        if c.beta_schedule == "cosine" and c.cosine_s == _OFFSET:
            return {"beta_schedule": "squaredcos_cap_v2"}
    return {"beta_schedule": "linear", "trained_betas": betas.tolist()}


def _where(values: list[int], flags: tuple[bool, ...]) -> list[int]:
    return [value for value, there in zip(values, flags) if there]


def _width_of_heads(c: DDPMUnetConfig, widths: list[int]) -> int | None:
    """One for the whole network; None: one head as wide as its level."""
    if c.num_head_channels is not None or c.num_heads == 1:
        return c.num_head_channels
    if len(set(widths)) > 1:
        raise InputError(f"model.num_heads is {c.num_heads} at widths {', '.join(map(str, sorted(set(widths))))}, allowed with "
                         "UNet2DModel of diffusers: 1, or heads of one width (num_head_channels)")
    return widths[0] // c.num_heads


TARGET = Target(write)
