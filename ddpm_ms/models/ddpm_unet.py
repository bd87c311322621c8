"""The U-Net of DDPM, with the options by which guided-diffusion ("ADM") and its descendants build theirs."""

from __future__ import annotations

import functools
from typing import Any, Literal, Optional, Union

import mindspore as ms
from mindspore import Tensor, nn, ops

from ddpm_ms.config import NetworkConfig, section_of
from ddpm_ms.config.sections import Flags, Number, Whole, setting
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.models.ddpm_blocks import GLOROT, ZERO, ResidualBlock, SelfAttention, StridedConv, UpsampledConv
from ddpm_ms.models.layers import (
    ClassEmbedding,
    CosineFirstPosEmb,
    Dropout,
    GroupNorm,
    SinusoidalPosEmb,
    TimeEmbedding,
    check_sides,
    conv,
    per_level,
)
from ddpm_ms.ops.upsampling import AverageDownsample, NearestUpsample

EMBEDDINGS = {"sin_cos": SinusoidalPosEmb, "cos_sin": CosineFirstPosEmb}
PADDINGS = {"after": (0, 1), "around": (1, 1)}


class DDPMUnetConfig(NetworkConfig):
    """The U-Net of DDPM, DDIM, diffusers' UNet2DModel, guided-diffusion (ADM) and P2-weighting, see `ddpm_ms.DDPMUnet`."""

    name: Literal["ddpm_unet"] = "ddpm_unet"
    num_res_blocks: Whole = setting(2, "residual blocks per level on the way down; one more on the way up", ge=1)
    attention_levels: Union[bool, Flags] = setting(
        False, "attention behind the residual blocks; one flag for all levels or one each (the middle always has it)")
    num_heads: Whole = setting(1, "heads of attention", ge=1)
    num_head_channels: Optional[Whole] = setting(None, "width of a head, instead of num_heads; null: num_heads decides", ge=1)
    use_scale_shift_norm: bool = setting(
        False, "the embedding of the step scales and shifts the second norm (ADM) instead of being added before it (DDPM)")
    resblock_updown: bool = setting(False, "change the size inside a residual block (ADM) instead of by a convolution (DDPM)")
    downsample_padding: Literal["after", "around"] = setting(
        "after", "zeros of the convolution that halves the size; after: behind the last row and column (DDPM); around: ADM")
    time_embedding: Literal["sin_cos", "cos_sin"] = setting(
        "sin_cos", "of the step; sin_cos: sines first, down to 1/10000 (DDPM); cos_sin: cosines first, one short of it (ADM)")
    norm_groups: Whole = setting(32, "groups of every group norm", ge=1)
    norm_eps: Number = setting(1e-6, "added to the variance by every group norm (DDPM: 1e-6, ADM: 1e-5)", ge=1e-12)
    dropout: Number = setting(0.0, "before the second convolution of each residual block", ge=0.0, le=0.99)


class _Down(nn.Cell):
    """One resolution on the way down: residual blocks, each with its attention, then half the size (but for the last one)."""

    def __init__(self, blocks: list[nn.Cell], attns: list[nn.Cell], resize: nn.Cell | None) -> None:
        super().__init__()
        self.blocks, self.attns, self.resize = nn.CellList(blocks), nn.CellList(attns), resize

    def construct(self, x: Tensor, t: Tensor, dropout_key: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What goes on, and all that the way up takes in again."""
        kept = ()  # type: tuple[Tensor, ...]
        for block, attn in zip(self.blocks, self.attns):
            x = attn(block(x, t, dropout_key))
            kept = kept + (x,)
        if self.resize is not None:
            x = self.resize(x, t, dropout_key)
            kept = kept + (x,)
        return x, kept


class _Up(nn.Cell):
    """One resolution on the way up: each residual block takes in the newest of ``skips``; then twice the size."""

    def __init__(self, blocks: list[nn.Cell], attns: list[nn.Cell], resize: nn.Cell | None) -> None:
        super().__init__()
        self.blocks, self.attns, self.resize = nn.CellList(blocks), nn.CellList(attns), resize
        self.concat = ops.Concat(1)

    def construct(self, x: Tensor, skips: tuple[Tensor, ...], t: Tensor,
                  dropout_key: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        for block, attn in zip(self.blocks, self.attns):
            x = attn(block(self.concat((x, skips[-1])), t, dropout_key))
            skips = skips[:-1]
        if self.resize is not None:
            x = self.resize(x, t, dropout_key)
        return x, skips


class DDPMUnet(nn.Cell):
    """The network of "DDPM" (arXiv:2006.11239, appendix B) and, by its options, of "ADM" (arXiv:2105.05233, section 3).

    It computes what diffusers' ``UNet2DModel``, pytorch_diffusion's ``Model`` and guided-diffusion's ``UNetModel`` compute;
    `ddpm_ms.interop` takes their weights.

    Attention is chosen per level, as diffusers does by the names of its blocks, not by the size of the image, which a network
    that serves every size does not know: "at 16x16" for images of 32x32 is the second level. guided-diffusion divides the
    size by its resolutions for the same reason.

    Args:
        dim, keywords: those of `DDPMUnetConfig`, which explains them.
        channels: image channels.
        config: the same as a section, instead of keywords.

    Inputs, Outputs: as for `ddpm_ms.Unet`.

    Raises:
        InputError: a keyword is out of range, or (from `check_image_size`) a size does not divide.
    """

    config_class = DDPMUnetConfig

    def __init__(self, dim: int | None = None, *, channels: int = 3, config: DDPMUnetConfig | None = None,
                 **keywords: Any) -> None:
        super().__init__()
        self.config = c = section_of(DDPMUnetConfig, config, keywords, dim=dim)
        check_range("channels", channels, 1)
        widths = [c.dim * m for m in c.dim_mults]
        levels, last = len(widths), len(widths) - 1
        attends = per_level("attention_levels", c.attention_levels, levels)
        _check_widths(c, widths, [*(w for w, there in zip(widths, attends) if there), widths[-1]])

        self.channels, self.out_dim = channels, channels * (2 if c.learned_variance else 1)
        self.self_condition, self.learned_variance, self.num_classes = c.self_condition, c.learned_variance, c.num_classes
        self.dropout, self.downsample_factor = c.dropout, 2**last
        time_dim, layer = 4 * c.dim, iter(range(1000))
        norm = functools.partial(GroupNorm, groups=c.norm_groups, eps=c.norm_eps)

        def block(low: int, high: int, resize: nn.Cell | None = None) -> ResidualBlock:
            dropout = Dropout(c.dropout, high, next(layer)) if c.dropout else None
            return ResidualBlock(low, high, time_dim, norm, c.use_scale_shift_norm, dropout, resize)

        def attention(width: int) -> SelfAttention:
            return SelfAttention(width, width // c.num_head_channels if c.num_head_channels else c.num_heads, norm)

        def attentions(level: int, count: int) -> list[nn.Cell]:
            return [attention(widths[level]) if attends[level] else nn.Identity() for _ in range(count)]

        def halve(width: int) -> nn.Cell:
            if c.resblock_updown:
                return block(width, width, AverageDownsample())
            return StridedConv(width, PADDINGS[c.downsample_padding])

        def double(width: int) -> nn.Cell:
            return block(width, width, NearestUpsample()) if c.resblock_updown else UpsampledConv(width)

        self.time_emb = TimeEmbedding(EMBEDDINGS[c.time_embedding](c.dim), nn.Dense(c.dim, time_dim, **GLOROT), nn.SiLU(),
                                      nn.Dense(time_dim, time_dim, **GLOROT))
        self.class_emb = ClassEmbedding(c.num_classes, time_dim, 1.0) if c.num_classes else None
        self.conv_in = conv(channels * (2 if c.self_condition else 1), c.dim, 3, **GLOROT)
        downs, ups, skips = [], [], [c.dim]  # skips: the widths of what the way up takes in
        for level, width in enumerate(widths):
            blocks = [block(skips[-1] if j == 0 else width, width) for j in range(c.num_res_blocks)]
            skips += [width] * (c.num_res_blocks + (level != last))
            downs.append(_Down(blocks, attentions(level, len(blocks)), halve(width) if level != last else None))
        bottom = widths[-1]
        self.mid_block1, self.mid_attn, self.mid_block2 = block(bottom, bottom), attention(bottom), block(bottom, bottom)
        for level in reversed(range(levels)):
            width, above = widths[level], widths[min(level + 1, last)]
            blocks = [block((above if j == 0 else width) + skips.pop(), width) for j in range(c.num_res_blocks + 1)]
            ups.append(_Up(blocks, attentions(level, len(blocks)), double(width) if level else None))
        self.downs, self.ups = nn.CellList(downs), nn.CellList(ups)
        self.norm_out, self.conv_out = norm(widths[0], act=True), conv(widths[0], self.out_dim, 3, **ZERO)
        self.concat, self.zeros_like, self.cast = ops.Concat(1), ops.ZerosLike(), ops.Cast()

    def check_image_size(self, height: int, width: int) -> None:
        """Raise `InputError` naming the nearest valid sizes unless both sides are multiples of `downsample_factor`."""
        check_sides(height, width, self.downsample_factor)

    def construct(self, x: Tensor, time: Tensor, x_self_cond: Tensor | None = None, classes: Tensor | None = None,
                  dropout_key: Tensor | None = None) -> Tensor:
        check_sides(x.shape[2], x.shape[3], self.downsample_factor)
        if self.self_condition:
            x = self.concat((self.zeros_like(x) if x_self_cond is None else x_self_cond, x))
        t = self.time_emb(self.cast(time, ms.float32))
        if self.class_emb is not None:
            t = t + self.class_emb(classes, time)

        x = self.conv_in(x)
        skips = (x,)  # type: tuple[Tensor, ...]
        for stage in self.downs:
            x, kept = stage(x, t, dropout_key)
            skips = skips + kept
        x = self.mid_attn(self.mid_block1(x, t, dropout_key))
        x = self.mid_block2(x, t, dropout_key)
        for stage in self.ups:
            x, skips = stage(x, skips, t, dropout_key)
        return self.conv_out(self.norm_out(x))


def _check_widths(c: DDPMUnetConfig, widths: list[int], with_attention: list[int]) -> None:
    """Raise `InputError` unless groups and heads divide the widths."""
    key = "num_heads" if c.num_head_channels is None else "num_head_channels"
    for name, value, where in (("norm_groups", c.norm_groups, [c.dim, *widths]), (key, getattr(c, key), with_attention)):
        bad = [width for width in where if width % value]
        if bad:
            raise InputError(f"{name} is {value}, allowed: divisors of {', '.join(map(str, sorted(set(where))))}, the widths "
                             "that dim and dim_mults give")
