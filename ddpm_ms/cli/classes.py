"""Classes as people say them: by name, by number, or none."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Sequence

from ddpm_ms.config import Config
from ddpm_ms.errors import InputError, did_you_mean, shown

if TYPE_CHECKING:  # it loads MindSpore
    from ddpm_ms.gaussian_diffusion import GaussianDiffusion


def asked_classes(arguments: argparse.Namespace, diffusion: GaussianDiffusion, config: Config) -> list[int] | None:
    """The labels that --classes asks for, None without it.

    A name goes before a number, for a folder may be called 2 and not be the class of that number.

    Raises:
        InputError: the network takes no classes, or there is no such class.
    """
    if arguments.classes is None:
        return None
    count = diffusion.num_classes
    if not count:
        raise InputError(f"--classes is {shown(arguments.classes[0])}, allowed with a network that is not class-conditional: "
                         "nothing")
    called = config.data.called(count)
    return [_label(word, called) for word in arguments.classes]


def _label(word: str, called: Sequence[str]) -> int:
    numbers = list(map(str, range(len(called))))
    for known in (called, numbers):
        if word in known:
            return known.index(word)
    *names, none = called
    if names == numbers[:-1]:
        allowed = f"0 to {len(names) - 1}"
    else:
        allowed = ", ".join(name if name == number else f"{name} ({number})" for name, number in zip(names, numbers))
    raise InputError(f"--classes is {shown(word)}, allowed: {allowed}, or {none} (no class){did_you_mean(word, called)}")
