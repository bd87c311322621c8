"""One noised image seen as x0, as noise and as v (arXiv:2202.00512, appendix D).

x = alpha x0 + sigma noise and v = alpha noise - sigma x0, with alpha^2 + sigma^2 = 1. Nothing but arithmetic: ``alpha`` and
``sigma`` are floats or broadcast to the images, which may be tensors in a compiled graph or float64 arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Prediction(NamedTuple):
    """What a network says of ``x`` at step t: views of one output, each (B, C, H, W)."""

    pred_noise: Any
    pred_x_start: Any
    variance_fraction: Any = None  # where the variance is learned: 0 is fixed_small, 1 is fixed_large


def noised(x_start: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
    """x, from x0 and the noise."""
    return alpha * x_start + sigma * noise


def velocity(x_start: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
    """v, from x0 and the noise."""
    return alpha * noise - sigma * x_start


def start_from_noise(x: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
    """x0, from x and the noise. The one that divides by alpha: with no signal at all, x0 does not follow from the noise."""
    return (x - sigma * noise) / alpha


def noise_from_start(x: Any, x_start: Any, alpha: Any, sigma: Any) -> Any:
    """The noise, from x and x0."""
    return (x - alpha * x_start) / sigma


def start_from_velocity(x: Any, v: Any, alpha: Any, sigma: Any) -> Any:
    """x0, from x and v."""
    return alpha * x - sigma * v


def noise_from_velocity(x: Any, v: Any, alpha: Any, sigma: Any) -> Any:
    """The noise, from x and v."""
    return sigma * x + alpha * v


def noise_of(objective: str, output: Any, x: Any, alpha: Any, sigma: Any) -> Any:
    """The noise, from the ``output`` of a network that predicts what ``objective`` names."""
    if objective == "pred_noise":
        return output
    return (noise_from_start if objective == "pred_x0" else noise_from_velocity)(x, output, alpha, sigma)


def start_of(objective: str, output: Any, x: Any, alpha: Any, sigma: Any) -> Any:
    """x0, from the same."""
    if objective == "pred_x0":
        return output
    return (start_from_noise if objective == "pred_noise" else start_from_velocity)(x, output, alpha, sigma)


def noise_and_start(objective: str, output: Any, x: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """(noise, x0), from the same."""
    return noise_of(objective, output, x, alpha, sigma), start_of(objective, output, x, alpha, sigma)


def target(objective: str, x_start: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
    """The output that a network of this ``objective`` should have."""
    if objective == "pred_noise":
        return noise
    if objective == "pred_x0":
        return x_start
    return velocity(x_start, noise, alpha, sigma)
