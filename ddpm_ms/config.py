"""Configurations: frozen dataclasses, read from YAML with inheritance and overrides, checked completely.

A configuration is data. It imports no MindSpore, so reading, checking and printing one is instant. Every key has one
default, here; a YAML file states what differs. Keys are the keyword names of the classes they configure: ``model``
those of `ddpm_ms.Unet`, ``diffusion`` those of `ddpm_ms.GaussianDiffusion`, ``training`` those of `ddpm_ms.Trainer`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Literal, Optional, Tuple, Union

import yaml

from ddpm_ms.errors import InputError, check_choice, check_range, did_you_mean, shown

Device = Literal["auto", "Ascend", "GPU", "CPU"]
ImageSize = Union[int, Tuple[int, int]]
Variance = Literal["fixed_small", "fixed_large", "learned"]
LARGEST_FILE = 2**20  # bytes of a recipe
DEEPEST_NESTING = 20  # of what a recipe says; it needs three
LARGEST_INT = 2**63 - 1


def _within(default: Any, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field whose value (or every element of it) must lie in [low, high]."""
    return field(default=default, metadata={"low": low, "high": high})


def _option(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """As `_within`, with the text that the command line's ``--help`` shows."""
    return field(default=default, metadata={"low": low, "high": high, "help": help})


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how to run."""

    device: Device = "auto"  # auto tries Ascend, GPU, CPU in this order
    mode: Literal["graph", "pynative"] = "graph"  # pynative: operator by operator, slow, for debugging
    cpu_math: Literal["fp32", "bf16"] = "fp32"  # bf16: native convolutions may round their inputs, on processors built for it
    compile_cache: bool = False  # keep compiled graphs in the user's cache directory for the next start


@dataclass(frozen=True)
class ModelConfig:
    """The network; see `ddpm_ms.models.Unet`, `SimpleUnet` and `TinyUnet` for what each keyword does. A key that the chosen
    network does not take must keep its default."""

    name: Literal["unet", "simple_unet", "tiny_unet", "custom"] = "unet"  # custom: one of your own, from Python only
    dim: int = _within(64, 8)
    init_dim: Optional[int] = _within(None, 1)
    out_dim: Optional[int] = _within(None, 1)
    dim_mults: Tuple[int, ...] = _within((1, 2, 4, 8), 1)
    self_condition: bool = False
    learned_variance: bool = False
    learned_sinusoidal_cond: bool = False
    random_fourier_features: bool = False
    learned_sinusoidal_dim: int = _within(16, 2)
    sinusoidal_pos_emb_theta: float = _within(10000.0, 1.0)
    dropout: float = _within(0.0, 0.0, 0.99)
    attn_dim_head: Union[int, Tuple[int, ...]] = _within(32, 1)
    attn_heads: Union[int, Tuple[int, ...]] = _within(4, 1)
    full_attn: Optional[Union[bool, Tuple[bool, ...]]] = None
    block: Literal["rms", "group"] = "rms"
    num_classes: Optional[int] = _within(None, 1)
    time_embedding: Literal["sinusoidal", "learned"] = "sinusoidal"  # simple_unet; learned: a table with a row per step
    down: Literal["conv", "pool"] = "conv"  # simple_unet: strided convolution or maximum
    norm: Literal["group", "none"] = "group"  # simple_unet
    activation: Literal["silu", "relu"] = "silu"  # simple_unet
    tanh_output: bool = False  # simple_unet: output in [-1, 1], for pred_x0 only
    residual: bool = False  # tiny_unet: add around every second convolution


@dataclass(frozen=True)
class DiffusionConfig:
    """The process; see `ddpm_ms.diffusion.GaussianDiffusion`."""

    timesteps: int = _within(1000, 1, 1_000_000)
    objective: Literal["pred_noise", "pred_x0", "pred_v"] = "pred_v"
    beta_schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid", "quadratic"] = "cosine"
    betas: Optional[Tuple[float, ...]] = _within(None, 0.0, 1.0)  # a schedule of your own instead
    rescale_betas_zero_snr: bool = False  # no signal at the last step
    loss_type: Literal["l1", "l2", "huber"] = "l2"
    loss_weight: Literal["snr", "none", "p2", "min_snr", "soft_min_snr", "truncated_snr"] = "snr"
    p2_loss_weight_gamma: Optional[float] = _within(None, 0.0)  # of p2; null: 1
    p2_loss_weight_k: float = _within(1.0, 0.0)
    min_snr_gamma: float = _within(5.0, 1e-9)
    normalize_loss_weight: bool = False
    vb_loss_weight: float = _within(0.001, 0.0)  # with model.learned_variance
    variance: Optional[Variance] = None  # learned where the network learns it, else fixed_small


@dataclass(frozen=True)
class DataConfig:
    """The images; see `ddpm_ms.data.create_dataset`."""

    # array: one given in Python; see docs/data.md for what the others read
    name: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "celeba", "flowers102", "image_folder", "npz",
                  "mindrecord", "array"] = "image_folder"
    root: Optional[str] = None  # the folder or the file
    image_size: ImageSize = _within(128, 1)  # pixels, or [height, width]
    channels: Literal[1, 3, 4] = 3  # grey, RGB, RGBA
    on_error: Literal["refuse", "skip"] = "refuse"  # what to do with an image that cannot be read
    workers: int = _within(2, 1)  # threads that decode images


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation; see `ddpm_ms.training.Trainer`. Every count is in optimizer steps."""

    train_batch_size: int = _within(16, 1)  # of one micro-batch, shared among the devices
    gradient_accumulate_every: int = _within(1, 1)
    train_num_steps: int = _within(100_000, 0)
    train_num_epochs: Optional[int] = _within(None, 1)  # instead of train_num_steps
    optimizer: Literal["adam", "adamw"] = "adam"
    train_lr: float = _within(1e-4, 0.0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: int = _within(0, 0)
    weight_decay: float = _within(0.0, 0.0)
    augment_horizontal_flip: bool = False  # mirror each image with probability 1/2
    timestep_sampling: Literal["uniform", "antithetic", "stratified", "log_normal", "loss_second_moment"] = "uniform"
    label_dropout: float = _within(0.1, 0.0, 1.0)  # with num_classes: how often a label is hidden
    adam_betas: Tuple[float, float] = _within((0.9, 0.99), 1e-7, 0.9999999)  # nn.Adam takes the open interval
    max_grad_norm: float = _within(1.0, 0.0)  # 0: no clipping
    ema_sigma_rel: float = _within(0.1, 0.01, 0.28)  # width of the average, as a share of the run so far
    ema_decay: Optional[float] = _within(None, 0.0, 1.0)  # an exponential average instead, as in papers
    ema_update_every: Optional[int] = _within(None, 1)  # null: 1, with ema_decay 10
    precision: Optional[Literal["fp32", "fp16", "bf16"]] = None  # null: fp32, or fp16 where amp_level says so
    amp_level: Optional[Literal["O0", "O1", "O2", "O3"]] = None  # null: O0 for fp32, else O2
    recompute: bool = False  # activations again in the backward pass instead of keeping them
    max_skipped_steps: int = _within(50, 1)  # non-finite gradients this many times in a row stop the run
    save_and_sample_every: Union[int, Literal["epoch"]] = _within(1000, 1)
    keep_last: int = _within(3, 1)  # checkpoints, and besides them the best
    validation_images: int = _within(0, 0)  # held out of training, to find the best
    num_samples: int = _within(25, 0)
    log_every: int = _within(50, 1)
    tensorboard: bool = False  # event files in the run's folder tensorboard/
    seed: int = _within(0, 0, 2**63 - 1)


@dataclass(frozen=True)
class SamplingConfig:
    """How images are drawn: while training, by ``ddpm-ms sample``, and by every drawing method of `GaussianDiffusion`."""

    sampler: Literal["ddpm", "ddim", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc"] = _option(
        "ddim", "the method; see the table of samplers in README.md")
    steps: Optional[int] = _option(50, "transitions, 1 to T; null: all T", 1)
    eta: float = _option(0.0, "noise of ddim: 0 is deterministic, 1 is DDPM", 0.0, 1.0)
    spacing: Literal["linspace", "leading", "trailing", "quadratic", "karras", "log_snr"] = _option(
        "linspace", "which steps are visited")
    variance: Optional[Variance] = _option(None, "of ddpm; null: the process's own")
    clip_x_start: bool = _option(True, "keep every estimate of the image in its range")
    dynamic_threshold: Optional[float] = _option(None, "clip at this quantile of the estimate's size, and scale", 0.5, 1.0)
    rederive_pred_noise: bool = _option(True, "after clipping, the noise follows from the clipped image")
    guidance_scale: float = _option(1.0, "classifier-free guidance; 1: none, 0: unconditional", 0.0)
    guidance_rescale: float = _option(0.0, "share of the contrast that guidance is to leave as it was", 0.0, 1.0)
    guidance_interval: Tuple[float, float] = _option((0.0, 1.0), "guide only in this part of the process, 0 clean, 1 noise",
                                                     0.0, 1.0)
    strength: float = _option(0.6, "share of the steps by which a given image is redrawn", 0.0, 1.0)
    invert: bool = _option(False, "bring a given image to its noise level by DDIM inversion, not by noise")
    resamplings: int = _option(10, "inpainting: how often each stretch is walked", 1)
    jump_length: int = _option(10, "inpainting: transitions in a stretch", 1)
    seed: int = _option(0, "image k of a seed is always the same image", 0, 2**63 - 1)


@dataclass(frozen=True)
class DistillationConfig:
    """What the network learned from, where ``ddpm-ms distill`` made it; null elsewhere."""

    teacher: Optional[str] = None  # run directory or checkpoint
    sha256: Optional[str] = None  # of the teacher's averaged weights
    steps: Optional[int] = _within(None, 1)  # of the student, each of which does what two of the teacher's do


@dataclass(frozen=True)
class Config:
    """One recipe."""

    runtime: RuntimeConfig = RuntimeConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    distillation: DistillationConfig = DistillationConfig()


# Keys that are no more, and what says the same.
RENAMED = {"diffusion.min_snr_loss_weight": ", allowed: loss_weight: min_snr"}
# Keys that a resumed run may change: they do not alter what the weights become.
FREE_ON_RESUME = (
    "runtime.device", "runtime.mode", "runtime.compile_cache", "sampling.", "data.root", "data.workers",
    "data.on_error", "training.train_num_steps", "training.train_num_epochs", "training.recompute", "training.max_skipped_steps",
    "training.save_and_sample_every", "training.keep_last", "training.num_samples", "training.log_every", "training.tensorboard",
    "distillation.teacher",
)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe.

    Args:
        path: YAML file; its ``base:`` key names a file (relative to itself) whose keys it overrides.
        overrides: ``section.key=value`` strings; the value is YAML, so ``null``, ``[1, 2]`` and ``1e-4`` work.

    Raises:
        InputError: the file is missing or no mapping, a key is unknown or there twice, or a value has the wrong type or range.
    """
    return _overridden(_read_tree(Path(path), seen=()), overrides)


def load_run_config(path: str | Path) -> Config:
    """Read the config.yaml of a run directory, today's or an older one's; the same errors as `load_config`."""
    return config_of_run(_read_tree(Path(path), seen=()))


def override_config(config: Config, overrides: Iterable[str]) -> Config:
    """``config`` with ``section.key=value`` strings applied; the same errors as `load_config`."""
    return _overridden(to_dict(config), overrides)


def config_from_dict(tree: dict) -> Config:
    """`Config` from nested dictionaries; the same errors as `load_config`."""
    return _build(Config, tree, "")


def config_of_run(tree: dict) -> Config:
    """`Config` from the nested dictionaries that a run recorded, today's or an older one's; the same errors as `load_config`."""
    process = tree.get("diffusion") if isinstance(tree, dict) else None
    if isinstance(process, dict) and process.get("loss_weight", "") is None:
        # Before "snr" was the default, null stood for what two other keys said, and without them for none.
        gamma, min_snr = process.get("p2_loss_weight_gamma") or None, process.get("min_snr_loss_weight")
        process = {**process, "p2_loss_weight_gamma": gamma,
                   "loss_weight": "p2" if gamma else "min_snr" if min_snr else "none"}
    if isinstance(process, dict) and "min_snr_loss_weight" in process:
        named = process.get("loss_weight") == "p2"
        process = {**process, "p2_loss_weight_gamma": process.get("p2_loss_weight_gamma") if named else None}
        del process["min_snr_loss_weight"]
        tree = {**tree, "diffusion": process}
    return config_from_dict(tree)


def section_from_dict(section: type, values: dict) -> Any:
    """One section, such as `SamplingConfig`, from its keys; the same errors as `load_config`."""
    return _build(section, values, "")


def override_section(section: Any, texts: dict[str, Any]) -> Any:
    """``section`` with the keys in ``texts`` replaced; a text is read as YAML, as in ``section.key=value``."""
    values = {key: _parse_value(key, text) for key, text in texts.items()}
    return section_from_dict(type(section), {**_plain(dataclasses.asdict(section)), **values})


def to_yaml(config: Config) -> str:
    """All keys of ``config``, defaults included, as YAML that `load_config` reads back to an equal `Config`."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def to_dict(config: Config) -> dict:
    """Nested plain dictionaries, tuples as lists: what YAML and JSON can hold."""
    return _plain(dataclasses.asdict(config))


def differences(old: Config, new: Config) -> list[str]:
    """``"model.dim: 32 -> 64"`` for every key that differs and that a resumed run must not change."""
    before, after = _flatten(to_dict(old)), _flatten(to_dict(new))
    free = FREE_ON_RESUME
    if _images_per_step(old) == _images_per_step(new):
        free += ("training.train_batch_size", "training.gradient_accumulate_every")  # the same images, in other portions
    rows = [f"{key}: {before[key]} -> {after[key]}" for key in before
            if before[key] != after[key] and not key.startswith(free)]
    # The cosine rate is a function of the length of the run, so there the length is not free.
    if new.training.lr_schedule == "cosine":
        rows += [f"{key}: {before[key]} -> {after[key]} (the cosine learning rate depends on it)"
                 for key in ("training.train_num_steps", "training.train_num_epochs") if before[key] != after[key]]
    return rows


def _images_per_step(config: Config) -> int:
    return config.training.train_batch_size * config.training.gradient_accumulate_every


def nearest_valid_sizes(size: int, factor: int) -> str:
    """``"24 or 32"``: the multiples of ``factor`` around ``size``."""
    below, above = size // factor * factor, (size + factor - 1) // factor * factor
    return f"{below} or {above}" if below else f"{above}"


def _read_tree(path: Path, seen: tuple[Path, ...]) -> dict:
    """The file's mapping merged over its base's."""
    real, data = _read_file(path)
    if real in seen:
        raise InputError(f"config {path}: 'base' leads back to itself")
    tree = _load_yaml(data, f"config {path}")
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise InputError(f"config {path} holds a {type(tree).__name__}, allowed: a mapping of sections")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise InputError(f"config {path}: base is {shown(base)}, allowed: the name of a YAML file")
    return _merge(_read_tree(path.parent / base, (*seen, real)), tree)


def _read_file(path: Path) -> tuple[Path, bytes]:
    """Where the file really is, and what it holds."""
    try:
        real = path.resolve()
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"config {path}: {error.strerror or error}") from None
    except (ValueError, RuntimeError) as error:  # a null character in its name, links that lead in a circle
        raise InputError(f"config {path}: {error}") from None
    if len(data) > LARGEST_FILE:
        raise InputError(f"config {path} is too large, allowed: at most {LARGEST_FILE} bytes")
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
            raise yaml.YAMLError(f"*{self.peek_event().anchor} is an alias, allowed: plain values")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
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


def _merge(below: dict, above: dict) -> dict:
    """Put ``above`` over ``below``, mapping by mapping, in place."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = value
    return below


def _overridden(tree: dict, overrides: Iterable[str]) -> Config:
    for override in overrides:
        _merge(tree, _parse_override(override))
    return config_from_dict(tree)


def _parse_override(text: str) -> dict:
    """``"a.b=1"`` to ``{"a": {"b": 1}}``."""
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"override {shown(text)}, allowed: section.key=value")
    tree = _parse_value(f"override {shown(text)}: the value", value)
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def _parse_value(name: str, value: Any) -> Any:
    """What YAML makes of a text, or of each text of a list; anything else as it is."""
    if isinstance(value, list):
        return [_parse_value(name, item) for item in value]
    return _load_yaml(value, name) if isinstance(value, str) else value


def _build(cls: type, tree: Any, prefix: str) -> Any:
    """A dataclass from a mapping, every key and value checked."""
    if not isinstance(tree, dict):
        raise InputError(f"{prefix.rstrip('.') or 'config'} is {shown(tree)}, allowed: a mapping of keys")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = _type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in fields:
            name = f"{prefix}{key}" if isinstance(key, str) else f"{prefix}{shown(key)}"
            nearest = RENAMED.get(name) or did_you_mean(key, fields) or f", allowed: {', '.join(fields)}"
            raise InputError(f"unknown key '{name}'{nearest}")
        name, hint = f"{prefix}{key}", hints[key]
        if dataclasses.is_dataclass(hint):
            values[key] = _build(hint, value, f"{name}.")
        else:
            values[key] = _convert(name, value, hint)
            _check_bounds(name, values[key], fields[key].metadata)
    return cls(**values)


@functools.cache
def _type_hints(cls: type) -> dict:
    return typing.get_type_hints(cls)


def _convert(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``, or `InputError`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        check_choice(name, value, [a for a in args if a != value] if value in args else args)
    if origin is Union:
        for option in args:
            try:
                return _convert(name, value, option)
            except InputError:
                continue
    elif origin is tuple:
        if isinstance(value, (list, tuple)) and (args[-1] is Ellipsis or len(value) == len(args)):
            return tuple(_convert(name, item, args[0]) for item in value)
    elif hint is float:
        # YAML 1.1 reads 1e-4 as a string; a person means the number.
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)
            except (ValueError, OverflowError):
                pass
    elif hint is type(None):
        if value is None:
            return None
    elif type(value) is hint:
        return value
    raise InputError(f"{name} is {shown(value)}, allowed: {_describe(hint)}")


def _describe(hint: Any) -> str:
    """A type as a person says it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return " or ".join(_describe(option) for option in args)
    if origin is Literal:
        return ", ".join(map(str, args))
    if origin is tuple:
        inner = _describe(args[0])
        return f"a list of {inner}s" if args[-1] is Ellipsis else f"a list of {len(args)} {inner}s"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, str(hint))


def _check_bounds(name: str, value: Any, metadata: Any) -> None:
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            check_range(name, item, metadata.get("low"), metadata.get("high"))
            if isinstance(item, float) and not math.isfinite(item):
                raise InputError(f"{name} is {item}, allowed: a finite number")
            if isinstance(item, int) and abs(item) > LARGEST_INT:
                raise InputError(f"{name} is {shown(item)}, allowed: whole numbers of at most 63 bits")
    if value == () and "low" in metadata:
        raise InputError(f"{name} is empty, allowed: at least one number")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
