"""Samplers: short generators over one denoiser contract, chosen by name when sampling.

Every sampler is called as ``sampler(denoise, x, steps, schedule, noise, **options)`` and yields the image after each
transition:

- ``denoise(x, t)`` is a `Prediction`: the noise and the x0 that the network sees in ``x`` at step ``t``.
- ``x`` (B, C, H, W) is the image at ``steps[0]``, pure noise unless an image is edited.
- ``steps`` are the visited steps, noisiest first, and where to end: -1, the clean image, unless an end level is wanted.
- ``schedule`` is the `NoiseSchedule`.
- ``noise(i)`` is standard normal noise for the i-th transition, like ``x``; deterministic samplers never call it.
- ``options`` are the sampler's own: its keyword-only parameters, each a key of `SamplingConfig`.

A sampler of an ODE declares by `converges` at which order it converges.

They use nothing but arithmetic, so they run on MindSpore tensors and, as the tests do, on float64 arrays.
"""

from __future__ import annotations

import inspect
from typing import Any

from ddpm_ms.config import SamplingConfig
from ddpm_ms.errors import InputError
from ddpm_ms.sampling.samplers.ddim import sample_ddim
from ddpm_ms.sampling.samplers.ddpm import sample_ddpm
from ddpm_ms.sampling.samplers.dpmpp_2m import sample_dpmpp_2m, sample_dpmpp_2m_sde
from ddpm_ms.sampling.samplers.euler import sample_euler
from ddpm_ms.sampling.samplers.heun import sample_heun
from ddpm_ms.sampling.samplers.unipc import sample_unipc

SAMPLERS = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "euler": sample_euler,
    "heun": sample_heun,
    "dpmpp_2m": sample_dpmpp_2m,
    "dpmpp_2m_sde": sample_dpmpp_2m_sde,
    "unipc": sample_unipc,
}


def own_options(name: str) -> set[str]:
    """The keys of `SamplingConfig` that the sampler takes and that others need not take."""
    parameters = inspect.signature(SAMPLERS[name]).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def foreign_options(name: str) -> set[str]:
    """The keys of `SamplingConfig` that other samplers take and this one does not."""
    return set().union(*map(own_options, SAMPLERS)) - own_options(name)


def sampler_options(name: str, options: SamplingConfig, **defaults: Any) -> dict[str, Any]:
    """The sampler's own keywords: what ``options`` say, or where they say nothing ``defaults``.

    Raises:
        InputError: an option is set that another sampler takes and this one does not.
    """
    for key in sorted(foreign_options(name)):
        value = getattr(options, key)
        if value != SamplingConfig.model_fields[key].default:
            takers = ", ".join(other for other in SAMPLERS if key in own_options(other))
            raise InputError(f"{key} is {value} with sampler {name}, allowed with: {takers}")
    asked = {key: getattr(options, key) for key in own_options(name)}
    own_defaults = {key: value for key, value in defaults.items() if key in asked}
    return {**own_defaults, **{key: value for key, value in asked.items() if value is not None}}
