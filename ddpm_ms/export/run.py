"""`export_run`: a run's network in another form, whole or not at all."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Sequence

from ddpm_ms.checkpoints.checkpoint import chosen
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.export.trained import Target, Trained
from ddpm_ms.parts import TARGETS, options_of

log = logging.getLogger("ddpm_ms")


def export_run(run: str | Path, to: str, output: str | Path, *, ema: bool = True, best: bool = False,
               batch_sizes: Sequence[int] | None = None) -> Path:
    """Write the network of a run in another form.

    Args:
        run: a run directory, or one of its checkpoints.
        to: a name in `ddpm_ms.parts.TARGETS`: "diffusers", "lucidrains", "safetensors", "mindir" or "onnx".
        output: the file or folder to make; folders above it are made.
        ema: averaged weights, or those that the optimizer left.
        best: of a run, the checkpoint with the smallest validation loss instead of the newest.
        batch_sizes: of the graphs of "mindir" and "onnx", a file each (default: 1).

    Returns:
        ``output``.

    Raises:
        InputError: there is no such run, its recipe says what the form cannot, or there is something at ``output``. Nothing is
            written.
        EvaluationError: a graph was written that does not compute what the network computes. Nothing is left of it.
    """
    TARGETS.check("the form", to)
    target: Target = TARGETS[to]
    output = _checked(Path(output), target.ending)
    options = _options(to, target, batch_sizes)
    checkpoint = chosen(run, best)
    trained = Trained(checkpoint, checkpoint.config, ema)
    try:
        with tempfile.TemporaryDirectory(dir=_nearest_folder(output), prefix=".partial_") as partial:
            said = target(trained, Path(partial, output.name), **options)
            output.parent.mkdir(parents=True, exist_ok=True)
            os.rename(Path(partial, output.name), _checked(output, target.ending))
    except OSError as error:
        raise InputError(f"the output {output}: {error.strerror or error}") from None
    log.info("%s: %s, %s", output, said, trained)
    return output


def _checked(output: Path, ending: str) -> Path:
    if ending and output.suffix != ending:
        raise InputError(f"the output is {output}, allowed: a file ending in {ending}")
    if output.exists() or output.is_symlink():
        raise InputError(f"the output is {output}, which is there already, allowed: a path where nothing is")
    return output


def _options(to: str, target: Target, batch_sizes: Sequence[int] | None) -> dict[str, Any]:
    if batch_sizes is None:
        return {}
    if "batch_sizes" not in options_of(target.write):
        graphs = [name for name in TARGETS if "batch_sizes" in options_of(TARGETS[name].write)]
        raise InputError(f"batch sizes for {to}, which has none, allowed: with {', '.join(graphs)}")
    return {"batch_sizes": [int(check_range("the batch size", size, 1)) for size in dict.fromkeys(batch_sizes)]}


def _nearest_folder(path: Path) -> Path:
    """The folder above ``path`` that exists."""
    return next(above for above in path.absolute().parents if above.is_dir())
