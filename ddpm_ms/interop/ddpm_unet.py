"""Weights of the DDPM network under the names and shapes of `ddpm_ms.DDPMUnet`.

Three projects spell the same network differently: diffusers (``UNet2DModel``), pytorch_diffusion (``Model``, as in the code of
DDPM's port and of DDIM) and guided-diffusion (``UNetModel``, as in P2-weighting). They differ in names, in which of query, key
and value share a tensor and in what order, and in axes of length 1. Nothing is computed here, only named and moved.
"""

from __future__ import annotations

import re
from typing import Iterator, Mapping, Tuple

import numpy as np

from ddpm_ms.errors import InputError

State = Mapping[str, np.ndarray]
Row = Tuple[str, ...]  # four names of one thing: here, in diffusers, in pytorch_diffusion, in guided-diffusion
PROJECTS = ("diffusers", "pytorch_diffusion", "guided_diffusion")

_ENDS = (
    ("time_emb.1", "time_embedding.linear_1", "temb.dense.0", "time_embed.0"),
    ("time_emb.3", "time_embedding.linear_2", "temb.dense.1", "time_embed.2"),
    ("class_emb", "class_embedding", "class_emb", "label_emb"),
    ("conv_in", "conv_in", "conv_in", "input_blocks.0.0"),
    ("norm_out.norm", "conv_norm_out", "norm_out", "out.0"),
    ("conv_out", "conv_out", "conv_out", "out.2"),
)
_BLOCK = (
    ("norm1.norm", "norm1", "norm1", "in_layers.0"),
    ("conv1", "conv1", "conv1", "in_layers.2"),
    ("time_proj", "time_emb_proj", "temb_proj", "emb_layers.1"),
    ("norm2.norm", "norm2", "norm2", "out_layers.0"),
    ("conv2", "conv2", "conv2", "out_layers.3"),
    ("shortcut", "conv_shortcut", "nin_shortcut", "skip_connection"),
)
# to_q, to_k and to_v are joined to to_qkv afterwards.
_ATTENTION = (
    ("norm.norm", "group_norm", "norm", "norm"),
    ("to_q", "to_q", "q", "q"),
    ("to_k", "to_k", "k", "k"),
    ("to_v", "to_v", "v", "v"),
    ("to_qkv", "to_qkv", "qkv", "qkv"),
    ("to_out", "to_out.0", "proj_out", "proj_out"),
)
_DOWN = (("conv", "conv", "conv", "op"), *_BLOCK)  # a convolution, or a residual block that changes the size
_UP = (("conv", "conv", "conv", "conv"), *_BLOCK)
# diffusers before its version 0.15.
_OLD_DIFFUSERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def ddpm_unet_from_diffusers(state: State) -> dict[str, np.ndarray]:
    """The weights of a ``UNet2DModel``, whose attentions may have the names of old versions or of new ones.

    Raises:
        InputError: a name is none of that network's, or one of query, key and value is missing.
    """
    old = re.compile(r"\.({})\.(weight|bias)$".format("|".join(_OLD_DIFFUSERS)))
    state = _unlike({name: old.sub(lambda found: f".{_OLD_DIFFUSERS[found[1]]}.{found[2]}", name) for name in state}, state)
    levels, blocks = _count(r"down_blocks\.(\d+)\.", state), _count(r"down_blocks\.0\.resnets\.(\d+)\.", state)
    return _arranged(_renamed(state, ddpm_unet_names("diffusers", levels, blocks)))


def ddpm_unet_from_pytorch_diffusion(state: State) -> dict[str, np.ndarray]:
    """The weights of a ``Model`` of pytorch_diffusion or DDIM, whose names may begin with ``module.``.

    Raises:
        InputError: as `ddpm_unet_from_diffusers`.
    """
    state = _unlike({name: re.sub(r"^module\.", "", name) for name in state}, state)
    levels, blocks = _count(r"down\.(\d+)\.", state), _count(r"down\.0\.block\.(\d+)\.", state)
    return _arranged(_renamed(state, ddpm_unet_names("pytorch_diffusion", levels, blocks)))


def ddpm_unet_from_guided_diffusion(state: State, *, num_res_blocks: int, num_heads: int = 1,
                                    num_head_channels: int | None = None,
                                    use_new_attention_order: bool = False) -> dict[str, np.ndarray]:
    """The weights of a ``UNetModel``; the keywords are those that it was built with, because its names do not tell them.

    Raises:
        InputError: a name is none of that network's, or the heads do not divide the widths.
    """
    levels = _count(r"input_blocks\.(\d+)\.", state) // (num_res_blocks + 1)
    ours = _renamed(state, ddpm_unet_names("guided_diffusion", levels, num_res_blocks))
    if not use_new_attention_order:
        for name in [name for name in ours if ".to_qkv." in name]:
            ours[name] = ours[name][_queries_keys_values(len(ours[name]), num_heads, num_head_channels)]
    return _arranged(ours)


def ddpm_unet_names(project: str, levels: int, num_res_blocks: int) -> dict[str, str]:
    """Every name that a network of so many levels and blocks can have in a project (one of `PROJECTS`), and ours for it.

    Where query, key and value have tensors of their own, theirs lead to ``to_q``, ``to_k`` and ``to_v``, parts of ``to_qkv``.
    """
    column, names = 1 + PROJECTS.index(project), {}
    for row in _rows(levels, num_res_blocks):
        for leaf in ("weight", "bias"):
            ours = {"weight": "gamma", "bias": "beta"}[leaf] if row[0].endswith(".norm") else leaf
            names[f"{row[column]}.{leaf}"] = f"{row[0]}.{'embedding_table' if row[0] == 'class_emb' else ours}"
    return names


def _rows(levels: int, n: int) -> Iterator[Row]:
    """The names of every layer that can be there. In guided-diffusion the number of what follows a block depends on what there
    is."""
    yield from _ENDS
    yield from _inside(("mid_block1", "mid_block.resnets.0", "mid.block_1", "middle_block.0"), _BLOCK)
    yield from _inside(("mid_attn", "mid_block.attentions.0", "mid.attn_1", "middle_block.1"), _ATTENTION)
    yield from _inside(("mid_block2", "mid_block.resnets.1", "mid.block_2", "middle_block.2"), _BLOCK)
    for i in range(levels):
        for j in range(n):
            block = f"input_blocks.{1 + i * (n + 1) + j}"
            yield from _inside((f"downs.{i}.blocks.{j}", f"down_blocks.{i}.resnets.{j}", f"down.{i}.block.{j}", f"{block}.0"),
                               _BLOCK)
            yield from _inside((f"downs.{i}.attns.{j}", f"down_blocks.{i}.attentions.{j}", f"down.{i}.attn.{j}", f"{block}.1"),
                               _ATTENTION)
        yield from _inside((f"downs.{i}.resize", f"down_blocks.{i}.downsamplers.0", f"down.{i}.downsample",
                            f"input_blocks.{(i + 1) * (n + 1)}.0"), _DOWN)
        up = f"up.{levels - 1 - i}"  # pytorch_diffusion counts from the finest level, whatever the order of computation
        for j in range(n + 1):
            block = f"output_blocks.{i * (n + 1) + j}"
            yield from _inside((f"ups.{i}.blocks.{j}", f"up_blocks.{i}.resnets.{j}", f"{up}.block.{j}", f"{block}.0"), _BLOCK)
            yield from _inside((f"ups.{i}.attns.{j}", f"up_blocks.{i}.attentions.{j}", f"{up}.attn.{j}", f"{block}.1"),
                               _ATTENTION)
        for place in (1, 2):
            yield from _inside((f"ups.{i}.resize", f"up_blocks.{i}.upsamplers.0", f"{up}.upsample",
                                f"output_blocks.{i * (n + 1) + n}.{place}"), _UP)


def _inside(part: Row, layers: tuple[Row, ...]) -> Iterator[Row]:
    for layer in layers:
        yield tuple(f"{outer}.{inner}" for outer, inner in zip(part, layer))


def _count(pattern: str, state: State) -> int:
    """How many different numbers the pattern finds."""
    return len({found[1] for found in (re.match(pattern, name) for name in state) if found})


def _renamed(state: State, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    strange = [name for name in state if name not in names]
    if strange:
        raise InputError(f"the weights have {strange[0]!r}, allowed: the names of a DDPM network alone "
                         f"({len(strange)} of {len(state)} are none)")
    for name, array in state.items():
        if not np.shape(array):
            raise InputError(f"the weight {name!r} is a single number, allowed: an array")
    return _unlike({name: names[name] for name in state}, {name: np.asarray(array) for name, array in state.items()})


def _unlike(names: Mapping[str, str], state: State) -> dict[str, np.ndarray]:
    """``state`` under other ``names``, which must not make two of its names one."""
    renamed: dict[str, str] = {}
    for name, other in names.items():
        if renamed.setdefault(other, name) != name:
            raise InputError(f"the weights have {renamed[other]!r} and {name!r}, two names of one thing, allowed: one of them")
    return {other: state[name] for other, name in renamed.items()}


def _arranged(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``state`` with query, key and value in one, 1x1 convolutions as such, and a class more, which adds nothing: "no class"."""
    arranged = {}
    for name, array in state.items():
        joint = re.sub(r"\.to_[qkv]\.", ".to_qkv.", name)
        if joint != name and joint in state:
            raise InputError(f"the weights have {joint!r} and {name!r}, which is a part of it, allowed: one or the other")
        if joint != name:
            arranged[joint] = _joined(state, name)
        elif name == "class_emb.embedding_table":
            arranged[name] = np.concatenate([array, np.zeros_like(array[:1])])
        else:
            arranged[name] = array
    return {name: _as_convolution(array) if re.search(r"\.to_(qkv|out)\.weight$", name) else array
            for name, array in arranged.items()}


def _joined(state: State, name: str) -> np.ndarray:
    """Query, key and value, of which ``name`` is one."""
    names = [re.sub(r"\.to_[qkv]\.", f".to_{part}.", name) for part in "qkv"]
    for wanted in names:
        if wanted not in state:
            raise InputError(f"the weights lack {wanted!r}, allowed with {name!r}: query, key and value")
        if state[wanted].shape != state[name].shape:
            raise InputError(f"{wanted!r} has the shape {state[wanted].shape}, allowed: that of {name!r}, {state[name].shape}")
    return np.concatenate([state[wanted] for wanted in names])


def _as_convolution(matrix: np.ndarray) -> np.ndarray:
    """(M, N) and (M, N, 1) as (M, N, 1, 1); what is neither stays, to be refused by the network."""
    return matrix.reshape(*matrix.shape[:2], 1, 1) if matrix.ndim in (2, 3) and set(matrix.shape[2:]) <= {1} else matrix


def _queries_keys_values(rows: int, num_heads: int, num_head_channels: int | None) -> np.ndarray:
    """Where the rows of all queries, all keys and all values stand in a tensor that has the three of the first head first."""
    width = rows // 3
    heads = width // num_head_channels if num_head_channels else num_heads
    if rows % 3 or heads < 1 or width % heads:
        raise InputError(f"an attention has {rows} rows for {heads} heads, allowed: as many queries, keys and values for each")
    return np.arange(rows).reshape(heads, 3, -1).transpose(1, 0, 2).ravel()
