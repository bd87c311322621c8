"""One run of a sampler: which images, from which noise, over which steps."""

from __future__ import annotations

import contextlib
import itertools
import secrets
from typing import Any, Callable, Iterable, Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ddpm_ms import rng
from ddpm_ms.config import SamplingConfig
from ddpm_ms.diffusion.denoiser import Denoiser
from ddpm_ms.diffusion.samplers import ddim_inversion, repaint_path, sample_repaint, sampling_steps
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.parts import SAMPLERS, options_of


class Generation:
    """Everything `GaussianDiffusion.sample` and its relatives share.

    Args:
        diffusion: the process and its network.
        options: how to sample.
        count: images in the batch.
        seed, first_index: image k of the batch is number ``first_index`` + k of ``seed``; a seed of None is a new one.
        classes: labels, one per image.
        guidance_fn: see `Denoiser`.
        callback: called at the beginning and after each transition with (transitions done, of how many, x as it is now).
        shared_noise: every image of the batch has the noise of the first.
        editing: images are given, so that without ``classes`` the network is told none. Else image k has class k modulo
            num_classes.
    """

    def __init__(self, diffusion: Any, options: SamplingConfig, count: int, *, seed: int | None = None, first_index: int = 0,
                 classes: Sequence[int] | None = None, guidance_fn: Callable | None = None,
                 callback: Callable[[int, int, Tensor], None] | None = None, shared_noise: bool = False,
                 editing: bool = False) -> None:
        self.diffusion, self.options, self.callback = diffusion, options, callback
        check_range("batch_size", count, 1)
        self.seed = secrets.randbits(63) if seed is None else check_range("seed", seed, 0, 2**63 - 1)
        self.images = range(first_index, first_index + count)
        self.noise_of = [first_index] * count if shared_noise else self.images
        steps = diffusion.num_timesteps if options.steps is None else options.steps
        self.steps = sampling_steps(diffusion.schedule, steps, options.spacing)
        num_classes = getattr(diffusion.model, "num_classes", None)
        if editing and num_classes and classes is None:
            classes = [num_classes] * count  # nobody said what the given images show
        labels = _labels(num_classes, classes, self.images)
        low, high = options.guidance_interval
        if low > high:
            raise InputError(f"guidance_interval is {low:g} to {high:g}, allowed: from the smaller to the larger")
        if labels is None and options.guidance_scale != 1:
            raise InputError(f"guidance_scale is {options.guidance_scale:g}, allowed with a network that is not "
                             "class-conditional: 1")
        self.denoise = Denoiser(diffusion.network_graph(), diffusion.schedule, diffusion.objective, options, labels, num_classes,
                                diffusion.self_condition, guidance_fn)

    def noise(self, transition: int) -> Tensor:
        """Standard normal noise of a transition; -1 is what sampling begins with."""
        return Tensor(self._normal(transition, "sample"))

    def noised(self, images: np.ndarray, purpose: str = "sample") -> tuple[np.ndarray, list[int]]:
        """``images`` (B, C, H, W) as their users give them, brought to the level that ``strength`` asks for, by noise or
        with ``invert`` by DDIM inversion; and the steps from there on."""
        steps = self.steps[-1 - max(1, round(self.options.strength * (len(self.steps) - 1))):]
        x_start = self.inside(images)
        if self.options.invert:
            return self.inverted(x_start, steps[::-1]), steps
        alpha, sigma = self.diffusion.schedule.alpha_sigma(steps[0])
        return (alpha * x_start + sigma * self._normal(-1, purpose)).astype(np.float32), steps

    def inverted(self, x_start: np.ndarray, rising: list[int]) -> np.ndarray:
        """``x_start`` in [-1, 1] walked up ``rising`` steps by DDIM inversion."""
        x = Tensor(x_start)
        states = ddim_inversion(self.denoise, x, rising, self.diffusion.schedule)
        return self._last(x, states, lambda done, x: None).asnumpy()

    def sampled(self, x: Tensor, steps: list[int], return_all_timesteps: bool = False) -> np.ndarray:
        """Images in their users' range, from ``x`` at ``steps[0]``; with all timesteps (B, transitions + 1, C, H, W)."""
        sampler = SAMPLERS[self.options.sampler]
        given = {**dict(self.options), "variance": self.variance}
        taken = {name: given[name] for name in options_of(sampler) if given.get(name) is not None}
        states = sampler(self.denoise, x, steps, self.diffusion.schedule, self.noise, **taken)
        kept = []

        def keep(done: int, x: Tensor) -> None:
            if return_all_timesteps:
                kept.append(self.outside(x.asnumpy()))
            self._tell(done, len(steps) - 1, x)

        last = self.outside(self._last(x, states, keep).asnumpy())
        return np.stack(kept, 1) if return_all_timesteps else last

    def inpainted(self, images: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Images whose pixels where ``mask`` is 1 are those of ``images``, and whose others fit them."""
        mask = self._mask(mask)
        images = np.where(mask > 0, self.one_each(images), 0)
        path = repaint_path(self.steps, self.options.jump_length, self.options.resamplings)
        known, x = Tensor(self.inside(images)), self.noise(-1)
        states = sample_repaint(self.denoise, x, path, self.diffusion.schedule, self.noise,
                                variance=self.variance, known=known, mask=Tensor(mask))
        # Once more in the users' own range, where the way to [-1, 1] and back could cost a bit.
        last = self._last(x, states, lambda done, x: self._tell(done, len(path) - 1, x))
        return np.where(mask > 0, images, self.outside(last.asnumpy()))

    @property
    def variance(self) -> str:
        """Of DDPM: what the options say, or what the process is defined with."""
        return self.diffusion.check_variance(self.options.variance or self.diffusion.variance)

    def inside(self, images: np.ndarray) -> np.ndarray:
        """(B or 1, C, H, W) as users give them to one each in [-1, 1]."""
        images = self.one_each(images)
        low = 0 if self.diffusion.auto_normalize else -1
        if not (images.min() >= low - 1e-3 and images.max() <= 1 + 1e-3):
            raise InputError(f"images have values from {images.min():g} to {images.max():g}, allowed: {low} to 1")
        return images * 2 - 1 if self.diffusion.auto_normalize else images

    def outside(self, x: np.ndarray) -> np.ndarray:
        """[-1, 1], clipped, to the users' range."""
        x = np.clip(x, -1, 1)
        return (x + 1) / 2 if self.diffusion.auto_normalize else x

    def one_each(self, images: np.ndarray) -> np.ndarray:
        """float32 (B, C, H, W) from as many images or from a single one that stands for all."""
        shape = (len(self.images), self.diffusion.channels, *self.diffusion.image_size)
        images = np.asarray(images, np.float32)
        if images.shape[1:] != shape[1:] or len(images) not in (1, shape[0]):
            raise InputError(f"images have shape {images.shape}, allowed: {shape} (batch, channels, height, width)")
        return np.array(np.broadcast_to(images, shape))

    def _mask(self, mask: np.ndarray) -> np.ndarray:
        """float32 (B, C, H, W) of 0 and 1."""
        shape = (len(self.images), self.diffusion.channels, *self.diffusion.image_size)
        mask = np.asarray(mask, np.float32)
        if mask.shape[-2:] != shape[-2:] or mask.ndim > 4 or any(m not in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1])):
            raise InputError(f"the mask has shape {mask.shape}, allowed: {shape[-2:]} (height, width), or what broadcasts to "
                             f"{shape}")
        if not np.isin(mask, (0, 1)).all():
            raise InputError("the mask has values other than 0 and 1, allowed: 1 where a pixel is known, 0 where it is not")
        return np.array(np.broadcast_to(mask, shape))

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block the network is in evaluation mode; afterwards its evaluations are known."""
        try:
            with evaluation_mode(self.diffusion.model):
                yield
        finally:
            self.diffusion.nfe = self.denoise.nfe

    def _normal(self, transition: int, purpose: str) -> np.ndarray:
        return rng.normal(self.seed, purpose, transition + 1, self.noise_of,
                          (self.diffusion.channels, *self.diffusion.image_size))

    def _last(self, start: Tensor, states: Iterable[Tensor], see: Callable[[int, Tensor], None]) -> Tensor:
        """The last of ``states``; ``see`` is shown ``start`` and all of them, with the number of transitions so far."""
        self.denoise.forget()
        with self.evaluating():
            for done, x in enumerate(itertools.chain([start], states)):
                see(done, x)
        return x

    def _tell(self, done: int, transitions: int, x: Tensor) -> None:
        if self.callback is not None:
            self.callback(done, transitions, x)


@contextlib.contextmanager
def evaluation_mode(network: nn.Cell) -> Iterator[None]:
    """Within the block ``network`` does not train: no dropout, no statistics that move."""
    was_training = network.training
    network.set_train(False)
    try:
        yield
    finally:
        network.set_train(was_training)


def slerp(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Spherical interpolation of each image (B, C, H, W) of ``a`` with that of ``b``, in float64: a at share 0, b at share 1.

    Between two noised images it keeps the norm that the network expects, which the straight line does not.
    """
    rows = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    lengths = [np.linalg.norm(row, axis=1) for row in rows]
    cosine = np.clip((rows[0] * rows[1]).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-300), -1, 1)
    angle = np.arccos(cosine)
    share = np.asarray(share, np.float64)
    straight = np.sin(angle) < 1e-6  # the same direction: the arc is a line
    sine = np.where(straight, 1, np.sin(angle))
    of_a = np.where(straight, 1 - share, np.sin((1 - share) * angle) / sine).reshape(-1, 1, 1, 1)
    of_b = np.where(straight, share, np.sin(share * angle) / sine).reshape(-1, 1, 1, 1)
    return of_a * a + of_b * b


def _labels(count: int | None, classes: Sequence[int] | None, images: range) -> Tensor | None:
    """Checked labels (B,) for a network of ``count`` classes, or None if it takes none."""
    if not count:
        if classes is not None:
            raise InputError(f"classes are {classes}, allowed with a network that is not class-conditional: none")
        return None
    labels = [k % count for k in images] if classes is None else np.atleast_1d(classes).tolist()
    if len(labels) != len(images):
        raise InputError(f"there are {len(labels)} classes for {len(images)} images, allowed: one each")
    for label in labels:
        check_range("class", label, 0, count)
    return Tensor(np.array(labels), ms.int32)
