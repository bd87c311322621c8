"""From what pydantic finds wrong to one line that names the key, the value and what is allowed."""

from __future__ import annotations

import typing
from typing import Any, Iterator, Literal, Mapping, Union

from pydantic import BaseModel, ValidationError

from ddpm_ms.errors import InputError, did_you_mean, shown

LARGEST_INT = 2**63 - 1
# Keys that are no more, and what says the same.
RENAMED = {"diffusion.min_snr_loss_weight": ", allowed: loss_weight: min_snr"}
_BOUNDS = {"greater_than_equal", "less_than_equal", "finite_number", "too_short"}  # pydantic's names of these errors
_NAMES = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}


def check_keys(section: type[BaseModel], values: Mapping[Any, Any]) -> None:
    """Raise `InputError` for the first key that ``section`` does not have."""
    for key in values:
        if key not in section.model_fields:
            unknown_key(f"{section.section}.", key, section.model_fields)


def unknown_key(prefix: str, key: Any, known: Mapping[str, Any]) -> None:
    """Raise the `InputError` about a key that is not among ``known``."""
    name = f"{prefix}{key}" if isinstance(key, str) else f"{prefix}{shown(key)}"
    nearest = RENAMED.get(name) or did_you_mean(key, known) or f", allowed: {', '.join(known)}"
    raise InputError(f"unknown key '{name}'{nearest}")


def line_about(section: type[BaseModel], values: Mapping[str, Any], error: ValidationError) -> str:
    """``"training.train_lr is -1, allowed: at least 0.0"``, for the first of the ``values`` that is wrong."""
    found = error.errors(include_url=False)
    key = found[0]["loc"][0]
    # Of a value that may be several things, one that has a bound is the one that was meant.
    bound = next((e for e in found if e["loc"][0] == key and e["type"] in _BOUNDS), None)
    annotation = section.model_fields[key].annotation
    limits = {**_limits(section.model_fields[key].metadata), **_limits(_metadata(annotation))}
    value = bound["input"] if bound else values[key]
    name = f"{section.section}.{key}"
    if bound and bound["type"] == "too_short" and not bound["input"]:
        return f"{name} is empty, allowed: at least one number"
    return f"{name} is {shown(value)}, allowed: {_range(limits, bound) if bound else _describe(annotation, value)}"


def _metadata(annotation: Any) -> Iterator[Any]:
    for part in typing.get_args(annotation):
        yield from getattr(part, "__metadata__", ())
        yield from _metadata(part)


def _limits(metadata: Any) -> dict[str, Any]:
    return {side: getattr(m, side) for m in metadata for side in ("ge", "le") if hasattr(m, side)}


def _range(limits: dict[str, Any], error: Any) -> str:
    low, high = limits.get("ge"), limits.get("le")
    if error["type"] == "less_than_equal" and high == LARGEST_INT:
        return "whole numbers of at most 63 bits"
    if high not in (None, LARGEST_INT):
        return f"{low} to {high}"
    return "a finite number" if error["type"] == "finite_number" else f"at least {low}"


def _describe(annotation: Any, value: Any) -> str:
    """A type as a person says it."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _describe(args[0], value)
    if origin is Union:
        return " or ".join(_describe(option, value) for option in args)
    if origin is Literal:
        return ", ".join(map(str, args)) + (did_you_mean(value, args) if isinstance(value, str) else "")
    if origin is tuple:
        inner = _describe(args[0], value)
        return f"a list of {inner}s" if args[-1] is Ellipsis else f"a list of {len(args)} {inner}s"
    return _NAMES.get(annotation, str(annotation))
