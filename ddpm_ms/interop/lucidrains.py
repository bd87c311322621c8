"""Weights of denoising-diffusion-pytorch's ``Unet`` (2.x) under the names and shapes of `ddpm_ms.Unet`."""

from __future__ import annotations

import re

import numpy as np

from ddpm_ms.errors import InputError, shown

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


# Where a network's arrays are in the ``state_dict()`` of an EMA of a process, of a process, and of the network itself.
_PREFIXES = ("ema_model.model.", "model.", "")


def unet_from_lucidrains(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename and reshape the arrays of a ``Unet.state_dict()`` so that `ddpm_ms.Unet` of the same keywords takes them.

    The state may also be that of a ``GaussianDiffusion`` or of the ``EMA`` of one: what `Trainer` saves as "model" and "ema".
    Of an EMA the averaged weights are taken.

    Raises:
        InputError: it holds no such network.
    """
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}init_conv.weight" in state), None)
    if prefix is None:
        raise InputError(f"the state has {shown(sorted(state)[:3])} and more, allowed: that of a Unet, of a GaussianDiffusion "
                         "around it or of an EMA of that, with init_conv.weight")
    renamed = {}
    for name, array in ((name[len(prefix):], array) for name, array in state.items() if name.startswith(prefix)):
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        if re.match(r"downs\.\d+\.resize\.conv\.weight", name):
            # Theirs: a 1x1 convolution over (c p1 p2) channels; ours: the 2x2 convolution of stride 2 it equals.
            array = array.reshape(array.shape[0], -1, 2, 2)
        elif name == "time_mlp.0.weights":
            array = array.reshape(1, -1)
        renamed[name] = array
    return renamed
