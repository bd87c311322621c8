"""The peer's side of scripts/quality_vs_torch.sh: denoising-diffusion-pytorch trained with its own defaults.

    python quality_peer.py IMAGES.npz WEIGHTS.npz DIM DIM_MULTS BATCH LEARNING_RATE STEPS SEED

Its Unet, its GaussianDiffusion (pred_v and its loss weight are defaults; the schedule is the recipes'), its average (decay 0.995,
every 10th step), Adam with its Trainer's betas and clipping. Its Trainer itself reads folders of image files only, and mirrors
them.
"""

import sys

import numpy as np
import torch
from benchmark_peer import EMA, denoising_diffusion_pytorch


def main():
    images, weights, dim, mults, batch, rate, steps, seed = sys.argv[1:]
    torch.manual_seed(int(seed))
    peer = denoising_diffusion_pytorch()
    images = torch.from_numpy(np.load(images)["images"])
    network = peer.Unet(int(dim), dim_mults=tuple(map(int, mults.split(","))), channels=images.shape[1])
    diffusion = peer.GaussianDiffusion(network, image_size=images.shape[2], beta_schedule="cosine")
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=float(rate), betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10)
    batches = endless(images, int(batch))
    diffusion.train()
    for step in range(1, int(steps) + 1):
        optimizer.zero_grad()
        loss = diffusion(next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if step % 100 == 0:
            print(f"step {step}/{steps}  loss {loss.item():.4f}", flush=True)
    cells = {"raw": network, "averaged": ema.ema_model.model}
    np.savez(weights, **{f"{kind}/{name}": array.numpy() for kind, cell in cells.items()
                         for name, array in cell.state_dict().items()})


def endless(images, batch):
    """Batches of float images, every image once per epoch."""
    while True:
        order = torch.randperm(len(images))
        for first in range(0, len(images) - batch + 1, batch):
            yield images[order[first:first + batch]].float() / 255


if __name__ == "__main__":
    main()
