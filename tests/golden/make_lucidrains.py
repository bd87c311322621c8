"""Make lucidrains_unet_*.npz (weights, inputs and outputs of denoising-diffusion-pytorch's Unet) and lucidrains_diffusion.npz
(losses, posterior and a DDIM run of its GaussianDiffusion around a formula).

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

from denoising_diffusion_pytorch import GaussianDiffusion, LearnedGaussianDiffusion, Unet  # noqa: E402

HERE = Path(__file__).parent
CASES = {
    "plain": (dict(dim=8, dim_mults=(1, 2), channels=1, attn_dim_head=4, attn_heads=2), (8, 8)),
    "selfcond": (dict(dim=8, init_dim=12, dim_mults=(1, 2), channels=2, attn_dim_head=4, attn_heads=2,
                      self_condition=True, out_dim=3, full_attn=(True, False)), (8, 4)),
    "fourier": (dict(dim=8, dim_mults=(1, 2), channels=1, attn_dim_head=4, attn_heads=2, learned_sinusoidal_cond=True,
                     learned_sinusoidal_dim=6, full_attn=(False, False)), (4, 8)),
}


OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")


class Formula(torch.nn.Module):
    """A network that the test can repeat without torch."""

    channels, self_condition, random_or_learned_sinusoidal_cond = 1, False, False

    def __init__(self, learned_variance: bool = False) -> None:
        super().__init__()
        self.learned_variance, self.out_dim = learned_variance, 1 + learned_variance

    def forward(self, x, t, x_self_cond=None):
        output = 0.8 * torch.tanh(x + 0.3) * torch.cos(t.float() / 300).view(-1, 1, 1, 1) + 0.4 * x
        return torch.cat([output, torch.sin(3 * x)], 1) if self.learned_variance else output


def diffusion_arrays() -> dict:
    torch.manual_seed(0)
    image, noise, start = torch.rand(4, 1, 4, 4), torch.randn(4, 1, 4, 4), torch.randn(4, 1, 4, 4)
    t = torch.tensor([0, 300, 700, 980])
    arrays = {"image": image, "noise": noise, "t": t, "start": start}
    for objective in OBJECTIVES:
        for min_snr in (False, True):
            theirs = GaussianDiffusion(Formula(), image_size=4, objective=objective, beta_schedule="linear",
                                       min_snr_loss_weight=min_snr, offset_noise_strength=0.0)
            each = [theirs.p_losses(image[k:k + 1] * 2 - 1, t[k:k + 1], noise=noise[k:k + 1]) for k in range(4)]
            arrays[f"loss.{objective}.{'min_snr' if min_snr else 'default'}"] = torch.stack(each)
            arrays[f"weight.{objective}.{'min_snr' if min_snr else 'default'}"] = theirs.loss_weight[t]
        theirs = GaussianDiffusion(Formula(), image_size=4, objective=objective, beta_schedule="linear", sampling_timesteps=13)
        real = torch.randn
        torch.randn = lambda *_, **__: start
        arrays[f"ddim.{objective}"] = theirs.ddim_sample(start.shape)
        torch.randn = real
    mean, variance, log_variance = theirs.q_posterior(image, noise, t)
    arrays.update({"posterior.mean": mean, "posterior.variance": variance, "posterior.log_variance": log_variance})
    theirs = LearnedGaussianDiffusion(Formula(True), image_size=4, beta_schedule="cosine")
    theirs.vb_loss_weight = 1.0
    # At t = 0 theirs interpolates down to log(1e-20); the paper, and ours, to the posterior's log-variance at t = 1.
    simple = GaussianDiffusion(Formula(), image_size=4, objective="pred_noise", beta_schedule="cosine")
    for k in (1, 2, 3):
        one = slice(k, k + 1)
        both = theirs.p_losses(image[one] * 2 - 1, t[one], noise=noise[one], clip_denoised=False)
        arrays[f"vb.{k}"] = both - simple.p_losses(image[one] * 2 - 1, t[one], noise=noise[one])
    return {name: array.detach().numpy() for name, array in arrays.items()}


def main() -> None:
    np.savez_compressed(HERE / "lucidrains_diffusion.npz", **diffusion_arrays())
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
