"""Inception's weights, from the file that the user has: pytorch-fid's or torch-fidelity's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

from ddpm_ms import runtime
from ddpm_ms.digest import sha256_of
from ddpm_ms.errors import InputError, shown
from ddpm_ms.evaluation.inception import CLASSES, WIDTH, units
from ddpm_ms.interop import read_torch_file

PUBLISHED = "6726825d"  # how the SHA-256 of both files begins, which hold the same
FILE = f"pt_inception-2015-12-05-{PUBLISHED}.pth"
WHERE = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
EPSILON = 1e-3  # of the batch norms
_STATISTICS = ("weight", "bias", "running_mean", "running_var")
_NAMED_BY_HASH = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+")


class Weights(NamedTuple):
    """As `ddpm_ms.evaluation.inception.Inception` takes them."""

    folded: Dict[str, Tuple[np.ndarray, np.ndarray]]
    classifier: np.ndarray
    sha256: str  # of the file


def shapes() -> Dict[str, Tuple[int, ...]]:
    """Name to shape of all that the file must hold."""
    found: Dict[str, Tuple[int, ...]] = {}
    for name, width, unit in units():
        found[f"{name}.conv.weight"] = (unit.channels, width, *unit.kernel)
        found.update({f"{name}.bn.{kind}": (unit.channels,) for kind in _STATISTICS})
    return {**found, "fc.weight": (CLASSES, WIDTH), "fc.bias": (CLASSES,)}


def read_weights(path: str | Path) -> Weights:
    """The weights in a file of pytorch-fid or torch-fidelity.

    Raises:
        InputError: no such file, not what its name says, or not this Inception.
    """
    if not Path(path).is_file():
        raise InputError(f"Inception's weights {path} are no file; {what_to_get()}")
    sha256, named = sha256_of(Path(path)), _NAMED_BY_HASH.search(Path(path).name)
    if named and not sha256.startswith(named[1]):
        raise InputError(f"Inception's weights {path} are damaged: their SHA-256 begins with {sha256[:len(named[1])]}, not with "
                         f"{named[1]} as the name says")
    tensors = read_torch_file(path)
    try:
        return Weights(*fold(checked(tensors)), sha256)
    except InputError as error:
        raise InputError(f"{path} is not the Inception of FID: {error}; {what_to_get()}") from None


def what_to_get() -> str:
    """Which file, and where it belongs."""
    return (f"get {WHERE} (SHA-256 {PUBLISHED}..., 95 MB; nothing is downloaded for you) and name it by --inception FILE or "
            f"{runtime.INCEPTION}=FILE")


def checked(tensors: Any) -> Dict[str, np.ndarray]:
    """``tensors`` without the counters of batch norms; `InputError` unless they are those of `shapes`."""
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise InputError("it holds no tensors by name")
    found, wanted = {k: v for k, v in tensors.items() if not k.endswith(".num_batches_tracked")}, shapes()
    for name, shape in wanted.items():
        if name not in found:
            raise InputError(f"there is no {name}")
        if not isinstance(found[name], np.ndarray) or found[name].shape != shape or found[name].dtype.kind != "f":
            raise InputError(f"{name} is {shown(getattr(found[name], 'shape', type(found[name]).__name__))}, allowed: {shape}")
    for name in found.keys() - wanted.keys():
        raise InputError(f"it holds {shown(name)}")
    for name, array in found.items():
        if not np.isfinite(array).all() or (name.endswith("running_var") and array.min() < 0):
            raise InputError(f"{name} holds numbers that are not finite or not possible")
    return found


def fold(tensors: Dict[str, np.ndarray]) -> tuple[Dict[str, Tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Batch norms made part of the convolutions before them, in float64: (weight and bias of each unit, the classifier)."""
    folded = {}
    for name, *_ in units():
        gain, shift, mean, variance = (tensors[f"{name}.bn.{kind}"].astype(np.float64) for kind in _STATISTICS)
        gain = gain / np.sqrt(variance + EPSILON)
        weight = tensors[f"{name}.conv.weight"] * gain[:, None, None, None]
        folded[name] = weight.astype(np.float32), (shift - mean * gain).astype(np.float32)
    return folded, np.ascontiguousarray(tensors["fc.weight"], np.float32)
