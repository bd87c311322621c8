"""Writes what torch.save writes, and saves networks of ours under the names of other projects."""

import struct
import zipfile

import numpy as np

from ddpm_ms import DDPMUnet
from ddpm_ms.interop import ddpm_unet_names

_KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


def save_torch(path, value):
    """``value``, made of dicts, lists, numbers, texts and arrays, as a zip file of torch.save with tensors for arrays."""
    storages = []
    pickle = b"\x80\x02" + _pickled(value, storages) + b"."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(storages):
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


def _pickled(value, storages):
    if isinstance(value, np.ndarray):
        storages.append(np.ascontiguousarray(value))
        key = str(len(storages) - 1)
        storage = b"(" + _text("storage") + b"ctorch\n" + _KINDS[str(value.dtype)].encode() + b"\n" + _text(key) + _text(
            "cpu") + _number(value.size) + b"tQ"
        strides = [stride // value.itemsize for stride in storages[-1].strides]
        return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(0) + _numbers(value.shape) + _numbers(strides)
                + b"\x89ccollections\nOrderedDict\n)RtR")
    if isinstance(value, dict):
        return b"}" + b"".join(_pickled(key, storages) + _pickled(item, storages) + b"s" for key, item in value.items())
    if isinstance(value, list):
        return b"]" + b"".join(_pickled(item, storages) + b"a" for item in value)
    return _text(value) if isinstance(value, str) else _number(value)


def _text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _number(value):
    return b"J" + struct.pack("<i", value)


def _numbers(values):
    return b"(" + b"".join(map(_number, values)) + b"t"


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
