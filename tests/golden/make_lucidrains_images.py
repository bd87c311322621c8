"""Make lucidrains_images.npz: the images that denoising-diffusion-pytorch's two samplers draw from our noise, with random
weights.

Packages as for make_lucidrains.py, denoising-diffusion-pytorch==2.3.4; python tests/golden/make_lucidrains_images.py
"""

from pathlib import Path

import make_lucidrains  # noqa: F401  satisfies the imports that are not needed
import numpy as np
import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from ema_pytorch import EMA
from images_cases import COUNT, LUCIDRAINS, TIMESTEPS, carrying_v, check, described, noise, weights

HERE = Path(__file__).parent
SHAPE = (3, 8, 8)


def drawn(sampler):
    """From our noise, where theirs would come from torch.randn and torch.randn_like."""
    drawing = noise(SHAPE)
    randn, randn_like = torch.randn, torch.randn_like
    torch.randn = torch.randn_like = lambda *_, **__: torch.from_numpy(next(drawing))
    try:
        return sampler((COUNT, *SHAPE)).numpy()
    finally:
        torch.randn, torch.randn_like = randn, randn_like


def main():
    unet = Unet(**LUCIDRAINS)
    shapes = {name: tuple(array.shape) for name, array in unet.state_dict().items()}
    arrays = {f"network.{key}": array for key, array in described(shapes).items()}
    for salt in ("", "averaged."):
        state = carrying_v(weights(shapes, salt))
        unet.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        few = GaussianDiffusion(unet, image_size=SHAPE[1:], timesteps=TIMESTEPS, sampling_timesteps=50)
        arrays[f"{salt}ddim"] = drawn(few.ddim_sample)
        if salt:
            arrays[f"{salt}ddpm"] = drawn(few.p_sample_loop)
    for name, images in list(arrays.items()):
        if images.dtype == np.float32:
            check(name, images)
    # What their Trainer saves: every name with its shape, and the numbers of those that are no weights.
    for part, module in {"model": few, "ema": EMA(few)}.items():
        state = {name: array.numpy() for name, array in module.state_dict().items()}
        arrays |= {f"{part}.{key}": array for key, array in described({n: a.shape for n, a in state.items()}).items()}
    arrays |= {f"buffer.{name}": array.numpy() for name, array in few.state_dict().items() if not name.startswith("model.")}
    np.savez_compressed(HERE / "lucidrains_images.npz", **arrays)


if __name__ == "__main__":
    main()
