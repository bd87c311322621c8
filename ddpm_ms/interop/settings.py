"""What the names and shapes of weights tell of their network, in keys of a recipe.

Names are this package's. What does not show in a shape, but is the same in all networks of a project, stands in `FIXED`.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

import numpy as np

from ddpm_ms.errors import InputError

State = Mapping[str, np.ndarray]
FIXED: Mapping[str, Mapping[str, Any]] = {
    "pytorch_diffusion": dict(num_heads=1, downsample_padding="after", time_embedding="sin_cos", norm_groups=32, norm_eps=1e-6),
    "guided_diffusion": dict(downsample_padding="around", time_embedding="cos_sin", norm_groups=32, norm_eps=1e-5),
}


def of_ddpm_unet(state: State, project: str) -> tuple[dict[str, Any], int]:
    """The section of a `ddpm_ms.DDPMUnet`, as far as it shows, and the channels of its images.

    Raises:
        InputError: a weight that every such network has is missing, or its shape is none.
    """
    levels = _count(r"downs\.(\d+)\.", state)
    dim, ins = _shape(state, "conv_in.weight", 4)[:2]
    widths = [_shape(state, f"downs.{i}.blocks.0.conv1.weight", 4)[0] for i in range(levels)]
    channels, self_condition, learned_variance = _images(ins, _shape(state, "conv_out.weight", 4)[0])
    settings = dict(
        FIXED[project], name="ddpm_unet", dim=dim, dim_mults=_multiples(dim, widths),
        num_res_blocks=_count(r"downs\.0\.blocks\.(\d+)\.", state),
        attention_levels=[f"downs.{i}.attns.0.to_qkv.weight" in state for i in range(levels)],
        use_scale_shift_norm=_shape(state, "mid_block1.time_proj.weight", 2)[0] == 2 * widths[-1],
        resblock_updown="downs.0.resize.conv1.weight" in state, self_condition=self_condition, learned_variance=learned_variance,
        num_classes=_shape(state, "class_emb.embedding_table", 2)[0] - 1 if "class_emb.embedding_table" in state else None)
    return settings, channels


def of_unet(state: State) -> tuple[dict[str, Any], int]:
    """The same of a `ddpm_ms.Unet` of either ``block``."""
    levels, kind = _count(r"downs\.(\d+)\.", state), "rms" if "mid_attn.mem_kv" in state else "group"
    dim = _shape(state, "time_mlp.1.weight", 2)[0] // 4
    init_dim, ins = _shape(state, "init_conv.weight", 4)[:2]
    outs = _shape(state, "final_conv.weight", 4)[0]
    channels, self_condition, learned_variance = _images(ins, outs)
    heads = [_heads(state, f"downs.{i}.attn", kind) for i in range(levels)]
    fourier = "time_mlp.0.weights" in state
    settings = dict(
        name="unet", block=kind, dim=dim, init_dim=None if init_dim == dim else init_dim,
        dim_mults=_multiples(dim, [_shape(state, f"downs.{i}.resize{_inner(state, i)}.weight", 4)[0] for i in range(levels)]),
        full_attn=[full for full, *_ in heads], attn_heads=[count for _, count, _ in heads],
        attn_dim_head=[width for *_, width in heads], self_condition=self_condition, learned_variance=learned_variance,
        time_embedding="learned_fourier" if fourier else "sinusoidal", num_classes=None)
    if fourier:
        settings["fourier_dim"] = 2 * _shape(state, "time_mlp.0.weights", 2)[1]
    return settings, channels


def _inner(state: State, level: int) -> str:
    return ".conv" if f"downs.{level}.resize.conv.weight" in state else ""


def _heads(state: State, name: str, kind: str) -> tuple[bool, int, int]:
    """Whether it is full attention, how many heads it has, and how wide they are."""
    full = f"{name}.out_norm.g" not in state
    if kind == "group":  # the first version had no choice
        return full, 4, 32
    _, heads, first, second = _shape(state, f"{name}.mem_kv", 4)
    return full, heads, second if full else first


def _images(ins: int, outs: int) -> tuple[int, bool, bool]:
    """Channels of the images, self-conditioning and learned variance of a network of so many inputs and outputs. Of images of 1,
    3 or 4 channels no two cases have the same."""
    for channels in (1, 3, 4):
        for self_condition in (False, True):
            for learned in (False, True):
                if (ins, outs) == (channels * (1 + self_condition), channels * (1 + learned)):
                    return channels, self_condition, learned
    raise InputError(f"the network has {ins} inputs and {outs} outputs, allowed: 1, 3 or 4 of each, or twice as many")


def _multiples(dim: int, widths: list[int]) -> list[int]:
    bad = [width for width in widths if not dim or width % dim]
    if bad or not widths:
        raise InputError(f"the network has levels of widths {', '.join(map(str, widths))}, allowed: multiples of {dim}")
    return [width // dim for width in widths]


def _shape(state: State, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise InputError(f"the weights lack {name!r}")
    if state[name].ndim != dimensions:
        raise InputError(f"the weight {name!r} has the shape {state[name].shape}, allowed: {dimensions} dimensions")
    return state[name].shape


def _count(pattern: str, state: State) -> int:
    return len({found[1] for found in (re.match(pattern, name) for name in state) if found})
