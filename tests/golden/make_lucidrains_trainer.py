"""Make lucidrains_trainer.pt, which denoising-diffusion-pytorch's Trainer saves after three steps, and
lucidrains_trainer.npz: what its network computes with the weights and with their average.

Packages as for make_lucidrains.py; python tests/golden/make_lucidrains_trainer.py
"""

import tempfile
from pathlib import Path

import make_lucidrains  # noqa: F401  satisfies the imports that are not needed
import numpy as np
import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
from denoising_diffusion_pytorch import denoising_diffusion_pytorch as theirs

HERE = Path(__file__).parent
KEYWORDS = dict(dim=4, dim_mults=(1,), full_attn=(False,), channels=1, attn_dim_head=2, attn_heads=1)


def main() -> None:
    torch.manual_seed(0)
    theirs.Dataset = lambda *_, **__: torch.rand(100, 1, 4, 4)
    theirs.cpu_count = lambda: 0
    diffusion = GaussianDiffusion(Unet(**KEYWORDS), image_size=4, timesteps=20, auto_normalize=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(diffusion, "", train_lr=1e-2, train_num_steps=3, ema_update_every=1, calculate_fid=False,
                          results_folder=folder)
        trainer.ema.update_after_step = 0  # so that the average is not the weights
        trainer.train()
        trainer.save(1)
        (HERE / "lucidrains_trainer.pt").write_bytes(Path(folder, "model-1.pt").read_bytes())
    x, time = torch.randn(2, 1, 4, 4), torch.tensor([3, 15])
    with torch.no_grad():
        outputs = {name: of.model.eval()(x, time).numpy() for name, of in
                   {"raw": diffusion, "averaged": trainer.ema.ema_model}.items()}
    np.savez_compressed(HERE / "lucidrains_trainer.npz", x=x.numpy(), time=time.numpy().astype(np.int32), **outputs)


if __name__ == "__main__":
    main()
