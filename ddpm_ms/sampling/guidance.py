"""Class labels, and guidance towards them: by the network itself (classifier-free) or by a classifier's gradient."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from ddpm_ms.config import SamplingConfig
from ddpm_ms.errors import InputError


def class_labels(num_classes: int | None, classes: Sequence[int] | None, images: range, given: bool) -> Tensor | None:
    """Labels int32 (B,) for the ``images`` of these numbers, or None for a network without classes.

    Args:
        num_classes: of the network; this number is the label that stands for no class.
        classes: what was asked for. Else image k has class k modulo ``num_classes``, or none if the images are ``given``, since
            nobody said what they show.

    Raises:
        InputError: a label is not allowed, or there are too many or too few.
    """
    if not num_classes:
        if classes is not None:
            raise InputError(f"classes are {classes}, allowed with a network that is not class-conditional: none")
        return None
    if classes is not None:
        labels = np.atleast_1d(classes).tolist()
    else:
        labels = [num_classes] * len(images) if given else [k % num_classes for k in images]
    if len(labels) != len(images):
        raise InputError(f"there are {len(labels)} classes for {len(images)} images, allowed: one each")
    for label in labels:
        if not 0 <= label <= num_classes:
            raise InputError(f"class is {label}, allowed: 0 to {num_classes - 1}, or {num_classes} for no class")
    return Tensor(np.array(labels), ms.int32)


def check_guidance(options: SamplingConfig, labels: Tensor | None) -> None:
    """Raise `InputError` if ``options`` ask for a guidance that there cannot be."""
    low, high = options.guidance_interval
    if low > high:
        raise InputError(f"guidance_interval is {low:g} to {high:g}, allowed: from the smaller to the larger")
    if labels is None and options.guidance_scale != 1:
        raise InputError(f"guidance_scale is {options.guidance_scale:g}, allowed with a network that is not class-conditional: 1")


class GuidedNetwork:
    """A network's output, guided by the class (classifier-free guidance, arXiv:2207.12598, equation 6).

    Args:
        network: (x, t, x_self_cond, classes) -> its output (B, C or 2C, H, W).
        num_timesteps: T.
        options: scale, rescaling and interval of the guidance.
        labels: int32 (B,), or None.
        no_class: the label that stands for none.
    """

    def __init__(self, network: Callable, num_timesteps: int, options: SamplingConfig, labels: Tensor | None = None,
                 no_class: int | None = None) -> None:
        self.network, self.num_timesteps, self.options, self.labels = network, num_timesteps, options, labels
        self._labels_and_none: Tensor | None = None
        if options.guidance_scale != 1 and labels is not None:
            self._labels_and_none = Tensor(np.concatenate([labels.asnumpy(), np.full(len(labels), no_class)]), ms.int32)

    def __call__(self, x: Tensor, t: int, x_self_cond: Tensor | None) -> Tensor:
        """One evaluation: of the batch, or where guidance is on of the batch twice, with its labels and with none."""
        low, high = self.options.guidance_interval
        if self._labels_and_none is None or not low <= t / max(self.num_timesteps - 1, 1) <= high:
            return self.network(x, time_of(t, len(x)), x_self_cond, self.labels)
        twice = None if x_self_cond is None else ops.cat((x_self_cond, x_self_cond))
        outputs = self.network(ops.cat((x, x)), time_of(t, 2 * len(x)), twice, self._labels_and_none)
        with_class, without = outputs[:len(x)], outputs[len(x):]
        channels = x.shape[1]
        guided = without[:, :channels] + self.options.guidance_scale * (with_class[:, :channels] - without[:, :channels])
        guided = self._rescaled(guided, with_class[:, :channels])
        # The variance, where it is learned, is that of the class.
        return guided if outputs.shape[1] == channels else ops.cat((guided, with_class[:, channels:]), 1)

    def _rescaled(self, guided: Tensor, with_class: Tensor) -> Tensor:
        """Back towards the contrast of the output with the class (arXiv:2305.08891, equations 15 and 16)."""
        share = self.options.guidance_rescale
        if share == 0:
            return guided
        ratio = _deviation(with_class) / _deviation(guided)
        return guided * (share * ratio + (1 - share))


def classifier_guided(noise: Any, x_start: Any, gradient: Any, alpha: float, sigma: float) -> tuple[Any, Any]:
    """(noise, x0), or (None, x0), moved by the ``gradient`` of log p(class | x) (classifier guidance, arXiv:2105.05233,
    algorithm 2)."""
    return None if noise is None else noise - sigma * gradient, x_start + sigma**2 / alpha * gradient


def time_of(t: int, count: int) -> Tensor:
    """Step ``t`` for each of ``count`` images, int32."""
    return Tensor(np.full(count, t), ms.int32)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation of each image, (B, 1, 1, 1)."""
    centred = x - x.mean((1, 2, 3), keep_dims=True)
    return ops.sqrt((centred * centred).mean((1, 2, 3), keep_dims=True))
