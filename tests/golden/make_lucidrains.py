"""Make lucidrains_unet_*.npz: weights, inputs and outputs of denoising-diffusion-pytorch's Unet.

    pip install --no-deps denoising-diffusion-pytorch==2.3.4
    pip install torch==2.13.0 "numpy<2" einops ema-pytorch accelerate scipy pillow tqdm
    python tests/golden/make_lucidrains.py

Only its Unet and GaussianDiffusion are used, so the two heavy imports that those do not need are satisfied by empty modules.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

for name in ("torchvision", "torchvision.transforms", "torchvision.utils", "pytorch_fid", "pytorch_fid.fid_score",
             "pytorch_fid.inception"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]
sys.modules["pytorch_fid.fid_score"].calculate_frechet_distance = None
sys.modules["pytorch_fid.inception"].InceptionV3 = None
sys.modules["torchvision"].datasets = None

from denoising_diffusion_pytorch import Unet  # noqa: E402

HERE = Path(__file__).parent
CASES = {
    "plain": (dict(dim=8, dim_mults=(1, 2), channels=1, attn_dim_head=4, attn_heads=2), (8, 8)),
    "selfcond": (dict(dim=8, init_dim=12, dim_mults=(1, 2), channels=2, attn_dim_head=4, attn_heads=2,
                      self_condition=True, out_dim=3, full_attn=(True, False)), (8, 4)),
    "fourier": (dict(dim=8, dim_mults=(1, 2), channels=1, attn_dim_head=4, attn_heads=2, learned_sinusoidal_cond=True,
                     learned_sinusoidal_dim=6, full_attn=(False, False)), (4, 8)),
}


def main() -> None:
    for name, (keywords, (height, width)) in CASES.items():
        torch.manual_seed(0)
        model = Unet(**keywords).eval()
        x = torch.randn(2, keywords["channels"], height, width)
        cond = torch.randn_like(x)
        time = torch.tensor([3, 950])
        arrays = {f"weight.{k}": v.numpy() for k, v in model.state_dict().items()}
        with torch.no_grad():
            arrays["output"] = model(x, time).numpy()
            if keywords.get("self_condition"):
                arrays["output_self_cond"] = model(x, time, cond).numpy()
        np.savez_compressed(HERE / f"lucidrains_unet_{name}.npz", x=x.numpy(), x_self_cond=cond.numpy(),
                            time=time.numpy().astype(np.int32), **arrays)


if __name__ == "__main__":
    main()
