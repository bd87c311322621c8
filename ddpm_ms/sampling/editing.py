"""Beginning with given images: redraw, interpolate, fill in, invert."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from ddpm_ms.diffusion.objectives import noised
from ddpm_ms.sampling.batch import Batch
from ddpm_ms.sampling.samplers.ddim import ddim_inversion
from ddpm_ms.sampling.samplers.repaint import repaint_path, sample_repaint


def brought_to_strength(batch: Batch, images: np.ndarray, purpose: str = "sample") -> tuple[np.ndarray, list[int]]:
    """Users' ``images`` at the noise level of ``strength``, where noise or with ``invert`` DDIM inversion brings them, and the
    steps from there on ("SDEdit", arXiv:2108.01073)."""
    transitions = max(1, round(batch.options.strength * (len(batch.steps) - 1)))
    steps = batch.steps[-1 - transitions:]
    x_start = batch.normalize(images)
    if batch.options.invert:
        return inverted(batch, x_start, steps), steps
    alpha, sigma = batch.schedule.alpha_sigma(steps[0])
    return noised(x_start, batch.noise.array(-1, purpose), alpha, sigma).astype(np.float32), steps


def inverted(batch: Batch, x_start: np.ndarray, steps: list[int]) -> np.ndarray:
    """``x_start`` in [-1, 1] walked up the falling ``steps`` by DDIM inversion."""
    x = Tensor(x_start)
    return batch.last(x, ddim_inversion(batch.denoise, x, steps[::-1], batch.schedule)).asnumpy()


def interpolated(batch: Batch, x1: np.ndarray, x2: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Users' images ``x1`` and ``x2`` at the noise level of ``strength`` and there, on the sphere, between them; and the steps
    from there on (arXiv:2006.11239, figure 8)."""
    noised1, steps = brought_to_strength(batch, x1)
    noised2, _ = brought_to_strength(batch, x2, "endpoint")
    return slerp(noised1, noised2, share).astype(np.float32), steps


def inpainted(batch: Batch, images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Users' ``images`` whose pixels stay where ``mask`` is 1 and elsewhere are drawn to fit (RePaint, arXiv:2201.09865)."""
    mask = batch.space.mask(mask, len(batch))
    images = np.where(mask > 0, batch.space.repeated(images, len(batch)), 0)
    path = repaint_path(batch.steps, batch.options.jump_length, batch.options.resamplings)
    x, known = batch.noise(-1), Tensor(batch.normalize(images))
    states = sample_repaint(batch.denoise, x, path, batch.schedule, batch.noise, known=known, mask=Tensor(mask),
                            variance=batch.variance)
    last = batch.last(x, states, lambda done, x: batch.report(done, len(path) - 1, x))
    # Once more in the users' own range, where the way to [-1, 1] and back could cost a bit.
    return np.where(mask > 0, images, batch.space.unnormalize(last.asnumpy()))


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
