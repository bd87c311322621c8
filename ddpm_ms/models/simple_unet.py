"""A small U-Net of plain convolutions: what tutorials draw, with a noise level that reaches every resolution."""

from __future__ import annotations

import math
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms.config import NetworkConfig, section_of
from ddpm_ms.config.sections import setting
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.models.layers import (
    ClassEmbedding,
    GroupNorm,
    SinusoidalPosEmb,
    TimeEmbedding,
    TransposedConv,
    check_sides,
    conv,
    sinusoidal_frequencies,
)

ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU}


class SimpleUnetConfig(NetworkConfig):
    """A U-Net of plain convolutions, see `ddpm_ms.SimpleUnet`."""

    name: Literal["simple_unet"] = "simple_unet"
    time_embedding: Literal["sinusoidal", "learned"] = setting("sinusoidal", "learned: a table with a row per step")
    down: Literal["conv", "pool"] = setting("conv", "halve the size by a strided convolution or by the maximum")
    norm: Literal["group", "none"] = setting("group", "group norm, or none")
    activation: Literal["silu", "relu"] = setting("silu", "after every convolution")
    tanh_output: bool = setting(False, "keep the output in [-1, 1]; for pred_x0 alone")


class _Block(nn.Cell):
    """Two 3x3 convolutions; the embedding (B, time_dim) is added per channel between them, behind the norm that would else
    remove it."""

    def __init__(self, dim: int, dim_out: int, time_dim: int, norm: str, activation: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(dim, dim_out, 3), conv(dim_out, dim_out, 3)
        self.norm1, self.norm2 = _norm(norm, dim_out), _norm(norm, dim_out)
        self.act, self.time_proj = ACTIVATIONS[activation](), nn.Dense(time_dim, dim_out)
        self.reshape = ops.Reshape()

    def construct(self, x: Tensor, time_emb: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = x + self.reshape(self.time_proj(time_emb), (x.shape[0], -1, 1, 1))
        return self.act(self.norm2(self.conv2(x)))


class SimpleUnet(nn.Cell):
    """U-Net (arXiv:1505.04597) of plain blocks; no attention, no residuals. It takes a fraction of the time of `Unet`.

    There is no batch norm. Its statistics would tie an image to the others of its batch and their noise levels, which
    sampling (one level, any batch) does not repeat, and would make a step depend on the number of devices.

    Args:
        dim, keywords: those of `SimpleUnetConfig`, which explains them.
        channels: image channels.
        timesteps: T of the process, the rows of the table; only for ``time_embedding="learned"``.
        config: the same as a section, instead of keywords.

    Inputs, Outputs: as for `Unet`; ``dropout_key`` is taken and not used.

    Raises:
        InputError: a keyword is not allowed, or (from the ``check_`` methods) does not fit the process.
    """

    config_class = SimpleUnetConfig

    def __init__(self, dim: int | None = None, *, channels: int = 3, timesteps: int | None = None,
                 config: SimpleUnetConfig | None = None, **keywords: Any) -> None:
        super().__init__()
        self.config = c = section_of(SimpleUnetConfig, config, keywords, dim=dim)
        check_range("channels", channels, 1)
        self.channels, self.out_dim = channels, channels * (2 if c.learned_variance else 1)
        self.self_condition, self.learned_variance, self.num_classes = c.self_condition, c.learned_variance, c.num_classes
        self.downsample_factor = 2 ** (len(c.dim_mults) - 1)

        widths, time_dim = [c.dim * m for m in c.dim_mults], 2 * c.dim
        in_dim = channels * (2 if c.self_condition else 1)
        self.rows = timesteps if c.time_embedding == "learned" else None
        self.time_emb = _time_embedding(c, time_dim, timesteps)
        self.class_emb = ClassEmbedding(c.num_classes, time_dim, 1.0) if c.num_classes else None

        def block(low: int, high: int) -> _Block:
            return _Block(low, high, time_dim, c.norm, c.activation)

        pairs = list(zip(widths, widths[1:]))
        self.downs = nn.CellList([block(low, high) for low, high in zip([in_dim, *widths], widths[:-1])])
        self.shrinks = nn.CellList([nn.MaxPool2d(2, 2) if c.down == "pool" else conv(w, w, 4, 2, pad=1) for w in widths[:-1]])
        self.bottom = block(widths[-2] if pairs else in_dim, widths[-1])
        self.grows = nn.CellList([TransposedConv(high, low) for low, high in reversed(pairs)])
        self.ups = nn.CellList([block(2 * low, low) for low, _ in reversed(pairs)])
        self.final_conv = conv(widths[0] + in_dim, self.out_dim, 3)
        self.bound = ops.Tanh() if c.tanh_output else None
        self.concat, self.zeros_like, self.cast = ops.Concat(1), ops.ZerosLike(), ops.Cast()

    def check_image_size(self, height: int, width: int) -> None:
        """Raise `InputError` naming the nearest valid sizes unless both sides are multiples of `downsample_factor`."""
        check_sides(height, width, self.downsample_factor)

    def check_process(self, timesteps: int, objective: str) -> None:
        """Raise `InputError` unless the network fits a process of this length that predicts this."""
        if self.rows not in (None, timesteps):
            raise InputError(f"the network's table has {self.rows} rows, allowed with timesteps={timesteps}: {timesteps}")
        if self.bound is not None and objective != "pred_x0":
            raise InputError(f"tanh_output is True with objective {objective!r}, which is not bounded, allowed: pred_x0")

    def construct(self, x: Tensor, time: Tensor, x_self_cond: Tensor | None = None, classes: Tensor | None = None,
                  dropout_key: Tensor | None = None) -> Tensor:
        check_sides(x.shape[2], x.shape[3], self.downsample_factor)
        if self.self_condition:
            x = self.concat((self.zeros_like(x) if x_self_cond is None else x_self_cond, x))
        t = self.time_emb(self.cast(time, ms.int32 if self.rows else ms.float32))
        if self.class_emb is not None:
            t = t + self.class_emb(classes, time)
        skips = (x,)  # type: tuple[Tensor, ...]
        for block, shrink in zip(self.downs, self.shrinks):
            x = block(x, t)
            skips = skips + (x,)
            x = shrink(x)
        x = self.bottom(x, t)
        for grow, block in zip(self.grows, self.ups):
            x = block(self.concat((grow(x), skips[-1])), t)
            skips = skips[:-1]
        x = self.final_conv(self.concat((x, skips[0])))  # the raw input once more
        return x if self.bound is None else self.bound(x)


def _norm(kind: str, dim: int) -> nn.Cell:
    return GroupNorm(dim, math.gcd(32, max(dim // 4, 1))) if kind == "group" else nn.Identity()


def _time_embedding(c: SimpleUnetConfig, time_dim: int, timesteps: int | None) -> nn.Cell:
    """(B,) -> (B, time_dim)."""
    if c.time_embedding == "sinusoidal":
        return TimeEmbedding(SinusoidalPosEmb(c.dim), nn.Dense(c.dim, time_dim), ACTIVATIONS[c.activation](),
                             nn.Dense(time_dim, time_dim))
    if timesteps is None:
        raise InputError("timesteps is None, allowed with time_embedding='learned': the length of the process")
    # It begins as the sinusoidal one: a step that is drawn seldom is near its neighbours from the start.
    angles = np.arange(timesteps)[:, None] * sinusoidal_frequencies(time_dim)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return nn.Embedding(timesteps, time_dim, embedding_table=Tensor(table, ms.float32))
