"""For denoising-diffusion-pytorch: the state dict of its ``Unet``, and the keywords that build the classes around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddpm_ms.config import Config
from ddpm_ms.export.trained import Target, Trained, refuse, save_weights
from ddpm_ms.interop import unet_to_lucidrains
from ddpm_ms.models import UnetConfig
from ddpm_ms.parts import SCHEDULES, options_of

NAME = "denoising-diffusion-pytorch"
_SCHEDULES = ("linear", "cosine", "sigmoid")


def write(trained: Trained, path: Path) -> str:
    """What ``load_state_dict`` of a ``Unet`` takes; the metadata has the keywords of both classes under their names.

    They are written as Python writes a dictionary, which ``ast.literal_eval`` reads: JSON has no tuples, and of a list their Unet
    takes each level to be given all of it.
    """
    config = trained.config
    unet = unet_keywords(config)
    kind, process = process_keywords(trained)
    keywords = {"Unet": unet, kind: process}
    save_weights(path, unet_to_lucidrains(trained.weights()),
                 {"format": "pt", **{name: repr(values) for name, values in keywords.items()}})
    return f"for model = Unet({_shown(unet)}) and {kind}(model, {_shown(process)})"


def unet_keywords(config: Config) -> dict[str, Any]:
    """Those of their ``Unet``.

    Raises:
        InputError: it cannot be built so.
    """
    c = config.model
    if not isinstance(c, UnetConfig):
        refuse("model.name", c.name, NAME, "unet")
    for key, allowed in (("block", "rms"), ("num_classes", None), ("time_embedding", "sinusoidal")):
        if getattr(c, key) != allowed:
            refuse(f"model.{key}", getattr(c, key), NAME, "null" if allowed is None else allowed)
    # There False is the default as None is, which has full attention at the last level.
    full = (False,) * len(c.dim_mults) if c.full_attn is False else c.full_attn
    return {
        "dim": c.dim, "init_dim": c.init_dim, "out_dim": c.out_dim, "dim_mults": c.dim_mults, "channels": config.data.channels,
        "self_condition": c.self_condition, "learned_variance": c.learned_variance,
        "sinusoidal_pos_emb_theta": c.sinusoidal_pos_emb_theta, "dropout": c.dropout, "attn_dim_head": c.attn_dim_head,
        "attn_heads": c.attn_heads, "full_attn": full,
    }


def process_keywords(trained: Trained) -> tuple[str, dict[str, Any]]:
    """The name of their class, and its keywords; what concerns only the loss is not among them.

    Raises:
        InputError: they have no such process.
    """
    model, c = trained.config.model, trained.config.diffusion
    if c.beta_schedule not in _SCHEDULES:
        refuse("diffusion.beta_schedule", c.beta_schedule, NAME, ", ".join(_SCHEDULES))
    for key, default in (("betas", None), ("rescale_betas_zero_snr", False)):
        if getattr(c, key) != default:
            refuse(f"diffusion.{key}", getattr(c, key), NAME, "its default")
    kind = "LearnedGaussianDiffusion" if model.learned_variance else "GaussianDiffusion"
    variance = "learned" if model.learned_variance else "fixed_small"
    if trained.variance != variance:
        refuse("the variance", trained.variance, kind, variance)
    if model.learned_variance and c.objective != "pred_noise":
        refuse("diffusion.objective", c.objective, kind, "pred_noise")
    if model.learned_variance and model.self_condition:
        refuse("model.self_condition", True, kind, False)
    own = options_of(SCHEDULES[c.beta_schedule])
    return kind, {
        "image_size": trained.config.data.image_size, "timesteps": c.timesteps, "objective": c.objective,
        "beta_schedule": c.beta_schedule,
        "schedule_fn_kwargs": {option: getattr(c, f"{c.beta_schedule}_{option}") for option in sorted(own)},
    }


def _shown(keywords: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in keywords.items())


TARGET = Target(write, ".safetensors")
