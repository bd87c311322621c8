"""Folders that diffusers saved: the network and the process of their JSON files, in keys of a recipe.

A key that changes what is computed is mapped or refused by name; a key that nobody here knows is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_ms.errors import InputError, shown
from ddpm_ms.interop.ddpm_unet import ddpm_unet_from_diffusers
from ddpm_ms.interop.safetensors_files import read_safetensors_file
from ddpm_ms.interop.schedules import schedule_with
from ddpm_ms.interop.torch_files import is_state, read_torch_file

_LARGEST = 2**24  # bytes of a JSON file
_VAES = ("AutoencoderKL", "VQModel", "AsymmetricAutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "ConsistencyDecoderVAE")
# Each block: whether it has attention, and how it changes the size; None: as downsample_type or upsample_type says.
_DOWN = {"DownBlock2D": (False, "conv"), "AttnDownBlock2D": (True, None), "ResnetDownsampleBlock2D": (False, "resnet")}
_UP = {"UpBlock2D": (False, "conv"), "AttnUpBlock2D": (True, None), "ResnetUpsampleBlock2D": (False, "resnet")}
# (flip_sin_to_cos, freq_shift) to our embedding, and whether its sines and cosines have to change places.
_EMBEDDINGS = {(False, 1): ("sin_cos", False), (True, 0): ("cos_sin", False), (False, 0): ("cos_sin", True),
               (True, 1): ("sin_cos", True)}
_OBJECTIVES = {"epsilon": "pred_noise", "sample": "pred_x0", "v_prediction": "pred_v"}
_VARIANCES = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "fixed_large": "fixed_large",
              "learned_range": "learned"}
_SPACINGS = {"leading": "leading", "trailing": "trailing", "linspace": "both_ends"}
# What an average of diffusers' training scripts adds to the keys of its network.
_OF_EMA = ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")


@dataclass
class DiffusersFolder:
    """What a folder says, and its weights."""

    recipe: dict[str, dict[str, Any]]
    weights: dict[str, np.ndarray]
    files: list[Path]
    notes: list[str]


@dataclass
class _Keys:
    """The keys of a JSON file, each of which is taken once."""

    path: Path
    left: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def take(self, key: str, default: Any, *allowed: Any) -> Any:
        """The value of ``key``; one that is not ``allowed`` is refused, where any are given."""
        value = self.left.pop(key, default)
        if allowed and not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            self.refuse(key, value, ", ".join("null" if one is None else str(one) for one in allowed))
        return value

    def number(self, key: str, default: Any, whole: bool = False) -> Any:
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            self.refuse(key, value, "a whole number" if whole else "a number")
        return value

    def listed(self, key: str, default: list[Any], kind: type) -> list[Any]:
        values = self.take(key, default)
        if not isinstance(values, list) or not values or any(type(value) is not kind for value in values):
            self.refuse(key, values, f"a list of {'texts' if kind is str else 'whole numbers'}")
        return values

    def refuse(self, key: str, value: Any, allowed: str) -> None:
        raise InputError(f"{self.path}: {key} is {shown(value)}, allowed: {allowed}")

    def finish(self) -> None:
        unknown = sorted(key for key in self.left if not key.startswith("_"))
        if unknown:
            raise InputError(f"{self.path}: {shown(unknown[0])} is a key that is not known, and may change what is computed")


def read_diffusers_folder(path: Path, ema: bool = True) -> DiffusersFolder:
    """The network, its process and its weights, under the names and in the notation of this package.

    Args:
        path: with ``config.json`` in it, or in ``unet`` (or ``unet_ema``, where ``ema``) within it.
        ema: take ``unet_ema`` where it is there.

    Raises:
        InputError: there is no network or no weights, or what is there cannot be computed here.
    """
    _check_pipeline(path / "model_index.json")
    inside = [path / name for name in (("unet_ema", "unet", ".") if ema else ("unet", "."))]
    folder = next((one for one in inside if (one / "config.json").is_file()), None)
    if folder is None:
        raise InputError(f"{path} has no config.json, allowed: a folder of diffusers, with one beside its weights or in unet")
    network = _keys(folder / "config.json")
    if folder.name == "unet_ema":
        network.notes.append("the averaged weights, those in unet_ema, are taken")
    recipe, swapped = _network(network)
    scheduler = next((_keys(one) for one in (path / "scheduler" / "scheduler_config.json", path / "scheduler_config.json")
                      if one.is_file()), None)
    if scheduler is not None:
        recipe.update(_process(scheduler, recipe["model"]["learned_variance"]))
        network.notes += scheduler.notes
    state, files = _weights(folder)
    weights = ddpm_unet_from_diffusers(refused_if_strange(state, str(folder)))
    if swapped and "time_emb.1.weight" in weights:
        weights["time_emb.1.weight"] = np.roll(weights["time_emb.1.weight"], recipe["model"]["dim"] // 2, axis=-1)
    return DiffusersFolder(recipe, weights, [network.path, *([scheduler.path] if scheduler else []), *files], network.notes)


def refused_if_strange(state: dict[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
    """``state``, unless its names are those of a network of another kind: then `InputError` says of which."""
    for mark, kind in ((".attn2.", "a network with cross-attention, as latent diffusion has"),
                       ("transformer_blocks.", "a network with cross-attention, as latent diffusion has"),
                       ("first_stage_model.", "a latent-diffusion model"), ("quant_conv.", "a VAE"),
                       ("encoder.down", "a VAE"), ("decoder.up", "a VAE")):
        if any(mark in name for name in state):
            raise InputError(f"{what} has weights of {kind}, allowed: of a network that denoises images")
    return state


def _keys(path: Path) -> _Keys:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, allowed: a mapping of keys")
    return _Keys(path, found)


def _check_pipeline(path: Path) -> None:
    """Raise `InputError` if model_index.json tells of more than a network and its scheduler."""
    if not path.is_file():
        return
    parts = _keys(path).left
    kind = parts.get("unet")
    name = kind[-1] if isinstance(kind, list) and kind else None
    beside = [part for part in ("vae", "vqvae", "text_encoder", "movq", "bert") if part in parts]
    if beside or name == "UNet2DConditionModel":
        reason = f"it has a part {beside[0]!r}" if beside else "its network is a UNet2DConditionModel, with cross-attention"
        raise InputError(f"{path} is of a latent-diffusion pipeline ({reason}), allowed: a DDPMPipeline or DDIMPipeline, whose "
                         "network is a UNet2DModel")


def _network(keys: _Keys) -> tuple[dict[str, Any], bool]:
    """The sections ``model`` and ``data`` that say the same as a UNet2DModel's config.json; whether the halves of its embedding
    of the step change places."""
    _check_class(keys)
    for key in _OF_EMA:
        keys.left.pop(key, None)
    widths = keys.listed("block_out_channels", [224, 448, 672, 896], int)
    if widths[0] < 1 or any(width < 1 or width % widths[0] for width in widths):
        keys.refuse("block_out_channels", widths, "multiples of the first of them")
    dim, ins = widths[0], keys.number("in_channels", 3, whole=True)
    outs = keys.take("out_channels", 3, ins, 2 * ins)
    attends, resize = _blocks(keys, len(widths))
    flip, shift = keys.take("flip_sin_to_cos", True, True, False), keys.take("freq_shift", 0, 0, 1)
    padding = keys.take("downsample_padding", 1, 0, 1)
    embedding, swapped = _EMBEDDINGS[flip, shift]
    scale_shift = keys.take("resnet_time_scale_shift", "default", "default", "scale_shift") == "scale_shift"
    groups = keys.number("norm_num_groups", 32, whole=True)
    # Without groups of its own, the attention in the middle of a network with scale and shift has no norm.
    keys.take("attn_norm_num_groups", None, groups, *(() if scale_shift else (None,)))
    keys.take("add_attention", True, True)
    keys.take("mid_block_type", "UNetMidBlock2D", "UNetMidBlock2D")
    keys.take("mid_block_scale_factor", 1, 1)
    keys.take("act_fn", "silu", "silu", "swish")
    keys.take("center_input_sample", False, False)
    keys.take("time_embedding_type", "positional", "positional")
    keys.take("time_embedding_dim", None, None, 4 * dim)
    keys.take("class_embed_type", None, None)
    keys.take("num_train_timesteps", None)  # of another embedding of the step
    model = dict(name="ddpm_unet", dim=dim, dim_mults=[width // dim for width in widths],
                 num_res_blocks=keys.number("layers_per_block", 2, whole=True), attention_levels=attends,
                 **_heads(keys, is_port=(padding, flip, shift) == (0, False, 1)),
                 use_scale_shift_norm=scale_shift, resblock_updown=resize == "resnet",
                 downsample_padding="around" if padding else "after", time_embedding=embedding, norm_groups=groups,
                 norm_eps=keys.number("norm_eps", 1e-5), dropout=keys.number("dropout", 0.0), self_condition=False,
                 learned_variance=outs == 2 * ins, num_classes=keys.take("num_class_embeds", None))
    data = {"channels": ins, "image_size": keys.take("sample_size", None)}
    keys.finish()
    return {"model": model, "data": {key: value for key, value in data.items() if value is not None}}, swapped


def _check_class(keys: _Keys) -> None:
    name = keys.left.get("_class_name")
    if name == "UNet2DConditionModel" or "cross_attention_dim" in keys.left:
        raise InputError(f"{keys.path} is of a {shown(name)}, a network with cross-attention as latent diffusion has, allowed: "
                         "UNet2DModel")
    if name in _VAES:
        raise InputError(f"{keys.path} is of a {name}, a VAE, allowed: UNet2DModel")
    if name != "UNet2DModel":
        raise InputError(f"{keys.path} is of a {shown(name)}, allowed: UNet2DModel")


def _blocks(keys: _Keys, levels: int) -> tuple[list[bool], str]:
    """Which levels have attention, and how the size changes: "conv" or "resnet"."""
    attends, kinds = {}, set()
    for way, table, default in (("down", _DOWN, ["DownBlock2D", *["AttnDownBlock2D"] * 3]),
                                ("up", _UP, [*["AttnUpBlock2D"] * 3, "UpBlock2D"])):
        own = keys.take(f"{way}sample_type", "conv", "conv", "resnet")
        names = keys.listed(f"{way}_block_types", default, str)
        for name in names:
            if name not in table:
                cross = ", which has cross-attention as latent diffusion has" if "CrossAttn" in name else ""
                keys.refuse(f"{way}_block_types", name, f"{', '.join(table)}{cross and f' ({name} is one{cross[6:]})'}")
        if len(names) != levels:
            keys.refuse(f"{way}_block_types", names, f"{levels} of them, as many as block_out_channels")
        attends[way] = [table[name][0] for name in names]
        kinds |= {table[name][1] or own for name in names[:-1]}  # the last one leaves the size as it is
    if attends["down"] != attends["up"][::-1]:
        raise InputError(f"{keys.path}: the blocks have attention at other levels on the way up than on the way down, "
                         "allowed: at the same")
    if len(kinds) > 1:
        raise InputError(f"{keys.path}: the blocks change the size by convolutions and within residual blocks, allowed: all of "
                         "them alike")
    return attends["down"], next(iter(kinds), "conv")


def _heads(keys: _Keys, is_port: bool) -> dict[str, Any]:
    """attention_head_dim as heads: null is one head; without the key it is the default of the class, heads of width 8, but for
    the networks that were ported from DDPM's own code, all of which have one head."""
    if "attention_head_dim" in keys.left:
        width = keys.take("attention_head_dim", None)
        if width is not None and (type(width) is not int or width < 1):
            keys.refuse("attention_head_dim", width, "null, or a whole number from 1")
    else:
        width = None if is_port else 8
        keys.notes.append("attention_head_dim is not stated: " + (
            "one head is taken, as in google/ddpm-*, whose embedding and padding the network has (otherwise: "
            "model.num_head_channels=8)" if is_port else
            "heads of width 8 are taken, the default of diffusers (otherwise: model.num_head_channels=null, which is one head)"))
    return {"num_heads": 1, "num_head_channels": width}


def _process(keys: _Keys, learned: bool) -> dict[str, Any]:
    """The sections ``diffusion`` and ``sampling`` that say the same as scheduler_config.json."""
    name = keys.take("_class_name", None, "DDPMScheduler", "DDIMScheduler")
    steps = keys.number("num_train_timesteps", 1000, whole=True)
    if not 1 <= steps <= 10**6:
        keys.refuse("num_train_timesteps", steps, "1 to 1000000")
    objective = keys.take("prediction_type", None, None, *_OBJECTIVES)
    predicts_noise = keys.take("predict_epsilon", None, None, True, False)  # what said the same before
    if objective is None:
        objective = "sample" if predicts_noise is False else "epsilon"
    diffusion = {"timesteps": steps, "objective": _OBJECTIVES[objective], **_schedule(keys, steps)}
    diffusion["rescale_betas_zero_snr"] = keys.take("rescale_betas_zero_snr", False, False, True)
    if diffusion["rescale_betas_zero_snr"] or diffusion.get("betas", [0])[-1] == 1:
        diffusion["loss_weight"] = "none"  # others would never train the last step, which has no signal
    # DDIM has no such key of its own; with eta 1 its variance is fixed_small.
    variances = [kind for kind, ours in _VARIANCES.items() if (ours == "learned") == learned]
    default = "learned_range" if learned and name == "DDIMScheduler" else "fixed_small"
    diffusion["variance"] = _VARIANCES[keys.take("variance_type", default, *variances)]
    keys.take("set_alpha_to_one", True, *([True] if name == "DDIMScheduler" else []))
    clips = keys.take("clip_sample", True, True, False)
    if clips:
        keys.take("clip_sample_range", 1.0, 1)
    thresholds = keys.take("thresholding", False, False, True)
    dynamic = _dynamic(keys) if thresholds else {}
    for key in ("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "tensor_format"):
        keys.left.pop(key, None)  # of what is off, and of versions that knew other tensors
    keys.take("timestep_values", None, None)
    keys.take("steps_offset", 0, 0)
    # With DDIM diffusers takes from step to step of an even stride, whatever steps linspace visits.
    spacings = {kind: ours for kind, ours in _SPACINGS.items() if (name, kind) != ("DDIMScheduler", "linspace")}
    spacing = spacings[keys.take("timestep_spacing", "leading", *spacings)]
    keys.finish()
    sampler = {"sampler": "ddpm", "steps": None} if name == "DDPMScheduler" else {"sampler": "ddim", "steps": min(50, steps)}
    sampling = {**sampler, "clip_x_start": clips or thresholds, "spacing": spacing, "rederive_pred_noise": False, **dynamic}
    return {"diffusion": diffusion, "sampling": sampling}


def _dynamic(keys: _Keys) -> dict[str, Any]:
    """The quantile of dynamic thresholding; nothing where its limit makes it clip as without it."""
    quantile, limit = keys.number("dynamic_thresholding_ratio", 0.995), keys.number("sample_max_value", 1.0)
    if limit != 1 and not limit >= 10**4:
        keys.refuse("sample_max_value", limit, "with thresholding 1, which is plain clipping, or from 10000, which is no limit")
    return {} if limit == 1 else {"dynamic_threshold": quantile}


def _schedule(keys: _Keys, steps: int) -> dict[str, Any]:
    """The name of our schedule that has the same betas, else the betas."""
    start, end = keys.number("beta_start", 1e-4), keys.number("beta_end", 0.02)
    kind = keys.take("beta_schedule", "linear", "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
    betas = keys.take("trained_betas", None)
    if betas is not None:
        if not isinstance(betas, list) or len(betas) != steps or not all(type(beta) in (int, float) for beta in betas):
            keys.refuse("trained_betas", betas, f"null, or {steps} numbers, as many as num_train_timesteps")
    elif kind == "squaredcos_cap_v2":
        return {"beta_schedule": "cosine"}
    elif not (0 <= start <= 1 and 0 <= end <= 1):
        keys.refuse("beta_start", start, f"0 to 1, and so beta_end, which is {shown(end)}")
    elif kind == "sigmoid":
        betas = start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps)))
    elif kind == "linear":
        betas = np.linspace(start, end, steps)
    else:
        betas = np.linspace(start**0.5, end**0.5, steps) ** 2
    return schedule_with(betas, rtol=1e-9)


def _weights(folder: Path) -> tuple[dict[str, np.ndarray], list[Path]]:
    name = "diffusion_pytorch_model"
    whole = [folder / f"{name}.safetensors", folder / f"{name}.bin"]
    index = folder / f"{name}.safetensors.index.json"
    for path in whole:
        if path.is_file():
            found = read_safetensors_file(path) if path.suffix == ".safetensors" else read_torch_file(path)
            if not is_state(found):
                raise InputError(f"{path} holds no state dict, allowed: names with tensors")
            return found, [path]
    if index.is_file():
        return _shards(index)
    raise InputError(f"{folder} has no weights, allowed: {whole[0].name} or {whole[1].name} beside config.json")


def _shards(index: Path) -> tuple[dict[str, np.ndarray], list[Path]]:
    """The weights of a network whose file was cut in pieces, which ``index`` lists."""
    keys = _keys(index)
    places = keys.take("weight_map", None)
    if not isinstance(places, dict) or not all(isinstance(place, str) and Path(place).name == place for place in places.values()):
        keys.refuse("weight_map", places, "names of tensors, each with that of a file beside it")
    state: dict[str, np.ndarray] = {}
    files = [index.parent / name for name in sorted(set(places.values()))]
    for path in files:
        for name, array in read_safetensors_file(path).items():
            if places.get(name) != path.name:
                raise InputError(f"{path} has {shown(name)}, which {index.name} does not list there")
            state[name] = array
    missing = [name for name in places if name not in state]
    if missing:
        raise InputError(f"{index} lists {shown(missing[0])}, which no file has")
    return state, files
