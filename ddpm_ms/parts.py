"""The tables of parts: what a recipe can name, and where each name leads.

A table holds names and where the code is, as entry points do (``package.module:attribute``), so the choices of a setting are
known without importing anything. A part is imported when it is first used.

Parts of your own come in two ways, and never because a file says so: `register_network` and its siblings add one to this
process, and an installed package adds its own through the entry-point groups ``ddpm_ms.samplers``, ``ddpm_ms.networks``,
``ddpm_ms.datasets``, ``ddpm_ms.loss_weights`` and ``ddpm_ms.metrics``. CONTRIBUTING.md walks through each.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import logging
import sys
from typing import Any, Callable, Iterator, Mapping

from ddpm_ms.errors import InputError, check_choice, shown

log = logging.getLogger("ddpm_ms")


class Registry(Mapping[str, Any]):
    """The parts of one kind by name: those of this package, those that were registered, and those of installed packages.

    Args:
        kind: what a message calls one of them.
        own: name to ``module:attribute``, of the parts of this package.
        group: of the entry points by which installed packages add theirs; None where they cannot.
        check: called with the name and the part when it comes from outside; raises `InputError` where it is none.
    """

    def __init__(self, kind: str, own: Mapping[str, str], group: str | None = None,
                 check: Callable[[str, Any], None] | None = None) -> None:
        self.kind, self.own, self.group = kind, dict(own), group
        self._check = check or _check_callable
        self._parts: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._parts:
            if name in self.own:
                self._parts[name] = _imported(self.own[name])
            else:
                part = self._from_outside(name)
                self._check(name, part)
                self._parts[name] = part
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.own or name in self._parts or name in self._installed())

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.own, *self._parts, *self._installed()]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def register(self, name: str, part: Any) -> None:
        """Add ``part`` to this process.

        Raises:
            InputError: the name is taken or no plain word, or it is no part of this kind.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise InputError(f"the name of a {self.kind} is {shown(name)}, allowed: letters, digits and _")
        if name in self:
            raise InputError(f"the name of a {self.kind} is {name!r}, allowed: one that is not taken, as are {', '.join(self)}")
        self._check(name, part)
        self._parts[name] = part

    def check(self, what: str, name: str) -> str:
        """``name`` if there is such a part, else `InputError` naming all of them."""
        return name if name in self else check_choice(what, name, self)

    def is_own(self, name: str) -> bool:
        """Whether it is a part of this package, whose source a compiled graph's key covers."""
        return name in self.own

    def _from_outside(self, name: str) -> Any:
        if name not in self._installed():
            raise KeyError(name)
        try:
            return self._installed()[name].load()
        except Exception as error:  # whatever a stranger's module raises while it is imported
            raise InputError(f"the {self.kind} {name} cannot be imported from {self._installed()[name].value}: "
                             f"{type(error).__name__}: {error}") from error

    def _installed(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        found = {} if self.group is None else _entry_points(self.group)
        return {name: point for name, point in found.items() if name not in self.own}


def options_of(function: Callable[..., Any]) -> set[str]:
    """The options that a part takes: its keyword-only parameters."""
    parameters = inspect.signature(function).parameters
    return {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def _imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@functools.lru_cache(None)
def _entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages declare in a group, by name."""
    if sys.version_info >= (3, 10):
        found = importlib.metadata.entry_points(group=group)
    else:
        found = importlib.metadata.entry_points().get(group, ())
    return {point.name: point for point in found if point.name.isidentifier()}


def _check_callable(name: str, part: Any) -> None:
    if not callable(part):
        raise InputError(f"{name} is {shown(part)}, allowed: a function")


def _check_network(name: str, network: Any) -> None:
    """A network names its section, and that names the network: a run must find it again."""
    section = getattr(network, "config_class", None)
    stated = getattr(section, "model_fields", {}).get("name")
    if stated is None or stated.default != name:
        raise InputError(f"network {name} has the config_class {getattr(section, '__name__', section)}, allowed: a NetworkConfig "
                         f"with name: Literal[{name!r}] = {name!r}")


SAMPLERS = Registry("sampler", {
    "ddpm": "ddpm_ms.sampling.samplers.ddpm:sample_ddpm",
    "ddim": "ddpm_ms.sampling.samplers.ddim:sample_ddim",
    "heun": "ddpm_ms.sampling.samplers.heun:sample_heun",
    "dpmpp_2m": "ddpm_ms.sampling.samplers.dpmpp_2m:sample_dpmpp_2m",
    "dpmpp_2m_sde": "ddpm_ms.sampling.samplers.dpmpp_2m:sample_dpmpp_2m_sde",
    "unipc": "ddpm_ms.sampling.samplers.unipc:sample_unipc",
}, "ddpm_ms.samplers")

NETWORKS = Registry("network", {
    "unet": "ddpm_ms.models.unet:Unet",
    "ddpm_unet": "ddpm_ms.models.ddpm_unet:DDPMUnet",
    "simple_unet": "ddpm_ms.models.simple_unet:SimpleUnet",
    "tiny_unet": "ddpm_ms.models.tiny_unet:TinyUnet",
}, "ddpm_ms.networks", _check_network)

DATASETS = Registry("data set", {
    "digits": "ddpm_ms.data.arrays:digits",
    "mnist": "ddpm_ms.data.idx:mnist",
    "fashion_mnist": "ddpm_ms.data.idx:fashion_mnist",
    "cifar10": "ddpm_ms.data.cifar:cifar10",
    "cifar100": "ddpm_ms.data.cifar:cifar100",
    "celeba": "ddpm_ms.data.folders:celeba",
    "flowers102": "ddpm_ms.data.folders:flowers102",
    "image_folder": "ddpm_ms.data.folders:image_folder",
    "npz": "ddpm_ms.data.arrays:array_file",
    "mindrecord": "ddpm_ms.data.mindrecord:mindrecord",
    "array": "ddpm_ms.data.arrays:array_file",  # what a run records whose images were given in Python
}, "ddpm_ms.datasets")

LOSS_WEIGHTS = Registry("loss weight", {
    "snr": "ddpm_ms.diffusion.loss_weights:snr",
    "none": "ddpm_ms.diffusion.loss_weights:none",
    "p2": "ddpm_ms.diffusion.loss_weights:p2",
    "min_snr": "ddpm_ms.diffusion.loss_weights:min_snr",
    "soft_min_snr": "ddpm_ms.diffusion.loss_weights:soft_min_snr",
    "truncated_snr": "ddpm_ms.diffusion.loss_weights:truncated_snr",
}, "ddpm_ms.loss_weights")

METRICS = Registry("metric", {
    "classifier": "ddpm_ms.evaluation.classifier:classifier",
    "bits_per_dim": "ddpm_ms.evaluation.bits_per_dim:bits_per_dim",
    "agreement": "ddpm_ms.evaluation.agreement:agreement",
}, "ddpm_ms.metrics")

# What nobody has yet wanted to add from outside.
COMPARISONS = Registry("comparison", {  # further names of --metric, several at once: each a `Comparison`
    "fid": "ddpm_ms.evaluation.comparisons:fid",
    "kid": "ddpm_ms.evaluation.comparisons:kid",
    "is": "ddpm_ms.evaluation.comparisons:inception_score",
    "precision": "ddpm_ms.evaluation.comparisons:precision",
    "recall": "ddpm_ms.evaluation.comparisons:recall",
    "sfid": "ddpm_ms.evaluation.comparisons:sfid",
    "mind": "ddpm_ms.evaluation.comparisons:mind",
})

FEATURES = Registry("kind of features", {  # each a function from a `FeatureRequest` to `Features`
    "pixels": "ddpm_ms.evaluation.features:pixels",
    "digits": "ddpm_ms.evaluation.features:digits",
    "inception": "ddpm_ms.evaluation.inception_features:inception",
    "classifier": "ddpm_ms.evaluation.residual_classifier:classifier",
})

SCHEDULES = Registry("schedule", {
    name: f"ddpm_ms.diffusion.schedules:{name}_beta_schedule"
    for name in ("linear", "scaled_linear", "cosine", "sigmoid", "quadratic")})

SPACINGS = Registry("spacing", {
    name: f"ddpm_ms.sampling.spacing:{name}"
    for name in ("linspace", "leading", "trailing", "quadratic", "karras", "log_snr")})


TIMESTEP_SAMPLERS = Registry("way to draw t", {
    name: f"ddpm_ms.training.timesteps:{name}"
    for name in ("uniform", "antithetic", "stratified", "log_normal", "loss_second_moment")})


def register_sampler(name: str, sampler: Callable[..., Any]) -> None:
    """Let ``sampling.sampler`` name ``sampler``, a generator ``(denoise, x, steps, schedule, noise, *, options)``; see
    `ddpm_ms.sampling.samplers`. `InputError` where the name is taken or no plain word."""
    SAMPLERS.register(name, sampler)


def register_network(name: str, network: type) -> None:
    """Let ``model.name`` name ``network``, a Cell whose ``config_class`` is its `ddpm_ms.config.NetworkConfig`; see
    `ddpm_ms.Unet`. `InputError` where the name is taken, no plain word or not that of the section."""
    NETWORKS.register(name, network)


def register_dataset(name: str, loader: Callable[..., Any]) -> None:
    """Let ``data.name`` name ``loader``, a function from `ddpm_ms.config.DataConfig` to `ddpm_ms.data.RandomAccessDataset`.
    `InputError` where the name is taken or no plain word."""
    DATASETS.register(name, loader)


def register_loss_weight(name: str, weight: Callable[..., Any]) -> None:
    """Let ``diffusion.loss_weight`` name ``weight``, a function ``(snr, config)`` to the weight of every step; see
    `ddpm_ms.diffusion.loss_weights`. `InputError` where the name is taken or no plain word."""
    LOSS_WEIGHTS.register(name, weight)


def register_metric(name: str, metric: Callable[..., Any]) -> None:
    """Let ``ddpm-ms evaluate --metric`` name ``metric``, a function from `ddpm_ms.evaluation.Subject` to a report.
    `InputError` where the name is taken or no plain word."""
    if name in COMPARISONS:
        raise InputError(f"the name of a metric is {name!r}, allowed: one that is not taken, as are {', '.join(COMPARISONS)}")
    METRICS.register(name, metric)
