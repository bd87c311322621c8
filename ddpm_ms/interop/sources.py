"""Whose weights lie at a path, what their files say of network and process, and what must be asked for."""

from __future__ import annotations

import contextlib
import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np

from ddpm_ms.config import NetworkConfig
from ddpm_ms.errors import InputError, shown
from ddpm_ms.interop import settings
from ddpm_ms.interop.ddpm_unet import ddpm_unet_from_guided_diffusion, ddpm_unet_from_pytorch_diffusion
from ddpm_ms.interop.diffusers_folder import read_diffusers_folder, refused_if_strange
from ddpm_ms.interop.lucidrains import chosen_state, network_state, unet_from_lucidrains, unet_from_mindspore
from ddpm_ms.interop.lucidrains_process import process_of
from ddpm_ms.interop.mindspore_files import read_mindspore_file
from ddpm_ms.interop.safetensors_files import read_safetensors_file
from ddpm_ms.interop.torch_files import is_state, kind_of_file, read_torch_file

State = dict[str, np.ndarray]
KNOWN = ("a folder of diffusers, or a file of pytorch_diffusion, DDIM, guided-diffusion, P2-weighting, "
         "denoising-diffusion-pytorch or denoising-diffusion-mindspore")


@dataclass
class Source:
    """Weights of another project.

    Args:
        project: whose they are.
        recipe: what the files say, section to key to value.
        weights: given the network, its weights under the names of this package.
        files: that were read.
        step: optimizer steps behind the weights; 0 where that is not known.
        notes: what was decided that a file does not state.
        asked: keys that must be settled besides those that every process has; of each entry, one key.
    """

    project: str
    recipe: dict[str, dict[str, Any]]
    weights: Callable[[NetworkConfig], State]
    files: list[Path]
    step: int = 0
    notes: list[str] = field(default_factory=list)
    asked: tuple[tuple[str, ...], ...] = ()


def open_source(path: Path, ema: bool = True, attention_order: str | None = None) -> Source:
    """What is at ``path``.

    Raises:
        InputError: nothing is there, or nothing that is known, or it is damaged.
    """
    if path.is_dir():
        if attention_order is not None:
            _refuse_order(attention_order)
        found = read_diffusers_folder(path, ema)
        return Source("diffusers", found.recipe, lambda _: found.weights, found.files, notes=found.notes)
    if not path.is_file():
        raise InputError(f"source {path} does not exist, allowed: {KNOWN}")
    value = _read(path)
    with _about(path):
        source = _recognised(path, value, ema, attention_order)
    if attention_order is not None and source.project != "guided-diffusion":
        _refuse_order(attention_order)
    return source


def _refuse_order(order: str) -> None:
    raise InputError(f"the order of attention is {order!r}, allowed with these weights: none (it is for guided-diffusion)")


def _read(path: Path) -> Any:
    """What a file holds, whatever its ending: ``.ckpt`` is used by two projects, and by MindSpore."""
    with path.open("rb") as file:
        empty = not file.read(1)
        if not empty:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                start, kind = data[:1], kind_of_file(data)
    if not empty and (path.suffix == ".safetensors" or kind == "a safetensors file"):
        return read_safetensors_file(path)
    if not empty and start == b"\n" and kind == "of another format":  # the first field of a protocol buffer
        return read_mindspore_file(path)
    return read_torch_file(path)


@contextlib.contextmanager
def _about(path: Path) -> Iterator[None]:
    """Mistakes within the block are told of the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _recognised(path: Path, value: Any, ema: bool, attention_order: str | None) -> Source:
    if isinstance(value, list):
        return _ddim_checkpoint(path, value, ema)
    if isinstance(value, dict) and isinstance(value.get("model"), dict):
        return _lucidrains(path, value, ema)
    if not is_state(value):
        raise InputError(f"there is no state dict, allowed: {KNOWN}")
    names = {name.removeprefix("module.") for name in refused_if_strange(value, "it")}
    if "temb.dense.0.weight" in names:
        return _pytorch_diffusion(path, value)
    if "time_embed.0.weight" in names:
        return _guided_diffusion(path, value, attention_order)
    if "time_embedding.linear_1.weight" in names:
        raise InputError("these are the weights of a network of diffusers alone, allowed: its folder, in which config.json says "
                         "what they are")
    if any(".fn.fn.to_qkv." in name for name in names):
        return _predecessor(path, value, ema)
    if any(name.endswith("init_conv.weight") for name in names):
        return _lucidrains(path, value, ema)
    first = ", ".join(shown(name) for name in list(value)[:3])
    raise InputError(f"these are the weights of no network that is known here ({first or 'there are none'}), allowed: {KNOWN}")


def _ddim_checkpoint(path: Path, value: list[Any], ema: bool) -> Source:
    """[network, optimizer, epoch, step, average], the last of which is not always there."""
    chosen = value[-1 if ema else 0] if value else None
    if not is_state(chosen):
        raise InputError(f"the list holds no {'averaged ' if ema else ''}weights{' (--raw takes the others)' if ema else ''}, "
                         "allowed: a checkpoint of DDIM, [network, optimizer, epoch, step, average]")
    return _pytorch_diffusion(path, refused_if_strange(chosen, "it"), _step(value[3] if len(value) > 3 else 0))


def _pytorch_diffusion(path: Path, state: State, step: int = 0) -> Source:
    weights = ddpm_unet_from_pytorch_diffusion(state)
    model, channels = settings.of_ddpm_unet(weights, "pytorch_diffusion")
    recipe = {"model": model, "data": {"channels": channels}, "diffusion": {"objective": "pred_noise", **_learned(model)},
              "sampling": {"spacing": "leading"}}
    return Source("pytorch_diffusion", recipe, lambda _: weights, [path], step)


def _guided_diffusion(path: Path, state: State, order: str | None) -> Source:
    resizes = [int(found[1]) for name in state
               if (found := re.match(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers\.0)\.", name))]
    blocks = {found[1] for name in state if (found := re.match(r"output_blocks\.(\d+)\.", name))}
    count = max(1, min(resizes) if resizes else len(blocks) - 1)
    # As if in the new order, which moves nothing: shapes do not tell of heads.
    model, channels = settings.of_ddpm_unet(
        ddpm_unet_from_guided_diffusion(state, num_res_blocks=count, use_new_attention_order=True), "guided_diffusion")

    def weights(network: Any) -> State:
        heads = dict(num_heads=network.num_heads, num_head_channels=network.num_head_channels)
        if order is None and heads != {"num_heads": 1, "num_head_channels": None}:
            raise InputError("the order of queries, keys and values in its attention is not known, allowed: --attention-order "
                             "new, if it was trained with use_new_attention_order, else old")
        with _about(path):
            return ddpm_unet_from_guided_diffusion(state, num_res_blocks=count, use_new_attention_order=order == "new", **heads)

    recipe = {"model": model, "data": {"channels": channels}, "diffusion": _learned(model), "sampling": {"spacing": "both_ends"}}
    return Source("guided-diffusion", recipe, weights, [path], asked=(("model.num_heads", "model.num_head_channels"),))


def _lucidrains(path: Path, value: dict[str, Any], ema: bool) -> Source:
    state = chosen_state(value, ema)
    weights = unet_from_lucidrains(network_state(state, ema))
    model, channels = settings.of_unet(weights)
    recipe = {"model": model, "data": {"channels": channels}, "sampling": {"clip_x_start": True},
              "diffusion": {"variance": "fixed_small", **_learned(model), **process_of(state)}}
    notes = [f"model.sinusoidal_pos_emb_theta is taken as {10000.0:g}, their default: no file states it"]
    if model["time_embedding"] == "learned_fourier":
        notes = ["the frequencies of the embedding of the step are taken as learned ones; model.time_embedding=random_fourier "
                 "keeps them as they are in training"]
    return Source("denoising-diffusion-pytorch", recipe, lambda _: weights, [path], _step(value.get("step")), notes)


def _predecessor(path: Path, state: State, ema: bool) -> Source:
    weights = unet_from_mindspore(state, ema)
    model, channels = settings.of_unet(weights)
    recipe = {"model": model, "data": {"channels": channels}, "diffusion": {"variance": "fixed_small", **_learned(model)}}
    return Source("denoising-diffusion-mindspore", recipe, lambda _: weights, [path])


def _learned(model: dict[str, Any]) -> dict[str, Any]:
    """The variance of a network that learns it; of others it does not show."""
    return {"variance": "learned"} if model["learned_variance"] else {}


def _step(value: Any) -> int:
    """The step that a file states, if it is one that a checkpoint can have."""
    return value if type(value) is int and 0 <= value < 10**8 else 0
