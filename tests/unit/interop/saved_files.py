"""Writes what torch.save writes, and saves networks of ours under the names of other projects."""

import numpy as np
from torch_writer import torch_file

from ddpm_ms import DDPMUnet
from ddpm_ms.interop import ddpm_unet_names


def save_torch(path, value):
    """``value``, made of dicts, lists, numbers, texts and arrays, as a zip file of torch.save with tensors for arrays."""
    path.write_bytes(torch_file(value))
    return path


def random_weights(model, seed=0):
    """Name to array of every weight of a network; the class that means no class adds nothing."""
    random = np.random.default_rng(seed)
    weights = {name: random.standard_normal(parameter.shape).astype(np.float32) * 0.1
               for name, parameter in model.parameters_and_names()}
    if "class_emb.embedding_table" in weights:
        weights["class_emb.embedding_table"][-1] = 0
    return weights


def ddpm_network(**changes):
    """A small DDPMUnet whose widths 32 groups divide."""
    return DDPMUnet(**{**dict(dim=32, dim_mults=(1, 2), num_res_blocks=1, attention_levels=(False, True)), **changes})


def as_project(project, weights, levels=2, num_res_blocks=1):
    """The weights of a DDPMUnet as pytorch_diffusion or guided_diffusion (in its new order of attention) saves them."""
    parts = {}
    for name, array in weights.items():
        if ".to_qkv." in name and project != "guided_diffusion":
            parts.update({name.replace("to_qkv", f"to_{part}"): third for part, third in zip("qkv", np.split(array, 3))})
        else:
            parts[name] = array[:-1] if name.startswith("class_emb") else array
    if project == "guided_diffusion":  # convolutions in one dimension
        parts = {name: array[..., 0] if ".to_" in name and array.ndim == 4 else array for name, array in parts.items()}
    names = {}
    for theirs, ours in ddpm_unet_names(project, levels, num_res_blocks).items():
        names.setdefault(ours, theirs)
    attends = {int(name.split(".")[1]) for name in weights if name.startswith("ups") and ".attns." in name}
    saved = {names[ours]: array for ours, array in parts.items()}
    if project == "guided_diffusion":  # what changes the size stands behind the attention, if there is any
        for level in attends:
            n = level * (num_res_blocks + 1) + num_res_blocks
            saved = {name.replace(f"output_blocks.{n}.1.conv", f"output_blocks.{n}.2.conv"): array
                     for name, array in saved.items()}
    return saved
