"""The smallest useful U-Net: the noise level is one more channel of the image."""

from __future__ import annotations

import math
from typing import Any, Literal, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms.config import NetworkConfig, section_of
from ddpm_ms.config.sections import setting
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.models.layers import ClassEmbedding, TransposedConv, check_sides, conv

TIME_DIM = 100


class TinyUnetConfig(NetworkConfig):
    """A U-Net that takes the step as one more channel, see `ddpm_ms.TinyUnet`."""

    name: Literal["tiny_unet"] = "tiny_unet"
    residual: bool = setting(False, "add the input of every second convolution to its output")


class _Block(nn.Cell):
    """Two 3x3 convolutions; with ``residual`` around the second: (B, dim, H, W) -> (B, dim_out, H, W)."""

    def __init__(self, dim: int, dim_out: int, residual: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act, self.residual = conv(dim, dim_out, 3), conv(dim_out, dim_out, 3), nn.SiLU(), residual

    def construct(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x))
        return x + self.act(self.conv2(x)) if self.residual else self.act(self.conv2(x))


class TinyUnet(nn.Cell):
    """U-Net without norms or attention for small grey images; t enters as a learned picture beside the noisy one.

    Args:
        dim, keywords: those of `TinyUnetConfig`, which explains them.
        image_size: pixels, or (height, width); the picture of t has this size, so the network serves no other.
        channels: image channels.
        config: the same as a section, instead of keywords.

    Inputs, Outputs: as for `Unet`; ``dropout_key`` is taken and not used.

    Raises:
        InputError: a keyword is out of range, or (from `check_image_size`) the images have another size.
    """

    config_class = TinyUnetConfig

    def __init__(self, dim: int | None = None, image_size: int | Sequence[int] | None = None, *, channels: int = 3,
                 config: TinyUnetConfig | None = None, **keywords: Any) -> None:
        super().__init__()
        self.config = c = section_of(TinyUnetConfig, config, keywords, dim=dim)
        check_range("channels", channels, 1)
        self.channels, self.out_dim = channels, channels * (2 if c.learned_variance else 1)
        self.self_condition, self.learned_variance, self.num_classes = c.self_condition, c.learned_variance, c.num_classes
        if image_size is None:
            raise InputError("image_size is None, allowed for a tiny_unet: the size that it is made for")
        self.size = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
        self.downsample_factor = 2 ** (len(c.dim_mults) - 1)
        check_sides(*self.size, self.downsample_factor)

        self.time_emb = InterleavedPosEmb(TIME_DIM)
        self.class_emb = ClassEmbedding(c.num_classes, TIME_DIM, 1.0) if c.num_classes else None
        self.time_map = nn.SequentialCell(nn.Dense(TIME_DIM, math.prod(self.size)), nn.SiLU())
        widths = [c.dim * m for m in c.dim_mults]
        pairs = list(zip(widths, widths[1:]))
        self.first = _Block(channels * (2 if c.self_condition else 1) + 1, widths[0], c.residual)
        self.downs = nn.CellList([conv(low, high, 4, 2, pad=1) for low, high in pairs])
        self.blocks = nn.CellList([_Block(high, high, c.residual) for _, high in pairs])
        self.grows = nn.CellList([TransposedConv(high, low) for low, high in reversed(pairs)])
        self.ups = nn.CellList([_Block(2 * low, low, c.residual) for low, _ in reversed(pairs)])
        self.final_conv = conv(widths[0], self.out_dim, 3)
        self.concat, self.zeros_like, self.cast, self.reshape = ops.Concat(1), ops.ZerosLike(), ops.Cast(), ops.Reshape()

    def check_image_size(self, height: int, width: int) -> None:
        """Raise `InputError` unless this is the size that the network was built for."""
        if (height, width) != self.size:
            raise InputError(f"image size is {height}x{width}, allowed for this network: {self.size[0]}x{self.size[1]}")

    def construct(self, x: Tensor, time: Tensor, x_self_cond: Tensor | None = None, classes: Tensor | None = None,
                  dropout_key: Tensor | None = None) -> Tensor:
        if self.self_condition:
            x = self.concat((self.zeros_like(x) if x_self_cond is None else x_self_cond, x))
        t = self.time_emb(self.cast(time, ms.float32))
        if self.class_emb is not None:
            t = t + self.class_emb(classes, time)
        picture = self.reshape(self.time_map(t), (-1, 1, *self.size))
        x = self.first(self.concat((x, self.cast(picture, x.dtype))))
        skips = (x,)  # type: tuple[Tensor, ...]
        for down, block in zip(self.downs, self.blocks):
            x = block(down(x))
            skips = skips + (x,)
        for grow, block in zip(self.grows, self.ups):
            skips = skips[:-1]
            x = block(self.concat((grow(x), skips[-1])))
        return self.final_conv(x)


class InterleavedPosEmb(nn.Cell):
    """sin and cos of t / 10000^(2k / dim) in turn: (B,) -> (B, dim) ("Attention is all you need", 3.5)."""

    in_float32 = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        # cos(a) = sin(a + pi/2): one sine gives both in their order.
        self.frequencies = Tensor(np.repeat(10000.0 ** (-np.arange(0, dim, 2) / dim), 2)[None], ms.float32)
        self.phases = Tensor(np.tile([0, math.pi / 2], dim // 2)[None], ms.float32)
        self.sin, self.reshape = ops.Sin(), ops.Reshape()

    def construct(self, time: Tensor) -> Tensor:
        return self.sin(self.reshape(time, (-1, 1)) * self.frequencies + self.phases)
