"""Recipes: YAML files with inheritance and overrides, and what a run records of them."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any, Hashable, Iterable, TypeVar

import yaml

from ddpm_ms.config import older_runs
from ddpm_ms.config.messages import check_keys, unknown_key
from ddpm_ms.config.precision import resolve_precision
from ddpm_ms.config.sections import DEFAULT_NETWORK, SECTIONS, Config, NetworkConfig, Section, network_section
from ddpm_ms.config.shipped import located, nearest
from ddpm_ms.errors import InputError, shown
from ddpm_ms.parts import NETWORKS

LARGEST_FILE = 2**20  # bytes of a recipe
DEEPEST_NESTING = 20  # of what a recipe says; it needs three
_S = TypeVar("_S", bound=Section)
# Keys that a resumed run may change: they do not alter what the weights become.
FREE_ON_RESUME = (
    "runtime.device", "runtime.mode", "runtime.compile_cache", "sampling.", "data.root", "data.workers",
    "data.on_error", "training.train_num_steps", "training.train_num_epochs", "training.recompute", "training.max_skipped_steps",
    "training.save_and_sample_every", "training.keep_last", "training.num_samples", "training.log_every", "training.tensorboard",
    "evaluation.", "distillation.teacher",
)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe.

    Args:
        path: YAML file, or the name of a recipe that comes with the package (a file of that name comes first). Its ``base:``
            key names a file (relative to itself), or such a recipe, whose keys it overrides.
        overrides: ``section.key=value`` strings; the value is YAML, so ``null``, ``[1, 2]`` and ``1e-4`` work.

    Raises:
        InputError: the file is missing or no mapping, a key is unknown or there twice, or a value has the wrong type or range.
    """
    recipe = located(Path(path), str(path))
    tree = _read_tree(recipe)
    try:
        return _overridden(tree, overrides)
    except InputError as error:
        base = _base_that_says(recipe, str(error))
        if base is None:
            raise
        raise InputError(f"config {base}: {error}") from None


def load_over(known: dict[str, dict[str, Any]], path: str | Path | None,
              overrides: Iterable[str]) -> tuple[Config, dict[str, Any]]:
    """The configuration of what is ``known``, a recipe over it, if there is one, and ``overrides`` over both; and the keys that
    these state, section to key to value. The same errors as `load_config`."""
    said = _merge({}, known)
    for above in ([] if path is None else [_read_tree(located(Path(path), str(path)))]) + list(map(_parse_override, overrides)):
        _check_sections(above)
        _put_over(said, above)
    return config_from_dict(said), said


def load_run_config(path: str | Path) -> Config:
    """Read the config.yaml of a run directory, today's or an older one's; the same errors as `load_config`."""
    return config_of_run(_read_tree(Path(path)))


def load_recorded(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the config.yaml of a run says, and the defaults, each section to key to value. The network's section stays as it was
    written, and its defaults are those that all networks share: the rest would import MindSpore.

    Raises:
        InputError: as `load_config`, of every section but the network's.
    """
    tree = _read_tree(Path(path))
    _check_sections(tree)
    others = older_runs.translated({name: tree.get(name, {}) for name in SECTIONS if name != "model"})
    recorded = {name: _plain(dict(_section(SECTIONS[name], values))) for name, values in others.items()}
    defaults = {name: _plain(dict(SECTIONS[name]())) for name in recorded}
    shared = {key: _plain(field.default) for key, field in NetworkConfig.model_fields.items() if not field.is_required()}
    for training in (recorded["training"], defaults["training"]):  # a run records what null became
        training["precision"], training["amp_level"] = resolve_precision(training["precision"], training["amp_level"])
    return {"model": tree.get("model", {}), **recorded}, {"model": shared, **defaults}


def override_config(config: Config, overrides: Iterable[str]) -> Config:
    """``config`` with ``section.key=value`` strings applied; the same errors as `load_config`."""
    return _overridden(to_dict(config), overrides)


def config_from_dict(tree: dict[str, Any]) -> Config:
    """`Config` from nested dictionaries; the same errors as `load_config`."""
    _check_mapping("config", tree)
    _check_sections(tree)
    # The network comes last: with its section it imports MindSpore, and what is wrong elsewhere is said at once.
    sections: dict[str, Any] = {
        name: _section(SECTIONS[name], values) for name, values in tree.items() if name not in ("model", "init")}
    values = tree.get("model", {})
    return Config(model=_section(_network(values), values), init=tree.get("init"), **sections)


def config_of_run(tree: dict[str, Any]) -> Config:
    """`Config` from the nested dictionaries that a run recorded, today's or an older one's; the same errors as `load_config`."""
    return config_from_dict(older_runs.translated(tree))


def replace(section: _S, **changes: Any) -> _S:
    """``section`` with some of its values changed, and checked again."""
    return section.changed(changes)


def override_section(section: _S, texts: dict[str, Any]) -> _S:
    """``section`` with the keys in ``texts`` replaced; a text is read as YAML, as in ``section.key=value``."""
    return replace(section, **{key: _parse_value(key, text) for key, text in texts.items()})


def to_yaml(config: Config) -> str:
    """All keys of ``config``, defaults included, as YAML that `load_config` reads back to an equal `Config`."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain dictionaries, tuples as lists: what YAML and JSON can hold."""
    init = {} if config.init is None else {"init": config.init}
    return {**init, **{name: _plain(dict(getattr(config, name))) for name in SECTIONS}}


def differences(old: Config, new: Config, but: tuple[str, ...] = ()) -> list[str]:
    """``"model.dim: 32 -> 64"`` for every key that differs and that a resumed run must not change, ``but`` for these."""
    before, after = ({"init": config.init, **_flatten(to_dict(config))} for config in (old, new))
    free: tuple[str, ...] = (*FREE_ON_RESUME, *but)
    if _images_per_step(old) == _images_per_step(new) and not new.diffusion.immiscible:
        free += ("training.train_batch_size", "training.gradient_accumulate_every")  # the same images, in other portions
    if old.data.class_names is None:
        free += ("data.class_names",)  # a run of an earlier version, which did not record them
    rows = [f"{key}: {before[key]} -> {after.get(key)}{_other_portions(old, new, key)}" for key in before
            if before[key] != after.get(key) and not key.startswith(free)]
    # The cosine rate is a function of the length of the run, so there the length is not free.
    if new.training.lr_schedule == "cosine":
        rows += [f"{key}: {before[key]} -> {after[key]} (the cosine learning rate depends on it)"
                 for key in ("training.train_num_steps", "training.train_num_epochs") if before[key] != after[key]]
    return rows


def _images_per_step(config: Config) -> int:
    return config.training.train_batch_size * config.training.gradient_accumulate_every


def _other_portions(old: Config, new: Config, key: str) -> str:
    """Where ``key`` changes the images of a step: what else has to change, so that they stay the same."""
    if new.diffusion.immiscible:  # the portions are part of the noise
        return ""
    sizes, images = dict(new.training), _images_per_step(old)
    for changed, other in (("train_batch_size", "gradient_accumulate_every"), ("gradient_accumulate_every", "train_batch_size")):
        if key == f"training.{changed}" and images % sizes[changed] == 0:
            return f" (the same run with training.{other}={images // sizes[changed]})"
    return ""


def nearest_valid_sizes(size: int, factor: int) -> str:
    """``"24 or 32"``: the multiples of ``factor`` around ``size``."""
    below, above = size // factor * factor, (size + factor - 1) // factor * factor
    return f"{below} or {above}" if below else f"{above}"


def _section(kind: type[_S], values: dict[str, Any]) -> _S:
    check_keys(kind, values)  # before they become keywords, which are texts
    return kind(**values)


def _network(values: dict[str, Any]) -> type[NetworkConfig]:
    """The section of the network that ``values`` name; keys that only another one takes are refused."""
    name = values.get("name", DEFAULT_NETWORK)
    kind = network_section(name)
    for key, value in values.items():
        if key not in kind.model_fields and key not in kind.renamed:
            owners = [other for other in NETWORKS if key in network_section(other).model_fields]
            if owners:
                raise InputError(f"model.{key} is {shown(value)}, which {name} does not take but {', '.join(owners)}, allowed: "
                                 f"{', '.join(kind.model_fields)}")
    return kind


def _check_sections(tree: dict[Any, Any]) -> None:
    """Every key is a section and a mapping, or init and a path."""
    for name, values in tree.items():
        if name == "init":
            if not isinstance(values, (str, type(None))):
                raise InputError(f"init is {shown(values)}, allowed: a run directory or one of its checkpoints")
        elif name not in SECTIONS:
            unknown_key(name)
        else:
            _check_mapping(name, values)


def _check_mapping(name: Any, values: Any) -> None:
    if not isinstance(values, dict):
        raise InputError(f"{name} is {shown(values)}, allowed: a mapping of keys")


def _read_tree(path: Path, said: str = "", seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's mapping merged over its base's; a section without keys is an empty one. ``said``: which file named it and how,
    where it is a base; ``seen``: the files above it."""
    real, data = _read_file(path, said)
    if real in seen:
        raise InputError(f"{said}, which leads back to itself")
    tree = _load_yaml(data, f"config {path}")
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise InputError(f"config {path} holds a {type(tree).__name__}, allowed: a mapping of sections")
    tree = {name: {} if values is None and name in SECTIONS else values for name, values in tree.items()}
    base = tree.pop("base", None)
    if base is None:
        return tree
    said = f"config {path}: base is {shown(base)}"
    if not isinstance(base, str):
        raise InputError(f"{said}, allowed: the name of a YAML file")
    return _put_over(_read_tree(located(path.parent / base, base), said, (*seen, real)), tree)


def _base_that_says(path: Path, problem: str) -> Path | None:
    """Of the recipes below ``path``, the deepest that is refused for the same ``problem`` on its own; None if none is. The files
    have been read before."""
    base = (_load_yaml(_read_file(path, "")[1], f"config {path}") or {}).get("base")
    if base is None:
        return None
    below = located(path.parent / base, base)
    deeper = _base_that_says(below, problem)
    if deeper is None:
        try:
            config_from_dict(_read_tree(below))
        except InputError as error:
            return below if str(error) == problem else None
    return deeper


def _read_file(path: Path, said: str) -> tuple[Path, bytes]:
    """Where the file really is, and what it holds."""
    what = f"{said}: {path}" if said else f"config {path}"
    try:
        real = path.resolve()
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        hint = nearest(path) if isinstance(error, FileNotFoundError) else ""
        raise InputError(f"{what}: {error.strerror or error}{hint}") from None
    except (ValueError, RuntimeError) as error:  # a null character in its name, links that lead in a circle
        raise InputError(f"{what}: {error}") from None
    if len(data) > LARGEST_FILE:
        raise InputError(f"{what} is too large, allowed: at most {LARGEST_FILE} bytes")
    return real, data


class _PlainLoader(yaml.SafeLoader):
    """YAML without what a recipe has no use for: a key given twice, of which the first would be lost without a word, and
    aliases, by which a few lines become gigabytes; nor with deep nesting, over which PyYAML ponders for minutes."""

    def fetch_more_tokens(self) -> Any:
        if self.flow_level + len(self.indents) > DEEPEST_NESTING:
            raise yaml.YAMLError(f"nested more than {DEEPEST_NESTING} deep")
        return super().fetch_more_tokens()

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML says nothing of it
            raise yaml.YAMLError(f"*{alias.anchor} is an alias, allowed: plain values")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = collections.Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise yaml.YAMLError(f"key {shown(twice[0])} is given twice in one mapping")
        return super().construct_mapping(node, deep)


def _load_yaml(text: str | bytes, what: str) -> Any:
    try:
        return yaml.load(text, _PlainLoader)
    except Exception as error:  # PyYAML's constructors raise nearly anything: int('0x'), the 99th of June
        raise InputError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from None


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Put ``above`` over ``below``, mapping by mapping, in place."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = _merge({}, value) if isinstance(value, dict) else value
    return below


def _put_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Put a recipe over its base, in place. If it chooses another network, only the keys that all networks have are inherited."""
    old, new = below.get("model"), above.get("model")
    if isinstance(old, dict) and isinstance(new, dict) and new.get("name") not in (None, old.get("name", DEFAULT_NETWORK)):
        below["model"] = {key: value for key, value in old.items() if key in NetworkConfig.model_fields}
    return _merge(below, above)


def _overridden(tree: dict[str, Any], overrides: Iterable[str]) -> Config:
    asked: dict[str, Any] = {}
    for override in overrides:
        _merge(asked, _parse_override(override))
    return config_from_dict(_put_over(tree, asked))


def _parse_override(text: str) -> dict[str, Any]:
    """``"a.b=1"`` to ``{"a": {"b": 1}}``."""
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"override {shown(text)}, allowed: section.key=value")
    *sections, last = key.split(".")
    tree = {last: _parse_value(f"override {shown(text)}: the value", value)}
    for part in reversed(sections):
        tree = {part: tree}
    return tree


def _parse_value(name: str, value: Any) -> Any:
    """What YAML makes of a text, or of each text of a list; anything else as it is."""
    if isinstance(value, list):
        return [_parse_value(name, item) for item in value]
    if not isinstance(value, str):
        return value
    parsed = _load_yaml(value, name)
    # A plain text is taken as it stands: in a path " #" is no comment.
    return value if isinstance(parsed, str) and not value.lstrip().startswith(("'", '"', "|", ">", "!")) else parsed


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
