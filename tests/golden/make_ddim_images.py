"""Make ddim_images.npz: the images that the network of DDIM's code (that of pytorch_diffusion) and its two samplers draw from our
noise, with random weights.

    pip install torch==2.13.0 "numpy<2"
    python tests/golden/make_ddim_images.py

Neither project is a package. The network is written here with the names that their files have, and the samplers are the
formulas of ermongroup/ddim, functions/denoising.py (generalized_steps with eta 0, ddpm_steps), and of pesser/pytorch_diffusion,
diffusion.py, for every step and a variance that is fixed_small.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from images_cases import DDIM, DDIM_PATH, STRIDES, carrying, check, described, noise, weights
from torch import nn

HERE = Path(__file__).parent


def norm(width):
    return nn.GroupNorm(32, width, eps=1e-6)


class Block(nn.Module):
    def __init__(self, low, high, embedding):
        super().__init__()
        self.norm1, self.conv1 = norm(low), nn.Conv2d(low, high, 3, padding=1)
        self.temb_proj = nn.Linear(embedding, high)
        self.norm2, self.conv2 = norm(high), nn.Conv2d(high, high, 3, padding=1)
        if low != high:
            self.nin_shortcut = nn.Conv2d(low, high, 1)

    def forward(self, x, t):
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(t))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        likeness = torch.softmax(q.transpose(1, 2) @ k * x.shape[1] ** -0.5, dim=2)
        return x + self.proj_out((v @ likeness.transpose(1, 2)).view(x.shape))


class Resize(nn.Module):
    def __init__(self, width, down):
        super().__init__()
        self.down, self.conv = down, nn.Conv2d(width, width, 3, 2 if down else 1, padding=0 if down else 1)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest"))


def level(blocks, attentions, **resize):
    made = nn.Module()
    made.block, made.attn = nn.ModuleList(blocks), nn.ModuleList(attentions)
    for name, layer in resize.items():
        made.add_module(name, layer)
    return made


class Model(nn.Module):
    """One residual block a level on the way down and two on the way up; attention in the levels that ``attends`` marks."""

    def __init__(self, ch, ch_mult, attends, channels=3):
        super().__init__()
        self.ch, embedding, widths, last = ch, 4 * ch, [ch * m for m in ch_mult], len(ch_mult) - 1
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, embedding), nn.Linear(embedding, embedding)])
        self.conv_in = nn.Conv2d(channels, ch, 3, padding=1)
        skips = [ch]
        down, up = [], []
        for i, width in enumerate(widths):
            resize = {"downsample": Resize(width, True)} if i < last else {}
            down.append(level([Block(skips[-1], width, embedding)], [Attention(width)] * attends[i], **resize))
            skips += [width] * (1 + len(resize))
        self.down = nn.ModuleList(down)
        bottom = widths[-1]
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1 = Block(bottom, bottom, embedding), Attention(bottom)
        self.mid.block_2 = Block(bottom, bottom, embedding)
        for i in reversed(range(len(widths))):
            above, width = widths[min(i + 1, last)], widths[i]
            blocks = [Block(low + skips.pop(), width, embedding) for low in (above, width)]
            resize = {"upsample": Resize(width, False)} if i else {}
            up.insert(0, level(blocks, [Attention(width) for _ in range(2 * attends[i])], **resize))
        self.up = nn.ModuleList(up)
        self.norm_out, self.conv_out = norm(ch), nn.Conv2d(ch, channels, 3, padding=1)

    def forward(self, x, t):
        half = self.ch // 2
        angles = t.float()[:, None] * torch.exp(torch.arange(half) * -(np.log(10000) / (half - 1)))[None].float()
        t = torch.cat([angles.sin(), angles.cos()], dim=1)
        t = self.temb.dense[1](F.silu(self.temb.dense[0](t)))
        skips = [self.conv_in(x)]

        def through(part, j, h):
            h = part.block[j](h, t)
            return part.attn[j](h) if len(part.attn) else h

        for part in self.down:
            skips.append(through(part, 0, skips[-1]))
            if hasattr(part, "downsample"):
                skips.append(part.downsample(skips[-1]))
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(skips[-1], t)), t)
        for part in reversed(self.up):
            for j in range(2):
                h = through(part, j, torch.cat([h, skips.pop()], dim=1))
            h = part.upsample(h) if hasattr(part, "upsample") else h
        return self.conv_out(F.silu(self.norm_out(h)))


BETAS = torch.from_numpy(np.linspace(1e-4, 0.02, 1000)).float()


def alphas_cumprod(step):
    return torch.cat([torch.ones(1), (1 - BETAS).cumprod(0)])[step + 1]


def generalized_steps(x, steps, model):
    for i, j in zip(steps[::-1], [-1, *steps[:-1]][::-1]):
        at, at_next = alphas_cumprod(i), alphas_cumprod(j)
        et = model(x, torch.full((len(x),), i))
        x0 = (x - et * (1 - at).sqrt()) / at.sqrt()
        x = at_next.sqrt() * x0 + (1 - at_next).sqrt() * et
    return x


def ddpm_steps(x, steps, model, drawing, large=True):
    for i, j in zip(steps[::-1], [-1, *steps[:-1]][::-1]):
        at, before = alphas_cumprod(i), alphas_cumprod(j)
        beta = 1 - at / before
        e = model(x, torch.full((len(x),), i))
        x0 = torch.clamp((1.0 / at).sqrt() * x - (1.0 / at - 1).sqrt() * e, -1, 1)
        x = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x) / (1 - at)
        if i > 0:
            variance = beta if large else beta * (1 - before) / (1 - at)
            x = x + variance.sqrt() * torch.from_numpy(next(drawing))
    return x


@torch.no_grad()
def main():
    model = Model(**DDIM).eval()
    shapes = {name: tuple(array.shape) for name, array in model.state_dict().items()}
    steps = {sampler: list(range(0, 1000, stride)) for sampler, stride in STRIDES.items()}
    images = {}
    for salt in ("", "averaged."):
        state = carrying(weights(shapes, salt), **DDIM_PATH)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        images[f"{salt}ddim"] = generalized_steps(torch.from_numpy(next(noise((3, 8, 8)))), steps["ddim"], model)
        for variance in ("fixed_large", "fixed_small") if not salt else ():
            drawing = noise((3, 8, 8))
            images[variance] = ddpm_steps(torch.from_numpy(next(drawing)), steps["ddpm"], model, drawing,
                                          variance == "fixed_large")
    arrays = {f"network.{key}": array for key, array in described(shapes).items()}
    for name, x in images.items():
        arrays[name] = ((x + 1) / 2).clamp(0, 1).numpy()
        check(name, arrays[name])
    np.savez_compressed(HERE / "ddim_images.npz", **arrays)


if __name__ == "__main__":
    main()
