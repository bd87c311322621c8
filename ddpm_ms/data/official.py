"""The published data sets: which files they are, where these come from, and how they are told from others."""

from __future__ import annotations

import logging
from pathlib import Path

from ddpm_ms.errors import InputError

log = logging.getLogger("ddpm_ms")

# What to download, from where, and what data.root then is.
HOW_TO_GET = {
    "mnist": "download train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz from "
             "https://ossci-datasets.s3.amazonaws.com/mnist/ into a folder, and set data.root to it",
    "fashion_mnist": "download train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz from "
                     "https://github.com/zalandoresearch/fashion-mnist into a folder, and set data.root to it (or install "
                     "Debian's package dataset-fashion-mnist)",
    "cifar10": "download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, unpack it, and set data.root to the folder "
               "with data_batch_1.bin",
    "cifar100": "download https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz, unpack it, and set data.root to the folder "
                "with train.bin",
    "celeba": "download img_align_celeba.zip and list_eval_partition.txt from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, "
              "unpack the first, and set data.root to the folder that holds both",
    "flowers102": "download 102flowers.tgz and imagelabels.mat from https://www.robots.ox.ac.uk/~vgg/data/flowers/102/, unpack "
                  "the first, and set data.root to the folder that holds jpg/ and imagelabels.mat",
}

# Where a system's own package puts a data set.
INSTALLED = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


def find_root(name: str, root: str | None) -> Path:
    """``root`` as a path, or where the system has the data set.

    Raises:
        InputError: neither is there.
    """
    if root is None:
        installed = INSTALLED.get(name)
        if installed is not None and installed.is_dir():
            log.info("data.root is not set: using %s", installed)
            return installed
        raise InputError(f"data.root is not set, allowed for {name}: {HOW_TO_GET.get(name, 'a path (data.root=PATH)')}")
    if name in HOW_TO_GET and not Path(root).is_dir():
        raise InputError(f"data.root {root} does not exist or is no folder; {HOW_TO_GET[name]}")
    return Path(root)


def find(name: str, *candidates: Path) -> Path:
    """The first of ``candidates`` that exists.

    Raises:
        InputError: none does; it says how to get the data set ``name``.
    """
    for path in candidates:
        if path.exists():
            return path
    raise InputError(f"data {name}: {candidates[0]} does not exist; {HOW_TO_GET[name]}")


def warn_if_not(name: str, what: str, found: object, expected: object) -> None:
    """Say so when data of a published name is not the published data; small files of one's own are allowed."""
    if found != expected:
        log.warning("%s is not the published file of %s (%s, published: %s)", what, name, found, expected)
