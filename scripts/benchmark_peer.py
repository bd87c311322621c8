"""The peer's side of scripts/benchmark_vs_torch.sh: the same work in PyTorch, with denoising-diffusion-pytorch or diffusers.

    python benchmark_peer.py CASE [--compile]

Reads a kind of work per line ("train", "eval", "sample", "memory") and how often to do it in a row, and answers with the seconds
of each (MiB for "memory"). CASE is one of ddpm_ms/benchmark/cases.py as JSON. With --compile the network is compiled by
torch.compile, for the shapes of the case.
"""

import json
import resource
import sys
import time
import types

import torch
from ema_pytorch import EMA


def denoising_diffusion_pytorch():
    """The module with its Unet and GaussianDiffusion; empty modules stand in for heavy imports that neither needs."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils", "pytorch_fid", "pytorch_fid.fid_score",
                 "pytorch_fid.inception"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]
    sys.modules["torchvision"].datasets = None
    sys.modules["pytorch_fid.fid_score"].calculate_frechet_distance = None
    sys.modules["pytorch_fid.inception"].InceptionV3 = None
    import denoising_diffusion_pytorch.denoising_diffusion_pytorch as peer

    peer.tqdm = lambda iterable, **_: iterable
    return peer


def lucidrains(case):
    """Its Unet in its GaussianDiffusion."""
    peer = denoising_diffusion_pytorch()
    network = peer.Unet(case["dim"], dim_mults=case["dim_mults"], channels=case["channels"])
    return network, peer.GaussianDiffusion(network, image_size=case["size"], beta_schedule="cosine", sampling_timesteps=50)


def diffusers(case):
    """The UNet2DModel of diffusers in the form of google/ddpm-cifar10-32, with the error of the noise."""
    from diffusers import DDPMScheduler, UNet2DModel

    flags, widths = case["attention_levels"], [case["dim"] * m for m in case["dim_mults"]]
    network = UNet2DModel(
        in_channels=case["channels"], out_channels=case["channels"], block_out_channels=widths, layers_per_block=2,
        down_block_types=["AttnDownBlock2D" if flag else "DownBlock2D" for flag in flags],
        up_block_types=["AttnUpBlock2D" if flag else "UpBlock2D" for flag in reversed(flags)],
        attention_head_dim=None, norm_eps=1e-6, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1)
    return network, ErrorOfNoise(network, DDPMScheduler(1000))


class ErrorOfNoise(torch.nn.Module):
    """The loss of images in [0, 1] at random steps, as diffusers' training script computes it."""

    def __init__(self, network, scheduler):
        super().__init__()
        self.network, self.scheduler = network, scheduler

    def forward(self, images):
        noise, t = torch.randn_like(images), torch.randint(0, self.scheduler.config.num_train_timesteps, (len(images),))
        noisy = self.scheduler.add_noise(images * 2 - 1, noise, t)
        return torch.nn.functional.mse_loss(self.network(noisy, t).sample, noise)


class Work:
    def __init__(self, case, compiled):
        torch.manual_seed(0)
        self.network, self.diffusion = (diffusers if case["attention_levels"] else lucidrains)(case)
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.ema = EMA(self.diffusion, beta=0.995, update_every=1)
        if compiled:  # in place, and after the average has made its copy
            self.network.compile(dynamic=False)
        shape = case["batch"], case["channels"], case["size"], case["size"]
        self.images = torch.rand(shape)
        self.x, self.t = torch.randn(shape), torch.full(shape[:1], 500)

    def set_train(self, mode):
        if self.diffusion.training != mode:  # each goes through all modules
            self.diffusion.train(mode)

    def train(self):
        self.set_train(True)
        self.optimizer.zero_grad()
        self.diffusion(self.images).backward()
        torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update()

    def eval(self):
        self.set_train(False)
        with torch.inference_mode():
            self.network(self.x, self.t)

    def sample(self):
        self.set_train(False)
        with torch.inference_mode():
            self.diffusion.sample(batch_size=16)


def main():
    work = Work(json.loads(sys.argv[1]), "--compile" in sys.argv)
    for line in sys.stdin:
        kind, count = line.split()
        if kind == "memory":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
            continue
        began = time.perf_counter()
        for _ in range(int(count)):
            getattr(work, kind)()
        print(f"{(time.perf_counter() - began) / int(count):.6f}", flush=True)


if __name__ == "__main__":
    main()
