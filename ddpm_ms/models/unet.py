"""The U-Net of denoising-diffusion-pytorch, as a `mindspore.nn.Cell`."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union

import mindspore as ms
from mindspore import Tensor, nn, ops

from ddpm_ms.config import NetworkConfig, section_of
from ddpm_ms.config.sections import Count, Counts, Flags, Number, Whole, setting
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.models.attention import Attention, LinearAttention
from ddpm_ms.models.layers import (
    ClassEmbedding,
    Downsample,
    FourierPosEmb,
    ResnetBlock,
    SinusoidalPosEmb,
    TimeEmbedding,
    Upsample,
    check_sides,
    conv,
    per_level,
)
from ddpm_ms.ops.activation import exact_gelu


class UnetConfig(NetworkConfig):
    """The U-Net of denoising-diffusion-pytorch, see `ddpm_ms.Unet`."""

    renamed = {"learned_sinusoidal_cond": "time_embedding: learned_fourier",
               "random_fourier_features": "time_embedding: random_fourier", "learned_sinusoidal_dim": "fourier_dim",
               "resnet_block_groups": "block: group, whose norms have 8 groups", "cond_drop_prob": "label_dropout, in training"}
    name: Literal["unet"] = "unet"
    init_dim: Optional[Whole] = setting(None, "channels after the first convolution; null: dim", ge=1)
    out_dim: Optional[Whole] = setting(None, "output channels; null: those of the image, doubled by learned_variance", ge=1)
    time_embedding: Literal["sinusoidal", "learned_fourier", "random_fourier"] = setting(
        "sinusoidal", "of the step: by sines, or by Fourier features whose frequencies are learned or stay random")
    fourier_dim: Whole = setting(16, "how many Fourier features, an even number", ge=2)
    sinusoidal_pos_emb_theta: Number = setting(10000.0, "largest period of the sinusoidal embedding", ge=1.0)
    dropout: Number = setting(
        0.0, "in the first half of each residual block", also="dropout_prob drop_rate dropout_rate", ge=0.0, le=0.99)
    attn_dim_head: Union[Count, Counts] = setting(
        32, "width of a head of attention; one for all levels or one each",
        also="head_dim num_head_channels attention_head_dim dim_head")
    attn_heads: Union[Count, Counts] = setting(
        4, "heads of attention; one for all levels or one each", also="num_heads heads n_heads num_attention_heads")
    full_attn: Optional[Union[bool, Flags]] = setting(
        None, "softmax attention instead of linear attention, per level; null: at the last level",
        also="attention_resolutions attn_resolutions attention attn")
    block: Literal["rms", "group"] = setting(
        "rms", "rms: denoising-diffusion-pytorch 2; group: its first version, with group norm and standardised weights")


class _Stage(nn.Cell):
    """One resolution: two residual blocks, attention, and the change of size (or a 3x3 convolution at the end)."""

    def __init__(self, block1: nn.Cell, block2: nn.Cell, attn: nn.Cell, resize: nn.Cell) -> None:
        super().__init__()
        self.block1, self.block2, self.attn, self.resize = block1, block2, attn, resize


class Unet(nn.Cell):
    """Noise-conditioned U-Net with residual blocks, linear and full attention ("DDPM", arXiv:2006.11239, appendix B).

    With ``block="rms"`` it computes the same function as ``denoising_diffusion_pytorch.Unet`` of the same keywords;
    ``block="group"`` is that project's older form: GroupNorm, weight-standardised convolutions, strided-convolution
    downsampling and attention without memory.

    Args:
        dim, keywords: those of `UnetConfig`, which explains them; also those of denoising-diffusion-pytorch.
        channels: image channels.
        config: the same as a section, instead of keywords.

    Inputs:
        - **x** (B, channels, H, W), float32; H and W multiples of `downsample_factor`.
        - **time** (B,), int32 or float32: the noise level's index.
        - **x_self_cond** (B, channels, H, W) or None (taken as zeros), only with ``self_condition``.
        - **classes** (B,) int32 in [0, num_classes], only with ``num_classes``; None means "no class" for all.
        - **dropout_key** (B,) float32 in [1, 2), one per image; without it (or outside training) nothing is dropped.

    Outputs:
        (B, out_dim, H, W).

    Raises:
        InputError: a keyword is out of range, or (from `check_image_size`) a size does not divide.
    """

    config_class = UnetConfig

    def __init__(self, dim: int | None = None, *, channels: int = 3, config: UnetConfig | None = None, **keywords: Any) -> None:
        super().__init__()
        self.config = c = section_of(UnetConfig, config, _settings(keywords), dim=dim)
        check_range("channels", channels, 1)
        if c.fourier_dim % 2:
            raise InputError(f"fourier_dim is {c.fourier_dim}, allowed: even numbers")
        levels = len(c.dim_mults)
        full_attn = (False,) * (levels - 1) + (True,) if c.full_attn is None else c.full_attn
        full_attn = per_level("full_attn", full_attn, levels)
        attn_heads = per_level("attn_heads", c.attn_heads, levels)
        attn_dim_head = per_level("attn_dim_head", c.attn_dim_head, levels)

        self.channels, self.out_dim = channels, c.out_dim or channels * (2 if c.learned_variance else 1)
        self.self_condition, self.learned_variance, self.num_classes = c.self_condition, c.learned_variance, c.num_classes
        self.dropout = c.dropout
        self.downsample_factor = 2 ** (levels - 1)

        init_dim = c.init_dim or c.dim
        dims = [init_dim, *(c.dim * m for m in c.dim_mults)]
        time_dim = c.dim * 4
        layer = iter(range(1000))

        def resnet(dim_in: int, dim_out: int) -> ResnetBlock:
            return ResnetBlock(dim_in, dim_out, time_dim, c.block, c.dropout, next(layer))

        def attention(width: int, level: int, full: bool) -> nn.Cell:
            kind = Attention if full else LinearAttention
            return kind(width, attn_heads[level], attn_dim_head[level], c.block)

        self.init_conv = conv(channels * (2 if c.self_condition else 1), init_dim, 7)
        self.time_mlp = _time_mlp(c, time_dim)
        self.class_emb = ClassEmbedding(c.num_classes, time_dim) if c.num_classes else None

        downs, ups = [], []
        for level in range(levels):
            low, high = dims[level], dims[level + 1]
            resize = conv(low, high, 3) if level == levels - 1 else Downsample(low, high, c.block)
            downs.append(_Stage(resnet(low, low), resnet(low, low), attention(low, level, full_attn[level]), resize))
        self.mid_block1 = resnet(dims[-1], dims[-1])
        self.mid_attn = attention(dims[-1], levels - 1, full=True)
        self.mid_block2 = resnet(dims[-1], dims[-1])
        for level in reversed(range(levels)):
            low, high = dims[level], dims[level + 1]
            resize = conv(high, low, 3) if level == 0 else Upsample(high, low)
            ups.append(_Stage(resnet(high + low, high), resnet(high + low, high),
                              attention(high, level, full_attn[level]), resize))
        self.downs, self.ups = nn.CellList(downs), nn.CellList(ups)
        self.final_res_block = resnet(init_dim * 2, init_dim)
        self.final_conv = conv(init_dim, self.out_dim, 1)
        self.concat, self.zeros_like, self.cast = ops.Concat(1), ops.ZerosLike(), ops.Cast()

    def check_image_size(self, height: int, width: int) -> None:
        """Raise `InputError` naming the nearest valid sizes unless both sides are multiples of `downsample_factor`."""
        check_sides(height, width, self.downsample_factor)

    def construct(self, x: Tensor, time: Tensor, x_self_cond: Tensor | None = None, classes: Tensor | None = None,
                  dropout_key: Tensor | None = None) -> Tensor:
        check_sides(x.shape[2], x.shape[3], self.downsample_factor)
        if self.self_condition:
            x = self.concat((self.zeros_like(x) if x_self_cond is None else x_self_cond, x))
        t = self._condition(time, classes)
        x = self.init_conv(x)
        skips = (x,)  # type: tuple[Tensor, ...]
        for stage in self.downs:
            x = stage.block1(x, t, dropout_key)
            skips = skips + (x,)
            x = stage.block2(x, t, dropout_key)
            x = stage.attn(x)
            skips = skips + (x,)
            x = stage.resize(x)

        x = self.mid_block1(x, t, dropout_key)
        x = self.mid_attn(x)
        x = self.mid_block2(x, t, dropout_key)

        for stage in self.ups:
            x = stage.block1(self.concat((x, skips[-1])), t, dropout_key)
            x = stage.block2(self.concat((x, skips[-2])), t, dropout_key)
            skips = skips[:-2]
            x = stage.attn(x)
            x = stage.resize(x)

        x = self.final_res_block(self.concat((x, skips[0])), t, dropout_key)
        return self.final_conv(x)

    def _condition(self, time: Tensor, classes: Tensor | None) -> Tensor:
        """What every residual block is told: the embedding of the noise level plus that of the class."""
        t = self.time_mlp(self.cast(time, ms.float32))
        if self.class_emb is not None:
            t = t + self.class_emb(classes, time)
        return t


def _settings(keywords: dict[str, Any]) -> dict[str, Any]:
    """``keywords``, those of denoising-diffusion-pytorch as the settings that say the same here."""
    settings = {"fourier_dim" if key == "learned_sinusoidal_dim" else key: value for key, value in keywords.items()
                if key != "flash_attn"}  # the same function; how it is computed is `ddpm_ms.ops.attention`'s business
    for key, embedding in (("learned_sinusoidal_cond", "learned_fourier"), ("random_fourier_features", "random_fourier")):
        if settings.pop(key, False):
            settings["time_embedding"] = embedding
    return settings


def _time_mlp(c: UnetConfig, time_dim: int) -> TimeEmbedding:
    if c.time_embedding == "sinusoidal":
        embedding, width = SinusoidalPosEmb(c.dim, c.sinusoidal_pos_emb_theta), c.dim
    else:
        embedding, width = FourierPosEmb(c.fourier_dim, learned=c.time_embedding == "learned_fourier"), c.fourier_dim + 1
    return TimeEmbedding(embedding, nn.Dense(width, time_dim), exact_gelu(), nn.Dense(time_dim, time_dim))
