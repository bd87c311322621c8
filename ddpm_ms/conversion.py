"""From other projects' files to a run directory."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any, Literal, Mapping, Sequence

import numpy as np

from ddpm_ms.config import Config, load_over, replace, resolve_precision, to_dict
from ddpm_ms.digest import sha256_of
from ddpm_ms.errors import InputError, shown
from ddpm_ms.interop.sources import Source, open_source

log = logging.getLogger("ddpm_ms")

# What must be said, by the files or by who converts them; of each entry, one key.
SETTLED = (("diffusion.timesteps",), ("diffusion.objective",), ("diffusion.beta_schedule", "diffusion.betas"),
           ("diffusion.variance",), ("sampling.clip_x_start",), ("data.image_size",))


def convert(source: str | Path, run_dir: str | Path, *, recipe: str | Path | None = None, overrides: Sequence[str] = (),
            ema: bool = True, attention_order: Literal["old", "new"] | None = None) -> Path:
    """Make a run directory, which every command takes, of weights that another project trained.

    The recipe is what the files say, below that of ``recipe`` where it says something, below ``overrides``. It must settle the
    network, the objective, the schedule, the variance and the clipping: what nobody said is asked for by name.

    Args:
        source: a folder of diffusers; or a file of pytorch_diffusion or DDIM, guided-diffusion or P2-weighting,
            denoising-diffusion-pytorch, denoising-diffusion-mindspore.
        run_dir: a new directory.
        recipe: a YAML file, or the name of a recipe that comes with the package.
        overrides: ``section.key=value``, as for `ddpm_ms.load_config`.
        ema: averaged weights where the source has both, or those that the optimizer left.
        attention_order: of guided-diffusion with several heads, its flag ``use_new_attention_order``.

    Returns:
        ``run_dir``. It is written whole or not at all.

    Raises:
        InputError: the source is none, or damaged; it is of a network that is not here; something is not settled; a tensor is
            left over, missing or of another shape than the recipe's network has it; or ``run_dir`` exists.
    """
    source, run_dir = Path(source), Path(run_dir)
    if os.path.lexists(run_dir):
        raise InputError(f"run directory {run_dir} exists, allowed: a new one")
    found = open_source(source, ema, attention_order)
    config, said = load_over(found.recipe, recipe, overrides)
    _check_settled(source, found, said)
    for line in (*found.notes, *_otherwise(found.recipe, said)):
        log.info("%s", line)
    weights = _fitting(source, config, found.weights(config.model))
    facts = {"source": str(source.resolve()), "project": found.project,
             "files": {str(path.relative_to(source) if path != source else path.name): sha256_of(path) for path in found.files}}
    _write(run_dir, _recorded(config, said), weights, found.step, facts)
    log.info("%s holds the weights of %s: %d tensors of %s", run_dir, source, len(weights), found.project)
    return run_dir


def _recorded(config: Config, said: Mapping[str, Any]) -> Config:
    """``config`` as a run records it, which did not begin with another; its images take no more steps than there are."""
    precision, amp_level = resolve_precision(config.training.precision, config.training.amp_level)
    sampling = config.sampling
    if "steps" not in said.get("sampling", {}) and (sampling.steps or 0) > config.diffusion.timesteps:
        sampling = replace(sampling, steps=None)
    return config.model_copy(update={"init": None, "sampling": sampling, "training": replace(
        config.training, precision=precision, amp_level=amp_level)})


def _check_settled(source: Path, found: Source, said: Mapping[str, Any]) -> None:
    """Raise `InputError` naming every key that nobody stated, and unless the network is the one that the weights are of."""
    name, wanted = said["model"].get("name"), found.recipe["model"]["name"]
    if name != wanted:
        raise InputError(f"model.name is {shown(name)}, allowed with {source}: {wanted}")
    missing = [" or ".join(keys) for keys in (*SETTLED, *found.asked) if not any(_stated(said, key) for key in keys)]
    if missing:
        raise InputError(f"{source} does not say {', '.join(missing)}, allowed: a conversion that is told, by KEY=VALUE or "
                         "--config RECIPE")


def _stated(said: Mapping[str, Any], key: str) -> bool:
    section, name = key.split(".")
    return said.get(section, {}).get(name) is not None


def _otherwise(recipe: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    """What was asked for otherwise than the files say."""
    return [f"{section}.{key} is {shown(said[section].get(key))}, as asked; the files say {shown(value)}"
            for section, values in recipe.items() for key, value in values.items() if said[section].get(key) != value]


def _fitting(source: Path, config: Config, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights in float32, if they are those of the network of ``config``, each of its tensors once.

    Raises:
        InputError: they are not, and which; or the network cannot be built, or not with such a process.
    """
    from ddpm_ms import runtime  # these load MindSpore
    from ddpm_ms.checkpoints.checkpoint import misfit
    from ddpm_ms.gaussian_diffusion import create_diffusion
    from ddpm_ms.models import create_model

    _check_size(source, config, weights)
    runtime.current()
    model = create_model(config.model, config.data.channels, config.data.image_size, config.diffusion.timesteps)
    create_diffusion(config.diffusion, model, config.data.image_size)
    problem = misfit(dict(model.parameters_and_names()), weights)
    if problem:
        raise InputError(f"{source} does not fit the network: {problem}, allowed: weights of this network")
    for name, array in weights.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{source}: {name} is not made of finite numbers")
        weights[name] = np.asarray(array, np.float32)
    return weights


def _check_size(source: Path, config: Config, weights: Mapping[str, np.ndarray]) -> None:
    """Raise `InputError` where a stranger's file asks for a network far beyond its weights, before that is built."""
    largest = max((max(array.shape, default=0) for array in weights.values()), default=0)
    model: Any = config.model
    asked = {"dim": model.dim * max(model.dim_mults), "num_classes": model.num_classes or 0}
    bad = [key for key, value in asked.items() if value > 4 * largest]
    if len(model.dim_mults) * getattr(model, "num_res_blocks", 1) > len(weights):
        bad.append("num_res_blocks")
    if bad:
        raise InputError(f"{source} does not fit the network: model.{bad[0]} is {shown(getattr(model, bad[0]))} here, and the "
                         f"weights are {len(weights)} tensors of at most {largest} rows, allowed: weights of this network")


def _write(run_dir: Path, config: Config, weights: dict[str, np.ndarray], step: int, facts: dict[str, Any]) -> None:
    """The run directory, under another name until it is whole."""
    from ddpm_ms import runtime
    from ddpm_ms.checkpoints import checkpoint
    from ddpm_ms.training.run_directory import RunDirectory

    partial, environment = run_dir.with_name(f".partial_{run_dir.name}"), runtime.environment(runtime.current())
    try:
        shutil.rmtree(partial, ignore_errors=True)
        directory = RunDirectory(partial, 1, writes=True)
        directory.describe(config, environment)
        checkpoint.save(partial / "checkpoints", step, {checkpoint.WEIGHTS: weights, checkpoint.EMA_WEIGHTS: weights},
                        {"config": to_dict(config), "environment": environment, "converted": facts})
        directory.event("converted", step, parameters=sum(array.size for array in weights.values()), **facts)
        partial.rename(run_dir)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"run directory {run_dir} cannot be written: {error.strerror or error}") from None
        raise
