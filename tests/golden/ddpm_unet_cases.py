"""What make_diffusers_unet.py and test_golden_ddpm_unet.py share: the networks, and numbers that both can make again."""

import hashlib

import numpy as np

_PLAIN = dict(norm_num_groups=4, norm_eps=1e-6, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1)
_NEW = dict(norm_num_groups=4, norm_eps=1e-5, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0)
_OURS = dict(norm_groups=4)
# Name: (keywords of UNet2DModel, ours, (height, width)). What is absent has the default of the class: heads of width 8.
CASES = {
    "cifar10": (  # the form of google/ddpm-cifar10-32
        dict(_PLAIN, block_out_channels=(8, 16, 16, 16), attention_head_dim=None,
             down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
             up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
        dict(_OURS, dim=8, dim_mults=(1, 2, 2, 2), attention_levels=(False, True, False, False)), (16, 16)),
    "cat256": (  # of google/ddpm-cat-256
        dict(_PLAIN, block_out_channels=(8, 8, 16, 16, 32, 32), attention_head_dim=None,
             down_block_types=(*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
             up_block_types=("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4)),
        dict(_OURS, dim=8, dim_mults=(1, 1, 2, 2, 4, 4), attention_levels=(False, False, False, False, True, False)), (64, 64)),
    "training_script": (
        dict(_NEW, block_out_channels=(8, 16), layers_per_block=1, down_block_types=("AttnDownBlock2D",) * 2,
             up_block_types=("AttnUpBlock2D",) * 2),
        dict(_OURS, dim=8, dim_mults=(1, 2), num_res_blocks=1, attention_levels=True, num_head_channels=8, norm_eps=1e-5,
             downsample_padding="around", time_embedding="cos_sin"), (8, 12)),
    "adm": (
        dict(_NEW, block_out_channels=(8, 16, 24), layers_per_block=2, attention_head_dim=4, attn_norm_num_groups=4,
             down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
             up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
             downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift", num_class_embeds=3,
             out_channels=6),
        dict(_OURS, dim=8, dim_mults=(1, 2, 3), attention_levels=(False, True, False), num_head_channels=4, norm_eps=1e-5,
             use_scale_shift_norm=True, resblock_updown=True, time_embedding="cos_sin", num_classes=3, learned_variance=True),
        (8, 8)),
}
TIMES = (3, 950)
CLASSES = (2, 0)
PROJECTIONS = 4


def numbers(name: str, shape: tuple) -> np.ndarray:
    """Uniform in [-1, 1), the same for the same name."""
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")))
    return random.random(shape) * 2 - 1


def weight(name: str, shape: tuple) -> np.ndarray:
    """A weight that keeps the scale of what passes through it; gains near 1."""
    if len(shape) > 1:
        return numbers(name, shape) * (3 / np.prod(shape[1:])) ** 0.5
    return 0.3 * numbers(name, shape) + ("norm" in name and name.endswith("weight"))


def projections(name: str, shape: tuple) -> np.ndarray:
    """`PROJECTIONS` directions in which a gradient of this shape is measured, (PROJECTIONS, *shape)."""
    return numbers(f"{name}?", (PROJECTIONS, *shape))
