"""`SamplingPipeline`: images from a network and the process that it was trained for."""

from __future__ import annotations

import contextlib
import functools
from typing import Callable, ContextManager, Sequence

import numpy as np
from mindspore import Tensor

from ddpm_ms.config import SamplingConfig
from ddpm_ms.diffusion.process import DiffusionProcess
from ddpm_ms.diffusion.variances import check_variance
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.parts import SAMPLERS, options_of
from ddpm_ms.sampling import editing
from ddpm_ms.sampling.batch import Batch, NoiseSource, Samples
from ddpm_ms.sampling.denoiser import Denoiser
from ddpm_ms.sampling.guidance import check_guidance, class_labels
from ddpm_ms.sampling.images import ImageSpace
from ddpm_ms.sampling.spacing import sampling_steps

Callback = Callable[[int, int, Tensor], None]


class SamplingPipeline:
    """Draws and edits images, one batch a call. `ddpm_ms.GaussianDiffusion.pipeline` is one.

    Args:
        network: (x, t, x_self_cond, classes) -> its output, float32 (B, C or 2C, H, W).
        process: that it was trained for.
        space: shape and range of its images.
        num_classes, self_condition, learned_variance: what the network has of these.
        evaluating: makes a context within which the network is in evaluation mode.
    """

    def __init__(self, network: Callable, process: DiffusionProcess, space: ImageSpace, *, num_classes: int | None = None,
                 self_condition: bool = False, learned_variance: bool = False,
                 evaluating: Callable[[], ContextManager] = contextlib.nullcontext) -> None:
        self.network, self.process, self.space, self.evaluating = network, process, space, evaluating
        self.num_classes, self.self_condition, self.learned_variance = num_classes, self_condition, learned_variance

    def sample(self, count: int, options: SamplingConfig, *, first_index: int = 0, classes: Sequence[int] | None = None,
               init_images: np.ndarray | None = None, latents: np.ndarray | None = None, guidance_fn: Callable | None = None,
               callback: Callback | None = None, return_all_timesteps: bool = False) -> Samples:
        """Draw ``count`` images, or redraw given ones; see `ddpm_ms.GaussianDiffusion.sample`."""
        if init_images is not None and latents is not None:
            raise InputError("both init_images and latents are given, allowed: one of them")
        batch = self.batch(count, options, first_index=first_index, classes=classes, guidance_fn=guidance_fn, callback=callback,
                           given=init_images is not None or latents is not None)
        sampler = self._sampler(batch)
        with self.evaluating():
            if init_images is not None:
                x, steps = editing.brought_to_strength(batch, init_images)
            elif latents is not None:
                x, steps = self.space.repeated(latents, count), batch.steps
            else:
                x, steps = batch.noise.array(-1), batch.steps
            return self._drawn(batch, sampler, x, steps, return_all_timesteps)

    def interpolate(self, x1: np.ndarray, x2: np.ndarray, lam: float | Sequence[float] | np.ndarray, options: SamplingConfig, *,
                    classes: Sequence[int] | None = None, callback: Callback | None = None) -> Samples:
        """Images between ``x1`` and ``x2``; see `ddpm_ms.GaussianDiffusion.interpolate`."""
        shares = np.atleast_1d(np.asarray(lam, np.float64))
        for share in shares:
            check_range("lam", float(share), 0, 1)
        count = max(len(x1), len(x2), len(shares))
        if len(shares) not in (1, count):
            raise InputError(f"lam has {len(shares)} entries for {count} images, allowed: 1 or {count}")
        batch = self.batch(count, options, classes=classes, callback=callback, given=True,
                           shared_noise=len(x1) == len(x2) == 1)
        sampler = self._sampler(batch)
        with self.evaluating():
            x, steps = editing.interpolated(batch, x1, x2, shares)
            return self._drawn(batch, sampler, x, steps)

    def inpaint(self, img: np.ndarray, mask: np.ndarray, options: SamplingConfig, *, count: int | None = None,
                first_index: int = 0, classes: Sequence[int] | None = None, callback: Callback | None = None) -> Samples:
        """Fill in what is unknown of ``img``; see `ddpm_ms.GaussianDiffusion.inpaint`."""
        batch = self.batch(count or len(img), options, first_index=first_index, classes=classes, callback=callback, given=True)
        with self.evaluating():
            return batch.samples(editing.inpainted(batch, img, mask))

    def invert(self, img: np.ndarray, options: SamplingConfig, *, classes: Sequence[int] | None = None) -> Samples:
        """The noise that DDIM makes ``img`` of, as images; see `ddpm_ms.GaussianDiffusion.invert`."""
        batch = self.batch(len(img), options, classes=classes, given=True)
        with self.evaluating():
            return batch.samples(editing.inverted(batch, batch.normalize(img), batch.steps))

    def batch(self, count: int, options: SamplingConfig, *, first_index: int = 0, classes: Sequence[int] | None = None,
              given: bool = False, shared_noise: bool = False, guidance_fn: Callable | None = None,
              callback: Callback | None = None) -> Batch:
        """What drawing ``count`` images takes.

        Args:
            count: images in the batch.
            options: how to draw, and the seed.
            first_index: number of the first image.
            classes, given: labels; see `class_labels`.
            shared_noise: every image has the noise of the first.
            guidance_fn: see `Denoiser`.
            callback: see `Batch`.

        Raises:
            InputError: an argument is not allowed.
        """
        check_range("batch_size", count, 1)
        schedule, numbers = self.process.schedule, range(first_index, first_index + count)
        steps = sampling_steps(schedule, len(schedule) if options.steps is None else options.steps, options.spacing)
        labels = class_labels(self.num_classes, classes, numbers, given)
        check_guidance(options, labels)
        variance = check_variance(options.variance or self.process.variance, self.learned_variance)
        denoise = Denoiser(self.network, schedule, self.process.objective, options, labels, self.num_classes,
                           self.self_condition, guidance_fn)
        noise = NoiseSource(options.seed, [first_index] * count if shared_noise else numbers, self.space.shape)
        return Batch(denoise, schedule, steps, noise, self.space, options, variance, callback)

    def check(self, options: SamplingConfig) -> None:
        """Raise `InputError` if `sample` would not take ``options``."""
        self.batch(1, options)

    def _sampler(self, batch: Batch) -> Callable:
        """The sampler that the options name, with its own options."""
        sampler = SAMPLERS[batch.options.sampler]
        given = {**dict(batch.options), "variance": batch.variance}
        return functools.partial(sampler, **{name: given[name] for name in options_of(sampler) if given.get(name) is not None})

    def _drawn(self, batch: Batch, sampler: Callable, x: np.ndarray, steps: list[int],
               return_all_timesteps: bool = False) -> Samples:
        """From ``x`` at ``steps[0]`` to the images."""
        start, kept = Tensor(x), []
        states = sampler(batch.denoise, start, steps, batch.schedule, batch.noise)

        def observe(done: int, x: Tensor) -> None:
            if return_all_timesteps:
                kept.append(self.space.unnormalize(x.asnumpy()))
            batch.report(done, len(steps) - 1, x)

        last = self.space.unnormalize(batch.last(start, states, observe).asnumpy())
        return batch.samples(np.stack(kept, 1) if return_all_timesteps else last)
