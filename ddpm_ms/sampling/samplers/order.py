"""What a sampler says of itself."""

from __future__ import annotations

from typing import Any, Callable


def converges(order: int) -> Callable[[Any], Any]:
    """Declare the order at which a deterministic sampler converges to the solution of the probability-flow ODE.

    A sampler that declares none solves an SDE: it is judged by the distribution of its images.
    """

    def declare(sampler: Any) -> Any:
        sampler.order = order
        return sampler

    return declare


def order_of(sampler: Any) -> int | None:
    """The order that `converges` declared; None for a solver of an SDE."""
    return getattr(sampler, "order", None)
