"""Samplers: short generators over one denoiser contract, chosen by name when sampling.

Every sampler is called as ``sampler(denoise, x, steps, schedule, noise)`` and yields the image after each transition:

- ``denoise(x, t)`` is a `Prediction`: the noise and the x0 that the network sees in ``x`` at step ``t``.
- ``x`` (B, C, H, W) is the image at ``steps[0]``, pure noise unless an image is edited.
- ``steps`` are the visited steps, noisiest first, and where to end: -1, the clean image, unless an end level is wanted.
- ``schedule`` is the `NoiseSchedule`.
- ``noise(i)`` is standard normal noise for the i-th transition, like ``x``; deterministic samplers never call it.
- The options that a sampler takes are its keyword-only parameters: ``eta`` of DDIM, ``variance`` of DDPM.

They use nothing but arithmetic, so they run on MindSpore tensors and, as the tests do, on float64 arrays.
"""

from ddpm_ms.diffusion.samplers.ancestral import sample_ddpm
from ddpm_ms.diffusion.samplers.ddim import ddim_inversion, sample_ddim
from ddpm_ms.diffusion.samplers.heun import sample_heun
from ddpm_ms.diffusion.samplers.multistep import sample_dpmpp_2m, sample_dpmpp_2m_sde
from ddpm_ms.diffusion.samplers.repaint import repaint_path, sample_repaint
from ddpm_ms.diffusion.samplers.spacing import sampling_steps
from ddpm_ms.diffusion.samplers.unipc import sample_unipc
from ddpm_ms.parts import SAMPLERS, SPACINGS

__all__ = ["SAMPLERS", "SPACINGS", "ddim_inversion", "repaint_path", "sample_ddim", "sample_ddpm", "sample_dpmpp_2m",
           "sample_dpmpp_2m_sde", "sample_heun", "sample_repaint", "sample_unipc", "sampling_steps"]
