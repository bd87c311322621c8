"""From what pydantic finds wrong to one line that names the key, the value and what is allowed."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Literal, Mapping, Union

from pydantic import ValidationError
from pydantic_core import PydanticCustomError, core_schema

from ddpm_ms.errors import InputError, did_you_mean, shown
from ddpm_ms.parts import Registry

if TYPE_CHECKING:  # it imports this module
    from ddpm_ms.config.sections import Section

LARGEST_INT = 2**63 - 1
_BOUNDS = {"greater_than_equal", "less_than_equal", "finite_number", "too_short"}  # pydantic's names of these errors
_NAMES = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}


@dataclass(frozen=True)
class OneOf:
    """Annotates a text that names one of the ``parts``."""

    parts: Registry

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.parts)}

    def _check(self, name: str) -> str:
        if name not in self.parts:
            raise PydanticCustomError("no_part", "no such part")
        return name


def check_keys(section: type[Section], values: Mapping[Any, Any]) -> None:
    """Raise `InputError` for the first key that ``section`` does not have."""
    for key in values:
        if key not in section.model_fields:
            unknown_key(key, section)


def unknown_key(key: Any, section: type[Section] | None = None) -> None:
    """Raise the `InputError` about a key that the ``section`` does not have; without one, about what is no section. It says the
    new name of an old key, the name here of what other projects call so, or the nearest."""
    from ddpm_ms.config.sections import SECTIONS  # which imports this module

    prefix = f"{section.section}." if section else ""
    known: Mapping[str, Any] = section.model_fields if section else {**SECTIONS, "init": None, "base": None}
    if section and isinstance(key, str) and key in section.renamed:
        said = f", allowed: {section.renamed[key]}"
    else:
        said = (_meant(key, [section] if section else []) or _meant(key, SECTIONS.values())
                or did_you_mean(key, known, prefix) or f", allowed: {', '.join(known)}")
    raise InputError(f"unknown key '{prefix}{key if isinstance(key, str) else shown(key)}'{said}")


def _meant(key: Any, sections: Iterable[type[Section]]) -> str:
    """``", did you mean 'training.train_lr'?"`` for a key that one of the ``sections`` has, or that a field of it is ``also``
    called, whatever the hyphens and capitals; else nothing."""
    def squeezed(name: Any) -> str:
        return str(name).replace("_", "").replace("-", "").lower()

    found = [f"'{section.section}.{name}'" for section in sections if section.section != "distillation"
             for name, field in section.model_fields.items()
             if isinstance(key, str) and squeezed(key) in map(squeezed, (name, *_also(field)))]
    return f", did you mean {' or '.join(found)}?" if found else ""


def _also(field: Any) -> list[str]:
    return list((field.json_schema_extra or {}).get("also", ()))


def line_about(section: type[Section], values: Mapping[str, Any], error: ValidationError) -> str:
    """``"training.train_lr is -1, allowed: at least 0.0"``, for the first of the ``values`` that is wrong."""
    found = error.errors(include_url=False)
    key = str(found[0]["loc"][0])
    # Of a value that may be several things, one that has a bound is the one that was meant.
    bound = next((e for e in found if e["loc"][0] == key and e["type"] in _BOUNDS), None)
    field = section.model_fields[key]
    annotation, limits = field.annotation, {**_limits(field.metadata), **_limits(_metadata(field.annotation))}
    value = bound["input"] if bound else values[key]
    name = f"{section.section}.{key}"
    if isinstance(value, str) and f"{key}={value}" in section.renamed:
        return f"{name} is {shown(value)}, allowed: {section.renamed[f'{key}={value}']}"
    names = choices(field)
    if names:
        return f"{name} is {shown(value)}, allowed: {_named(names, value)}"
    if bound and bound["type"] == "too_short" and not bound["input"]:
        return f"{name} is empty, allowed: at least one number"
    return f"{name} is {shown(value)}, allowed: {_range(limits, bound) if bound else _describe(annotation, value)}"


def choices(field: Any) -> tuple[Any, ...]:
    """What a field of a section can be, where that is one of a few words, or the name of a part or several; else nothing."""
    for mark in (*field.metadata, *_metadata(field.annotation)):
        if isinstance(mark, OneOf):
            return tuple(mark.parts)
    return typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else ()


def _named(names: tuple[Any, ...], value: Any) -> str:
    return ", ".join(map(str, names)) + (did_you_mean(value, names) if isinstance(value, str) else "")


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
        return _named(args, value)
    if origin is tuple:
        inner = _describe(args[0], value)
        return f"a list of {inner}s" if args[-1] is Ellipsis else f"a list of {len(args)} {inner}s"
    return _NAMES.get(annotation, str(annotation))
