"""Write what the sections and the parsers say: docs/reference.md for people, configs/recipe.schema.json for editors.

    python scripts/make_reference.py
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import textwrap
import typing
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

from pydantic.fields import FieldInfo

import ddpm_ms.models  # noqa: F401 (the keys of a network are defined beside it)
from ddpm_ms import cli
from ddpm_ms.config import Config, CustomConfig, SamplingConfig, Section
from ddpm_ms.config.sections import SECTIONS

ROOT = Path(__file__).parents[1]
PAGE, SCHEMA = ROOT / "docs" / "reference.md", ROOT / "configs" / "recipe.schema.json"
HEAD = """# Reference

<!-- Written by scripts/make_reference.py: change the field or the parser, not this page. -->

Every [key of a recipe](#keys) and every [command](#commands). The guides say what to use them for:
[training](training.md), [sampling](sampling.md), [data](data.md).
"""
KEYS = """## Keys

A recipe is a YAML file of sections. It states what differs from these defaults; `section.key=value` on the command line
changes it further. In Python the same keys are keywords: those of `model` of the network's class, those of `diffusion` of
`GaussianDiffusion`, those of `training` of `Trainer`, and those of `sampling` of `sample` and its relatives.
"""
COMMANDS = """## Commands

`ddpm-ms COMMAND --help` prints the same. The exit status is 0 when the work is done, 1 when training or an evaluation
failed, 2 when the input is wrong, and 130 after an interruption with nothing to save.
"""
TYPES = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text", type(None): "`null`"}
JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
BASE, INIT = "another recipe, whose keys this one changes", str(Config.model_fields["init"].description)
LARGEST = 2**53  # a larger bound is that of the computer


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, KEYS, beside(), *keys(), COMMANDS, *commands(cli.parser())]).rstrip() + "\n"


# Keys.


def beside() -> str:
    """What is no section."""
    return textwrap.fill(f"Beside the sections stand `base`, {BASE}, and `init`, {INIT}.", 120) + "\n"


def keys() -> Iterator[str]:
    """A heading and a table for every section, in the order of a recipe; what several classes of a section share comes once."""
    for name in SECTIONS:
        base, *others = _classes_of(name)
        yield f"### {name}\n\n{_first_paragraph(base)}\n"
        yield _table({**base.model_fields, **({"name": _choice_among(others)} if others else {})})
        for kind in others:
            yield f"#### {name}.name: {_name_of(kind)}\n\n{_first_paragraph(kind)}\n"
            own = _own_keys(kind, base)
            yield _table(own) if own else "No keys of its own.\n"


def _classes_of(name: str) -> list[type[Section]]:
    """The class of a section; where its key ``name`` chooses among several, what they share and then all of them, the default
    first."""
    base, *others = [kind for kind in _classes(Section) if getattr(kind, "section", None) == name and kind is not CustomConfig]
    default = type(getattr(Config(), name))
    return [base, *sorted(others, key=lambda kind: (kind is not default, not _own_keys(kind, base), _name_of(kind)))]


def _own_keys(kind: type[Section], base: type[Section]) -> dict[str, FieldInfo]:
    return {key: field for key, field in kind.model_fields.items() if key not in base.model_fields}


def _name_of(kind: type[Section]) -> str:
    return kind.model_fields["name"].default


def _choice_among(kinds: Sequence[type[Section]]) -> FieldInfo:
    """The field that chooses one of ``kinds``, by default the first."""
    names = tuple(map(_name_of, kinds))
    return FieldInfo(annotation=typing.Literal[names], default=names[0], description="which of those below")


def _classes(kind: type) -> Iterator[type]:
    """This package's classes below ``kind``, in the order in which they were defined."""
    for below in kind.__subclasses__():
        if below.__module__.startswith("ddpm_ms."):
            yield below
            yield from _classes(below)


def _table(fields: Mapping[str, FieldInfo]) -> str:
    rows = ["| key | default | allowed | what |", "| --- | --- | --- | --- |"]
    for key, field in fields.items():
        default = "" if field.is_required() else f"`{_yaml(field.default)}`"
        rows.append(_row(f"`{key}`", default, _allowed(field.annotation, field.metadata), field.description or ""))
    return "\n".join(rows) + "\n"


def _yaml(value: Any) -> str:
    """A value as a recipe writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(int(value) if isinstance(value, float) and value == int(value) else value)


def _allowed(annotation: Any, metadata: Iterable[Any] = (), plural: str = "") -> str:
    """A type and its bounds in words."""
    origin, args, metadata = typing.get_origin(annotation), typing.get_args(annotation), list(metadata)
    if hasattr(annotation, "__metadata__"):
        return _allowed(args[0], [*annotation.__metadata__, *metadata], plural)
    if origin is typing.Union:
        return ", or ".join(_allowed(option, metadata) for option in args)
    if origin is typing.Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in args)
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f" {len(args)}"
        return f"list of{count} {_allowed(args[0], metadata, plural='s')}"
    if _parts(metadata):
        return ", ".join(f"`{name}`" for name in _parts(metadata))
    return f"{TYPES[annotation]}{plural}{_bounds(metadata)}" if annotation in (int, float) else TYPES[annotation]


def _parts(metadata: Iterable[Any]) -> list[str]:
    """The names that a text may have which names a part: this package's, whatever else is installed."""
    return [name for mark in metadata if hasattr(mark, "parts") for name in mark.parts.own]


def _limits(metadata: Sequence[Any]) -> tuple[Any, Any]:
    """(smallest, largest) that is allowed, None where there is no bound."""
    low = max((bound.ge for bound in metadata if hasattr(bound, "ge")), default=None)
    return low, min((bound.le for bound in metadata if hasattr(bound, "le") and bound.le < LARGEST), default=None)


def _bounds(metadata: Sequence[Any]) -> str:
    low, high = _limits(metadata)
    if low is None:
        return "" if high is None else f" \u2264 {_yaml(high)}"
    return f" \u2265 {_yaml(low)}" if high is None else f" {_yaml(low)} to {_yaml(high)}"


# The same for editors.


def schema() -> dict[str, Any]:
    """A JSON Schema of a whole recipe."""
    properties: dict[str, Any] = {"base": {"type": "string", "description": BASE},
                                  "init": {"type": ["string", "null"], "description": INIT}}
    for name in SECTIONS:
        base, *others = _classes_of(name)
        kinds = [_object(kind) for kind in others or [base]]
        for kind in kinds[1:]:
            kind["required"] = ["name"]  # only the default one need not be named
        properties[name] = {"description": _first_paragraph(base), **(kinds[0] if len(kinds) == 1 else {"anyOf": kinds})}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "A recipe of ddpm_ms", "type": "object",
            "additionalProperties": False, "properties": properties}


def _object(section: type[Section]) -> dict[str, Any]:
    properties = {}
    for key, field in section.model_fields.items():
        about = {"description": field.description} if field.description else {}
        default = {} if field.is_required() else {"default": field.default}
        properties[key] = {**about, **default, **_schema(field.annotation, field.metadata)}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _schema(annotation: Any, metadata: Iterable[Any] = ()) -> dict[str, Any]:
    """A type and its bounds."""
    origin, args, metadata = typing.get_origin(annotation), typing.get_args(annotation), list(metadata)
    if hasattr(annotation, "__metadata__"):
        return _schema(args[0], [*annotation.__metadata__, *metadata])
    if origin is typing.Union:
        return {"anyOf": [_schema(option, metadata) for option in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple:
        size = {"minItems": 1} if args[-1] is Ellipsis else {"minItems": len(args), "maxItems": len(args)}
        return {"type": "array", "items": _schema(args[0], metadata), **size}
    if _parts(metadata):
        return {"enum": _parts(metadata)}
    low, high = _limits(metadata) if annotation in (int, float) else (None, None)
    bounds = {"minimum": low, "maximum": high}
    return {"type": JSON_TYPES[annotation], **{name: bound for name, bound in bounds.items() if bound is not None}}


# Commands.


def commands(parser: argparse.ArgumentParser, about: str = "") -> Iterator[str]:
    """A heading, how to call it, and a table of options, for every command that does something."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        helps = {choice.dest: choice.help for choice in action._choices_actions}
        for name, sub in action.choices.items():
            yield from commands(sub, helps.get(name) or "")
    if below:
        return
    what = "\n".join(textwrap.wrap(_sentence(parser.description or about), 120, break_on_hyphens=False))
    yield f"### {parser.prog}\n\n{what}\n"
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    needed = [_synopsis(action) for action in actions if action.required or not action.option_strings]
    optional = any(action.option_strings and not action.required for action in actions)
    yield f"```text\n{' '.join([parser.prog, *(['[options]'] if optional else []), *needed])}\n```\n"
    shown = [action for action in actions if not _is_sampling_key(action)]
    if shown:
        formatter = parser._get_formatter()
        rows = ["| argument | what |", "| --- | --- |"]
        rows += [_row(_name(action), formatter._expand_help(action) if action.help else "") for action in shown]
        yield "\n".join(rows) + "\n"
    if len(shown) < len(actions):
        names = ", ".join(_name(action) for action in actions if _is_sampling_key(action))
        names = names.replace(" --no", "\0--no").replace(" X", "\0X")  # no line ends inside of a name
        words = f"And, in place of what the recipe says, every key of [sampling](#sampling): {names}."
        yield "\n".join(textwrap.wrap(words, 120, break_on_hyphens=False)).replace("\0", " ") + "\n"


def _is_sampling_key(action: argparse.Action) -> bool:
    """Whether an option is made of a key of the recipe, where its help stands already."""
    field = SamplingConfig.model_fields.get(action.dest)
    return field is not None and bool(action.option_strings) and str(action.help).startswith(str(field.description))


def _name(action: argparse.Action) -> str:
    return f"`{' '.join([', '.join(action.option_strings), _value(action)]).strip()}`"


def _synopsis(action: argparse.Action) -> str:
    value = _value(action)
    if action.option_strings:
        return f"{action.option_strings[0]} {value}".strip()
    return f"[{value}]" if action.nargs in ("*", "?") else value


def _value(action: argparse.Action) -> str:
    """What is written behind the option, or in the place of a positional argument."""
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        value = "|".join(map(str, action.choices))
    else:
        value = action.metavar or action.dest.upper()
    if isinstance(action.nargs, int):
        return " ".join([value] * action.nargs)
    if action.nargs == "?" and action.option_strings:
        return f"[{value}]"
    return f"{value} ..." if action.nargs in ("+", "*") else value


# Words.


def _first_paragraph(kind: type) -> str:
    """The first paragraph of a docstring, names in code."""
    paragraph = " ".join(inspect.getdoc(kind).split("\n\n")[0].split())
    return re.sub(r"``?([^`]+)``?", r"`\1`", paragraph)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _row(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    SCHEMA.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
    print(PAGE, SCHEMA, sep="\n")
