"""Other projects' names of the DDPM network: each tensor to its place, and the order of queries, keys and values.

What diffusers calls them is held by tests/golden, with numbers.
"""

import itertools

import numpy as np
import pytest

from ddpm_ms.errors import InputError
from ddpm_ms.interop import ddpm_unet_from_diffusers, ddpm_unet_from_guided_diffusion, ddpm_unet_from_pytorch_diffusion

BLOCK = {"in_layers.0": ("norm1.norm", "norm1"), "in_layers.2": ("conv1", "conv1"), "emb_layers.1": ("time_proj", "temb_proj"),
         "out_layers.0": ("norm2.norm", "norm2"), "out_layers.3": ("conv2", "conv2"),
         "skip_connection": ("shortcut", "nin_shortcut")}
LEVELS, BLOCKS = 3, 2


def parts(attends):
    """Ours, in the order of computation: what stands together on the way down, beginning with conv_in, and on the way up."""
    down, up = [["conv_in"]], []
    for level in range(LEVELS):
        for j in range(BLOCKS):
            down.append([f"downs.{level}.blocks.{j}", *[f"downs.{level}.attns.{j}"] * attends[level]])
        for j in range(BLOCKS + 1):
            up.append([f"ups.{level}.blocks.{j}", *[f"ups.{level}.attns.{j}"] * attends[LEVELS - 1 - level]])
        if level < LEVELS - 1:
            down.append([f"downs.{level}.resize"])
            up[-1].append(f"ups.{level}.resize")
    return down, up


class Names(dict):
    """Their names to ours."""

    def add(self, theirs, ours):
        for their_leaf, leaf in zip(("weight", "bias"), ("gamma", "beta") if ours.endswith("norm") else ("weight", "bias")):
            self[f"{theirs}.{their_leaf}"] = f"{ours}.{leaf}"

    def add_all(self, theirs, ours, inside):
        for there, here in inside.items():
            self.add(f"{theirs}.{there}", f"{ours}.{here}")


def guided(attends, updown):
    """guided-diffusion's names to ours, counted as its constructor counts."""
    names, (down, up) = Names(), parts(attends)

    def inside(ours):
        if "attn" in ours:
            return {"norm": "norm.norm", "qkv": "to_qkv", "proj_out": "to_out"}
        if "resize" in ours and not updown:
            return {"op" if "downs" in ours else "conv": "conv"}
        return {there: here for there, (here, _) in BLOCK.items()}

    names.add_all("time_embed", "time_emb", {"0": "1", "2": "3"})
    for theirs, ours in (("out.0", "norm_out.norm"), ("out.2", "conv_out"), ("input_blocks.0.0", "conv_in")):
        names.add(theirs, ours)
    names["label_emb.weight"] = "class_emb.embedding_table"
    for number, ours in enumerate(("mid_block1", "mid_attn", "mid_block2")):
        names.add_all(f"middle_block.{number}", ours, inside(ours))
    for way, entries, first in (("input_blocks", down[1:], 1), ("output_blocks", up, 0)):
        for number, entry in enumerate(entries, first):
            for place, ours in enumerate(entry):
                names.add_all(f"{way}.{number}.{place}", ours, inside(ours))
    return names


def pytorch_diffusion(attends):
    """pytorch_diffusion's names to ours; it puts each new level of the way up before the others."""
    names, (down, up) = Names(), parts(attends)
    kinds = {"blocks": "block", "attns": "attn"}

    def inside(ours):
        if "attn" in ours:
            return {"norm": "norm.norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out"}
        return {"conv": "conv"} if "resize" in ours else {there: here for here, there in BLOCK.values()}

    names.add_all("temb.dense", "time_emb", {"0": "1", "1": "3"})
    for theirs, ours in (("norm_out", "norm_out.norm"), ("conv_out", "conv_out"), ("conv_in", "conv_in")):
        names.add(theirs, ours)
    for theirs, ours in (("mid.block_1", "mid_block1"), ("mid.attn_1", "mid_attn"), ("mid.block_2", "mid_block2")):
        names.add_all(theirs, ours, inside(ours))
    for ours in itertools.chain(*down[1:], *up):
        way, level, kind, *number = ours.split(".")
        level = LEVELS - 1 - int(level) if way == "ups" else level
        there = ".".join([kinds[kind], *number]) if number else {"ups": "upsample", "downs": "downsample"}[way]
        names.add_all(f"{way[:-1]}.{level}.{there}", ours, inside(ours))
    return names


@pytest.mark.parametrize("updown", [False, True])
@pytest.mark.parametrize("attends", [(False, True, True), (False, False, False), (True, False, True)])
def test_guided_diffusion_is_read_as_it_counts(attends, updown):
    names = guided(attends, updown)
    state = {name: np.full((12, 4, 1)[:3 if "weight" in name else 1], k) for k, name in enumerate(names, 1)}
    ours = ddpm_unet_from_guided_diffusion(state, num_res_blocks=BLOCKS, use_new_attention_order=True)
    assert {name: int(array.flat[0]) for name, array in ours.items()} == {ours: k for k, ours in enumerate(names.values(), 1)}
    table = ours["class_emb.embedding_table"]
    assert len(table) == 13 and not table[-1].any()  # "no class"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("attends", [(False, True, True), (False, False, False)])
def test_pytorch_diffusion_is_read_from_its_finest_level(attends, prefix):
    names = pytorch_diffusion(attends)
    assert names["up.0.block.2.conv1.weight"] == "ups.2.blocks.2.conv1.weight"
    state = {prefix + name: np.full((4, 4, 1, 1)[:4 if "weight" in name else 1], k) for k, name in enumerate(names, 1)}
    ours = ddpm_unet_from_pytorch_diffusion(state)
    expected = {ours: k for k, ours in enumerate(names.values(), 1)}
    for name, array in ours.items():
        pieces = [expected.pop(name.replace("to_qkv", part)) for part in ("to_q", "to_k", "to_v")] if "to_qkv" in name else [
            expected.pop(name)]
        np.testing.assert_array_equal(np.unique(array), sorted(pieces))
        assert [int(piece.flat[0]) for piece in np.split(array, len(pieces))] == pieces
    assert not expected


@pytest.mark.parametrize(("heads", "keywords"), [(2, {"num_heads": 2}), (3, {"num_head_channels": 4}), (1, {})])
def test_the_older_order_has_queries_keys_and_values_within_each_head(heads, keywords):
    random = np.random.default_rng(0)
    state = {f"input_blocks.{n}.0.in_layers.2.bias": np.zeros(12) for n in (1, 2)}
    state["middle_block.1.qkv.weight"] = theirs = random.standard_normal((36, 12, 1))
    state["middle_block.1.qkv.bias"] = bias = random.standard_normal(36)
    ours = ddpm_unet_from_guided_diffusion(state, num_res_blocks=1, **keywords)
    weight = ours["mid_attn.to_qkv.weight"]
    assert weight.shape == (36, 12, 1, 1)
    np.testing.assert_array_equal(weight.reshape(3, heads, -1, 12), theirs.reshape(heads, 3, -1, 12).swapaxes(0, 1))
    np.testing.assert_array_equal(ours["mid_attn.to_qkv.bias"].reshape(3, heads, -1), bias.reshape(heads, 3, -1).swapaxes(0, 1))
    new = ddpm_unet_from_guided_diffusion(state, num_res_blocks=1, use_new_attention_order=True, **keywords)
    np.testing.assert_array_equal(new["mid_attn.to_qkv.weight"], theirs[..., None])


@pytest.mark.parametrize(("read", "state", "message"), [
    (ddpm_unet_from_diffusers, {"conv_in.weight": 6, "down_blocks.0.motion.0.weight": 6},
     r"the weights have 'down_blocks.0.motion.0.weight', allowed: the names of a DDPM network alone \(1 of 2 are none\)"),
    (ddpm_unet_from_diffusers, {"down_blocks.99999999999.resnets.0.conv1.weight": 6}, r"99999999999.*\(1 of 1 are none\)"),
    (ddpm_unet_from_diffusers, {"mid_block.attentions.0.to_q.bias": 6, "mid_block.attentions.0.to_v.bias": 6},
     r"the weights lack 'mid_attn.to_k.bias', allowed with 'mid_attn.to_q.bias': query, key and value"),
    (lambda state: ddpm_unet_from_guided_diffusion(state, num_res_blocks=1, num_heads=5), {"middle_block.1.qkv.bias": 6},
     "an attention has 6 rows for 5 heads, allowed: as many queries, keys and values for each"),
    (lambda state: ddpm_unet_from_guided_diffusion(state, num_res_blocks=1), {"middle_block.1.qkv.bias": 5}, "has 5 rows for 1"),
    (ddpm_unet_from_diffusers, {"mid_block.attentions.0.to_q.bias": 3, "mid_block.attentions.0.to_k.bias": 4,
                                "mid_block.attentions.0.to_v.bias": 3},
     r"'mid_attn.to_k.bias' has the shape \(4,\), allowed: that of 'mid_attn.to_q.bias', \(3,\)"),
    (ddpm_unet_from_diffusers, {"conv_in.bias": ()}, "the weight 'conv_in.bias' is a single number, allowed: an array"),
])
def test_strange_weights_are_refused_in_one_line(read, state, message):
    with pytest.raises(InputError, match=message) as error:
        read({name: np.zeros(shape) for name, shape in state.items()})
    assert "\n" not in str(error.value)
