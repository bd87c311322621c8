"""Make guided_images.npz: the images that the network of guided-diffusion and its respaced sampler draw from our noise, with
random weights.

    pip install torch==2.13.0 "numpy<2"
    python tests/golden/make_guided_images.py

It is no package. The network is written here with the names that its files have, and the sampler is that of
openai/guided-diffusion, gaussian_diffusion.py and respace.py: ModelVarType.LEARNED_RANGE, clip_denoised, timestep_respacing "N".
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from images_cases import COUNT, GUIDED, GUIDED_PATH, RESPACED, carrying, check, described, noise, weights
from torch import nn

HERE = Path(__file__).parent


class Resize(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return F.avg_pool2d(x, 2) if self.how == "down" else F.interpolate(x, scale_factor=2, mode="nearest")


class ResBlock(nn.Module):
    """With use_scale_shift_norm; and where ``resize`` is given, that of resblock_updown."""

    def __init__(self, low, high, embedding, resize=None):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, low), nn.SiLU(), nn.Conv2d(low, high, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * high))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, high), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(high, high, 3, padding=1))
        self.skip_connection = nn.Conv2d(low, high, 1) if low != high else nn.Identity()
        self.resize = Resize(resize) if resize else nn.Identity()

    def forward(self, x, emb):
        h = self.in_layers[2](self.resize(self.in_layers[:2](x)))
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return self.skip_connection(self.resize(x)) + h


class AttentionBlock(nn.Module):
    """``new``: use_new_attention_order."""

    def __init__(self, width, head, new):
        super().__init__()
        self.heads, self.new = width // head, new
        self.norm, self.qkv, self.proj_out = nn.GroupNorm(32, width), nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x, emb):
        b, c = x.shape[:2]
        qkv = self.qkv(self.norm(x.reshape(b, c, -1)))
        if self.new:
            q, k, v = (part.reshape(b * self.heads, c // self.heads, -1) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(b * self.heads, 3 * c // self.heads, -1).chunk(3, dim=1)
        scale = (c // self.heads) ** -0.25
        likeness = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
        a = torch.einsum("bts,bcs->bct", likeness, v).reshape(b, c, -1)
        return x + self.proj_out(a).reshape(x.shape)


class First(nn.Conv2d):
    def forward(self, x, emb):
        return super().forward(x)


class UNetModel(nn.Module):
    """num_res_blocks 1, learn_sigma, resblock_updown."""

    def __init__(self, model_channels, channel_mult, attention_levels, num_head_channels, num_classes, new=False, channels=3):
        super().__init__()
        ch, self.ch, embedding = model_channels, model_channels, 4 * model_channels
        self.time_embed = nn.Sequential(nn.Linear(ch, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_emb = nn.Embedding(num_classes, embedding)

        def blocks(low, high, level, *more):
            attention = [AttentionBlock(high, num_head_channels, new)] if level in attention_levels else []
            return nn.ModuleList([ResBlock(low, high, embedding), *attention, *more])

        inputs, skips, last = [nn.ModuleList([First(channels, ch, 3, padding=1)])], [ch], len(channel_mult) - 1
        for level, mult in enumerate(channel_mult):
            width = mult * ch
            inputs.append(blocks(skips[-1], width, level))
            skips.append(width)
            if level != last:
                inputs.append(nn.ModuleList([ResBlock(width, width, embedding, "down")]))
                skips.append(width)
        self.input_blocks = nn.ModuleList(inputs)
        self.middle_block = nn.ModuleList([ResBlock(width, width, embedding), AttentionBlock(width, num_head_channels, new),
                                           ResBlock(width, width, embedding)])
        outputs, low = [], width
        for level, mult in reversed(list(enumerate(channel_mult))):
            width = mult * ch
            for j in range(2):
                up = [ResBlock(width, width, embedding, "up")] if level and j == 1 else []
                outputs.append(blocks(low + skips.pop(), width, level, *up))
                low = width
        self.output_blocks = nn.ModuleList(outputs)
        self.out = nn.Sequential(nn.GroupNorm(32, ch), nn.SiLU(), nn.Conv2d(ch, 2 * channels, 3, padding=1))

    def forward(self, x, timesteps, y):
        half = self.ch // 2
        angles = timesteps[:, None].float() * torch.exp(-np.log(10000) * torch.arange(half).float() / half)[None]
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1)) + self.label_emb(y)
        skips = []

        def through(layers, h):
            for layer in layers:
                h = layer(h, emb)
            return h

        h = x
        for layers in self.input_blocks:
            h = through(layers, h)
            skips.append(h)
        h = through(self.middle_block, h)
        for layers in self.output_blocks:
            h = through(layers, torch.cat([h, skips.pop()], dim=1))
        return self.out(h)


def space_timesteps(count, total=1000):
    stride, at, steps = (total - 1) / (count - 1), 0.0, []
    for _ in range(count):
        steps.append(round(at))
        at += stride
    return steps


def p_sample_loop(model, steps, drawing):
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[steps]
    before = np.append(1.0, abar[:-1])
    betas = 1 - abar / before
    posterior = betas * (1 - before) / (1 - abar)
    log_posterior = np.log(np.append(posterior[1], posterior[1:]))
    x, classes = torch.from_numpy(next(drawing)), torch.arange(COUNT)
    for i in reversed(range(len(steps))):
        output, values = model(x, torch.full((COUNT,), steps[i]), classes).chunk(2, dim=1)
        fraction = (values + 1) / 2
        log_variance = fraction * float(np.log(betas[i])) + (1 - fraction) * float(log_posterior[i])
        x0 = (float(np.sqrt(1 / abar[i])) * x - float(np.sqrt(1 / abar[i] - 1)) * output).clamp(-1, 1)
        x = (float(betas[i] * np.sqrt(before[i]) / (1 - abar[i])) * x0
             + float((1 - before[i]) * np.sqrt(1 - betas[i]) / (1 - abar[i])) * x)
        if i:
            x = x + torch.exp(0.5 * log_variance) * torch.from_numpy(next(drawing))
    return ((x + 1) / 2).clamp(0, 1).numpy()


@torch.no_grad()
def main():
    arrays = {}
    for order in ("old", "new"):
        model = UNetModel(**GUIDED, new=order == "new").eval()
        shapes = {name: tuple(array.shape) for name, array in model.state_dict().items()}
        state = carrying(weights(shapes), **GUIDED_PATH)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        arrays |= {f"network.{key}": array for key, array in described(shapes).items()}
        arrays[order] = p_sample_loop(model, space_timesteps(RESPACED), noise((3, 8, 8)))
        check(order, arrays[order])
    np.savez_compressed(HERE / "guided_images.npz", **arrays)


if __name__ == "__main__":
    main()
