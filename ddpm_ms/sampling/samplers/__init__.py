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
