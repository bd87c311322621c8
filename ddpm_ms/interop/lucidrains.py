"""Weights of denoising-diffusion-pytorch's ``Unet`` (2.x) under the names and shapes of `ddpm_ms.Unet`."""

from __future__ import annotations

import re

import numpy as np

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


def unet_from_lucidrains(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename and reshape the arrays of a ``Unet.state_dict()`` so that `ddpm_ms.Unet` of the same keywords takes them."""
    renamed = {}
    for name, array in state.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        if re.match(r"downs\.\d+\.resize\.conv\.weight", name):
            # Theirs: a 1x1 convolution over (c p1 p2) channels; ours: the 2x2 convolution of stride 2 it equals.
            array = array.reshape(array.shape[0], -1, 2, 2)
        elif name == "time_mlp.0.weights":
            array = array.reshape(1, -1)
        renamed[name] = array
    return renamed
