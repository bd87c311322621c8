"""The peer's side of scripts/benchmark_vs_torch.sh: the same work with denoising-diffusion-pytorch.

Reads a kind of work per line ("train", "eval", "sample", "memory") and answers with seconds (MiB for "memory").
Only its Unet and GaussianDiffusion are used, so the two heavy imports that those do not need are satisfied by empty modules.
"""

import resource
import sys
import time
import types

import torch

for name in ("torchvision", "torchvision.transforms", "torchvision.utils", "pytorch_fid", "pytorch_fid.fid_score",
             "pytorch_fid.inception"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]
sys.modules["torchvision"].datasets = None
sys.modules["pytorch_fid.fid_score"].calculate_frechet_distance = None
sys.modules["pytorch_fid.inception"].InceptionV3 = None

import denoising_diffusion_pytorch.denoising_diffusion_pytorch as peer  # noqa: E402
from ema_pytorch import EMA  # noqa: E402

peer.tqdm = lambda iterable, **_: iterable


class Work:
    def __init__(self, dim, dim_mults, channels, size, batch):
        torch.manual_seed(0)
        network = peer.Unet(dim, dim_mults=dim_mults, channels=channels)
        self.network = network
        self.diffusion = peer.GaussianDiffusion(network, image_size=size, beta_schedule="cosine", sampling_timesteps=50)
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.ema = EMA(self.diffusion, beta=0.995, update_every=1)
        self.images = torch.rand(batch, channels, size, size)
        self.x, self.t = torch.randn(batch, channels, size, size), torch.full((batch,), 500)

    def train(self):
        self.diffusion.train()
        self.optimizer.zero_grad()
        self.diffusion(self.images).backward()
        torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update()

    def eval(self):
        self.diffusion.eval()
        with torch.inference_mode():
            self.network(self.x, self.t)

    def sample(self):
        self.diffusion.eval()
        with torch.inference_mode():
            self.diffusion.sample(batch_size=16)


def main():
    dim, mults, channels, size, batch = sys.argv[1].split(":")
    work = Work(int(dim), tuple(map(int, mults.split(","))), int(channels), int(size), int(batch))
    for line in sys.stdin:
        kind = line.strip()
        if kind == "memory":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
            continue
        began = time.perf_counter()
        getattr(work, kind)()
        print(f"{time.perf_counter() - began:.6f}", flush=True)


if __name__ == "__main__":
    main()
