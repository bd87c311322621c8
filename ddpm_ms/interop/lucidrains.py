"""Weights of denoising-diffusion-pytorch's ``Unet`` (2.x), and of its MindSpore port's, under the names and shapes of
`ddpm_ms.Unet`, and back."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, Callable, Iterator, Tuple

import numpy as np

from ddpm_ms.errors import InputError, shown
from ddpm_ms.interop.torch_files import is_state, read_torch_file

Row = Tuple[str, str, str]
# (their name, ours, the parameters of such a layer); a layer without a name for its parameters is one itself.
_ENDS = (("init_conv", "init_conv", "weight bias"), ("final_conv", "final_conv", "weight bias"),
         ("time_mlp.0", "time_mlp.0", "weights"), ("time_mlp.1", "time_mlp.1", "weight bias"),
         ("time_mlp.3", "time_mlp.3", "weight bias"))
_BLOCK = (("mlp.1", "time_proj", "weight bias"), ("res_conv", "res_conv", "weight bias"),
          ("block1.proj", "block1.proj", "weight bias"), ("block1.norm", "block1.norm", "g"),
          ("block2.proj", "block2.proj", "weight bias"), ("block2.norm", "block2.norm", "g"))
_GROUP_BLOCK = tuple((theirs, f"{ours}.norm", "gamma beta") if parameters == "g" else (theirs, ours, parameters)
                     for theirs, ours, parameters in _BLOCK)  # of the MindSpore port
_HEADS = (("", "", "mem_kv"), ("norm", "norm", "g"), ("to_qkv", "to_qkv", "weight"))
_FULL = (*_HEADS, ("to_out", "to_out", "weight bias"))
_LINEAR = (*_HEADS, ("to_out.0", "to_out", "weight bias"), ("to_out.1", "out_norm", "g"))
_RESIZE = (("", "", "weight bias"), ("1", "conv", "weight bias"))  # a 3x3 convolution, or what changes the size
# Our name of what is laid out otherwise in their Downsample: a 1x1 convolution over (c p1 p2) channels, which is ours of 2x2
# pixels and stride 2.
_SQUARES = re.compile(r"downs\.\d+\.resize\.conv\.weight")
_FREQUENCIES = "time_mlp.0.weights"  # (n,) there, (1, n) here

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
        InputError: a name is none of that network's, two arrays would get one name, or one has no shape that a Unet gives it.
    """
    return _ours(state, _BLOCK)


def unet_from_mindspore(state: dict[str, np.ndarray], ema: bool = True) -> dict[str, np.ndarray]:
    """The weights of denoising-diffusion-mindspore's ``Unet``, the predecessor of this package, as `ddpm_ms.Unet` of
    ``block: group`` takes them; of a checkpoint that has averaged weights, too, those where ``ema``.

    Raises:
        InputError: as `unet_from_lucidrains`.
    """
    kinds: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = {}, {}
    for name, array in state.items():
        if not _OPTIMIZERS.match(name):
            kinds[name.startswith("ema.")][re.sub(r"^(ema\.+)?(online_model\.)?(model\.)?", "", name)] = array
    state = kinds[1] if ema and kinds[1] else kinds[0]
    ours = _ours({name.replace(".fn.norm.", ".norm.").replace(".fn.fn.", "."): array for name, array in state.items()},
                 _GROUP_BLOCK)
    halving = {name[:-len("weight")] for name, array in ours.items() if re.fullmatch(r"downs\.\d+\.resize\.weight", name)
               and array.shape[2:] == (4, 4)}
    return {re.sub(r"(\.resize)\.", r"\1.conv.", name) if name.rpartition(".")[0] + "." in halving else name: array
            for name, array in ours.items()}


def _ours(state: dict[str, np.ndarray], block: tuple[Row, ...]) -> dict[str, np.ndarray]:
    """``state``, whose residual blocks are ``block``, under our names and in our shapes."""
    names = dict(_names(_levels(state), _FULL + _LINEAR, block))
    _refuse_left_over([name for name in state if name not in names])
    ours: dict[str, np.ndarray] = {}
    for theirs, array in state.items():
        name = names[theirs]
        if name in ours:
            raise InputError(f"there are two arrays for {name}")
        if _SQUARES.fullmatch(name):
            if array.ndim != 4 or array.shape[1] % 4 or array.shape[2:] != (1, 1):
                raise InputError(f"{theirs} has shape {array.shape}, allowed: (channels out, 4 times those in, 1, 1)")
            array = array.reshape(array.shape[0], array.shape[1] // 4, 2, 2)
        ours[name] = array.reshape(1, -1) if name == _FREQUENCIES else array
    return ours


def unet_to_lucidrains(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of a `ddpm_ms.Unet` as the ``Unet`` of the same keywords takes them; undoes `unet_from_lucidrains`.

    Raises:
        InputError: a name is none of their network's.
    """
    linear = {name[:-len("out_norm.g")] for name in state if name.endswith(".out_norm.g")}
    names = {ours: theirs for theirs, ours in _names(_levels(state), _FULL)}
    names.update({ours: theirs for theirs, ours in _names(_levels(state), _LINEAR) if ours.startswith(tuple(linear))})
    _refuse_left_over([name for name in state if name not in names])
    theirs: dict[str, np.ndarray] = {}
    for name, array in state.items():
        if _SQUARES.fullmatch(name):
            array = array.reshape(array.shape[0], -1, 1, 1)
        theirs[names[name]] = array.reshape(-1) if name == _FREQUENCIES else array
    return theirs


def _names(levels: int, attention: tuple[Row, ...], block: tuple[Row, ...] = _BLOCK) -> Iterator[tuple[str, str]]:
    """(their name, ours) of every parameter that a network of so many levels can have, with attention of one kind or another."""
    yield from _inside("", "", _ENDS)
    for part in ("mid_block1", "mid_block2", "final_res_block"):
        yield from _inside(part, part, block)
    yield from _inside("mid_attn", "mid_attn", attention)
    parts = (("block1", block), ("block2", block), ("attn", attention), ("resize", _RESIZE))
    for way, level in itertools.product(("downs", "ups"), range(levels)):
        stage = f"{way}.{level}"
        for place, (part, layers) in enumerate(parts):
            yield from _inside(f"{stage}.{place}", f"{stage}.{part}", layers)


def _inside(theirs: str, ours: str, layers: tuple[Row, ...]) -> Iterator[tuple[str, str]]:
    for their_layer, layer, parameters in layers:
        for parameter in parameters.split():
            yield ".".join(filter(None, (theirs, their_layer, parameter))), ".".join(filter(None, (ours, layer, parameter)))


def _levels(state: dict[str, np.ndarray]) -> int:
    """How many resolutions the names speak of."""
    return len({found[1] for found in (re.match(r"downs\.(\d+)\.", name) for name in state) if found})
