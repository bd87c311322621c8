"""Weights of denoising-diffusion-pytorch's ``Unet`` (2.x) under the names and shapes of `ddpm_ms.Unet`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ddpm_ms.errors import InputError, shown
from ddpm_ms.interop.torch_files import is_state, read_torch_file

# (their name, ours), applied in order to every parameter name.
_RENAMES = (
    (r"\b(downs|ups)\.(\d+)\.0\.", r"\1.\2.block1."),
    (r"\b(downs|ups)\.(\d+)\.1\.", r"\1.\2.block2."),
    (r"\b(downs|ups)\.(\d+)\.2\.", r"\1.\2.attn."),
    (r"\b(downs|ups)\.(\d+)\.3\.1\.", r"\1.\2.resize.conv."),
    (r"\b(downs|ups)\.(\d+)\.3\.", r"\1.\2.resize."),
    (r"\.mlp\.1\.", ".time_proj."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"\.to_out\.1\.g$", ".out_norm.g"),
)

# Every name that their Unet gives to a parameter.
_BLOCK = r"(mlp\.1|block[12]\.proj|res_conv)\.(weight|bias)|block[12]\.norm\.g"
_ATTENTION = r"mem_kv|norm\.g|to_qkv\.weight|to_out\.(0\.)?(weight|bias)|to_out\.1\.g"
_UNET = re.compile(
    r"(init_conv|final_conv|time_mlp\.[13])\.(weight|bias)|time_mlp\.0\.weights"
    rf"|((downs|ups)\.\d+\.[01]|mid_block[12]|final_res_block)\.({_BLOCK})"
    rf"|((downs|ups)\.\d+\.2|mid_attn)\.({_ATTENTION})|(downs|ups)\.\d+\.3\.(1\.)?(weight|bias)")

# What their GaussianDiffusion keeps beside its network: it follows from the schedule.
_PROCESS = {"betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
            "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
            "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "loss_weight"}
# What a checkpoint of MindSpore keeps beside the network.
_OPTIMIZERS = re.compile(r"moment[12]\.|beta[12]_power$|learning_rate$|global_step$|initted$|step$")
_AVERAGED, _ONLINE, _NETWORK = "ema_model.", "online_model.", "model."


def load_lucidrains(path: str | Path, ema: bool = True) -> dict[str, np.ndarray]:
    """The weights in a file of denoising-diffusion-pytorch 2.x, as `ddpm_ms.Unet` of the same keywords takes them.

    Args:
        path: what its ``Trainer`` saved (``model-N.pt``), or the state dict of its ``EMA``, ``GaussianDiffusion`` or ``Unet``.
        ema: averaged weights, or those that the optimizer left. A state dict without an average holds one set of weights, which
            is what comes back.

    Raises:
        InputError: from `read_torch_file`; there are no such weights; or a tensor is none of the network's, and which.
    """
    found = read_torch_file(path)
    try:
        return unet_from_lucidrains(network_state(chosen_state(found, ema), ema))
    except InputError as error:
        raise InputError(f"PyTorch file {path}: {error}") from None


def chosen_state(found: Any, ema: bool) -> dict[str, np.ndarray]:
    """Of what a Trainer saved the state dict of its EMA or its process; any other state dict itself."""
    if isinstance(found, dict) and isinstance(found.get("model"), dict):
        found = found.get("ema" if ema else "model")
    if not is_state(found):
        raise InputError(f"there is no state dict{' of averaged weights' if ema else ''}, allowed: what "
                         "denoising-diffusion-pytorch's Trainer saved, or the state dict of its EMA, GaussianDiffusion or Unet")
    return found


def network_state(state: dict[str, np.ndarray], ema: bool) -> dict[str, np.ndarray]:
    """The Unet's own state dict: without the prefixes of EMA and GaussianDiffusion, and without what those keep beside it."""
    if any(name.startswith(_AVERAGED) for name in state):
        wanted, other = (_AVERAGED, _ONLINE) if ema else (_ONLINE, _AVERAGED)
        state = _within(state, wanted, lambda name: name in ("initted", "step") or name.startswith(other))
    if any(name.startswith(_NETWORK) for name in state):
        state = _within(state, _NETWORK, _PROCESS.__contains__)
    _refuse_left_over([name for name in state if not _UNET.fullmatch(name)])
    if not state:
        raise InputError("there are no weights of a Unet")
    return state


def _within(state: dict[str, np.ndarray], prefix: str, known: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """What stands under ``prefix``, without it; ``known`` says of any other name whether it may be there."""
    _refuse_left_over([name for name in state if not name.startswith(prefix) and not known(name)])
    return {name[len(prefix):]: array for name, array in state.items() if name.startswith(prefix)}


def _refuse_left_over(names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(f"there are {', '.join(map(shown, names[:3]))}{more}, allowed: weights of a Unet of "
                         "denoising-diffusion-pytorch 2.x")


def unet_from_lucidrains(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename and reshape the arrays of a ``Unet.state_dict()`` so that `ddpm_ms.Unet` of the same keywords takes them.

    Raises:
        InputError: two arrays would get one name, or one has no shape that a Unet gives it.
    """
    renamed: dict[str, np.ndarray] = {}
    for theirs, array in state.items():
        name = theirs
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        if name in renamed:
            raise InputError(f"there are two arrays for {name}")
        if re.match(r"downs\.\d+\.resize\.conv\.weight", name):
            if array.ndim != 4 or array.shape[1] % 4 or array.shape[2:] != (1, 1):
                raise InputError(f"{theirs} has shape {array.shape}, allowed: (channels out, 4 times those in, 1, 1)")
            # Theirs: a 1x1 convolution over (c p1 p2) channels; ours: the 2x2 convolution of stride 2 it equals.
            array = array.reshape(array.shape[0], array.shape[1] // 4, 2, 2)
        elif name == "time_mlp.0.weights":
            array = array.reshape(1, -1)
        renamed[name] = array
    return renamed


def unet_from_mindspore(state: dict[str, np.ndarray], ema: bool = True) -> dict[str, np.ndarray]:
    """The weights of denoising-diffusion-mindspore's ``Unet``, the predecessor of this package, as `ddpm_ms.Unet` of
    ``block: group`` takes them; of a checkpoint that has averaged weights, too, those where ``ema``.

    Raises:
        InputError: a name is none of that network's.
    """
    kinds: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = {}, {}
    for name, array in state.items():
        if not _OPTIMIZERS.match(name):
            kinds[name.startswith("ema.")][re.sub(r"^(ema\.+)?(online_model\.)?(model\.)?", "", name)] = array
    state = kinds[1] if ema and kinds[1] else kinds[0]
    state = {name.replace(".fn.norm.", ".norm.").replace(".fn.fn.", "."): array for name, array in state.items()}
    _refuse_left_over([name for name in state if not _UNET.fullmatch(re.sub(r"\.(gamma|beta)$", ".g", name))])
    ours = {re.sub(r"\.norm\.(gamma|beta)$", r".norm.norm.\1", name): array
            for name, array in unet_from_lucidrains(state).items()}
    halving = {name[:-len("weight")] for name, array in ours.items() if re.fullmatch(r"downs\.\d+\.resize\.weight", name)
               and array.shape[2:] == (4, 4)}
    return {re.sub(r"(\.resize)\.", r"\1.conv.", name) if name.rpartition(".")[0] + "." in halving else name: array
            for name, array in ours.items()}
