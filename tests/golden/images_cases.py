"""What the make_*_images.py and test_golden_images.py share: networks of random weights that draw images, and noise to feed.

A network of random weights alone predicts noise that is none, and every image that is drawn with it is black and white.
`carrying` gives it a way along which x reaches the output, so that it is a poor denoiser, and its images are grey.
"""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

_spec = importlib.util.spec_from_file_location("rng", Path(__file__).parents[2] / "ddpm_ms" / "rng.py")
rng = importlib.util.module_from_spec(_spec)  # NumPy is all that it needs
_spec.loader.exec_module(rng)

SEED, COUNT = 0, 3  # of the images: fed with our noise, theirs are those that our sampler draws from this seed


def noise(shape, first=0):
    """What our sampler adds to `COUNT` images of ``shape``: the image that it begins with, then one for each transition."""
    transition = first
    while True:
        yield rng.normal(SEED, "sample", transition, range(COUNT), shape)
        transition += 1


def weight(name, shape):
    """float32, a function of the name; keeps the scale of what passes through it. Gains are near 1."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")
    uniform = np.random.Generator(np.random.Philox(key=key)).random(shape) * 2 - 1
    if len(shape) > 1 and not name.endswith(".g"):
        return np.float32(uniform * (3 / np.prod(shape[1:])) ** 0.5)
    return np.float32(0.3 * uniform + name.endswith((".g", ".weight")))


def weights(shapes, salt=""):
    """Of a network whose state dict has these names and shapes."""
    return {name: weight(salt + name, shape) for name, shape in shapes.items()}


def carrying(state, first, shortcut, branch, norm, last, channels=3, gain=1.1, rest=0.2):
    """``state`` changed so that the output is about ``gain`` * x and, ``rest`` as large as it would be, what the network says.

    The last group norm has at least four channels in a group: each channel of x shares one with -x and two constants, which are
    large, so that the norm divides x by about 2, whatever x is. And silu(x) - silu(-x) = x.

    Args:
        state: of a DDPM network.
        first, shortcut, branch, norm, last: the names of the first convolution; in the last residual block, which takes in what
            that convolution gave, the shortcut and the second convolution; the last norm and the last convolution.
        channels: of x.
    """
    state = {name: array.copy() for name, array in state.items()}
    width = len(state[f"{first}.bias"])
    state[f"{last}.weight"] *= rest
    state[f"{last}.bias"] *= rest
    for channel in range(channels):
        group = slice(4 * channel, 4 * channel + 4)
        for name in (first, shortcut, branch):
            state[f"{name}.weight"][group] = state[f"{name}.bias"][group] = 0
        state[f"{shortcut}.bias"][group] = 0, 0, 3, -3
        state[f"{norm}.weight"][group], state[f"{norm}.bias"][group] = 1, 0
        for x, sign in zip(range(group.start, group.stop), (1, -1)):
            state[f"{first}.weight"][x, channel, 1, 1] = sign
            state[f"{shortcut}.weight"][x, x - width] = 1
            state[f"{last}.weight"][channel, x, 1, 1] += 2.2 * sign * gain
    return state


def described(shapes):
    """Names and shapes as arrays of texts, for a file."""
    return {"names": np.array(list(shapes)), "shapes": np.array([" ".join(map(str, shape)) for shape in shapes.values()])}


def shapes_of(golden, case):
    """Name to shape, from the file."""
    return {name: tuple(map(int, shape.split())) for name, shape in
            zip(golden[f"{case}.names"].tolist(), golden[f"{case}.shapes"].tolist())}


def check(name, images):
    """Say how the images look, and that they are worth comparing."""
    inside = float(((images > 0.01) & (images < 0.99)).mean())
    print(f"{name:32} {images.shape} mean {images.mean():.3f} deviation {images.std():.3f} inside {inside:.2f}")
    assert images.shape[0] == COUNT and inside > 0.6 and 0.05 < images.std() < 0.4


# diffusers

_UNET = dict(sample_size=8, in_channels=3, layers_per_block=1)
UNETS = {
    "ddpm": dict(_UNET, out_channels=3, block_out_channels=(16, 32), norm_num_groups=4, norm_eps=1e-6, attention_head_dim=None,
                 down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                 downsample_padding=0, flip_sin_to_cos=False, freq_shift=1),
    # The network of guided-diffusion below, so that the test compiles one for both.
    "adm": dict(_UNET, out_channels=6, block_out_channels=(128, 128), norm_num_groups=32, attn_norm_num_groups=32,
                attention_head_dim=64, down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"), downsample_type="resnet", upsample_type="resnet",
                resnet_time_scale_shift="scale_shift", num_class_embeds=3),
}
DIFFUSERS_PATH = dict(first="conv_in", shortcut="up_blocks.1.resnets.1.conv_shortcut", branch="up_blocks.1.resnets.1.conv2",
                      norm="conv_norm_out", last="conv_out")
# Name: (the network, the class of the scheduler, its settings, steps)
SCHEDULES = {
    "fixed_small": ("ddpm", "DDPMScheduler", dict(variance_type="fixed_small"), 50),
    "fixed_large": ("ddpm", "DDPMScheduler", dict(variance_type="fixed_large"), 20),
    "unclipped": ("ddpm", "DDPMScheduler", dict(clip_sample=False), 20),
    "short": ("ddpm", "DDPMScheduler", dict(num_train_timesteps=20, beta_end=0.3), 20),
    "linspace": ("ddpm", "DDPMScheduler", dict(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2",
                                               timestep_spacing="linspace"), 20),
    "ddim": ("ddpm", "DDIMScheduler", {}, 50),
    "ddim_unclipped": ("ddpm", "DDIMScheduler", dict(clip_sample=False), 50),
    "learned": ("adm", "DDPMScheduler", dict(variance_type="learned_range"), 20),
}

# DDIM's code, whose group norms have 32 groups

DDIM = dict(ch=128, ch_mult=(1, 1), attends=(False, True))
DDIM_PATH = dict(first="conv_in", shortcut="up.0.block.1.nin_shortcut", branch="up.0.block.1.conv2", norm="norm_out",
                 last="conv_out")
STRIDES = {"ddpm": 50, "ddim": 20}  # of 1000 steps

# denoising-diffusion-pytorch

LUCIDRAINS = dict(dim=16, dim_mults=(1, 2), attn_dim_head=8, attn_heads=2)
TIMESTEPS = 100


def carrying_v(state, prefix="", channels=3, gain=0.5, rest=0.3):
    """As `carrying` for a Unet of denoising-diffusion-pytorch, which has no norm before its output, and predicts v."""
    state = {name: array.copy() for name, array in state.items()}
    first, shortcut, last = (f"{prefix}{name}" for name in ("init_conv", "final_res_block.res_conv", "final_conv"))
    width = len(state[f"{first}.bias"])
    state[f"{last}.weight"] *= rest
    for x in range(channels):
        for name in (first, shortcut):
            state[f"{name}.weight"][x] = state[f"{name}.bias"][x] = 0
        state[f"{first}.weight"][x, x, 3, 3] = state[f"{shortcut}.weight"][x, x - width] = 1
        state[f"{last}.weight"][x, x] += gain
    return state


# guided-diffusion

GUIDED = dict(model_channels=128, channel_mult=(1, 1), attention_levels=(1,), num_head_channels=64, num_classes=3)
GUIDED_PATH = dict(first="input_blocks.0.0", shortcut="output_blocks.3.0.skip_connection",
                   branch="output_blocks.3.0.out_layers.3", norm="out.0", last="out.2")
RESPACED = 27
