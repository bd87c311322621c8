"""`ddpm-ms data`: look at a data set, or pack one."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Sequence

from ddpm_ms.cli.options import check_output
from ddpm_ms.config import Config, DataConfig, load_config, override_config
from ddpm_ms.errors import check_range

log = logging.getLogger("ddpm_ms")


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``data inspect`` and ``data pack``."""
    verbs = commands.add_parser("data", help="look at a data set, or pack one").add_subparsers(metavar="VERB", required=True)
    command = verbs.add_parser("inspect", help="say what is in a folder of images, or in the data set of a recipe")
    command.add_argument("source", metavar="SOURCE", help="a folder of images, a .mindrecord file, or a recipe in YAML")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="change keys of the recipe, or of the "
                         "defaults by which a folder is read")
    command.add_argument("--out", metavar="PNG", help="a sheet of its images, class by class (default: runs/inspect/NAME.png, "
                         "NAME that of SOURCE)")
    command.set_defaults(run=inspect)
    command = verbs.add_parser("pack", help="pack a folder of images into one MindRecord file")
    command.add_argument("folder", metavar="FOLDER",
                         help="images at any depth; sub-folders are classes if every image is in one")
    command.add_argument("out", metavar="OUT.mindrecord", help="a new file; its index OUT.mindrecord.db goes beside it")
    command.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="fit to this size (or height and width), without "
                         "loss from there on (default: the files as they are)")
    command.add_argument("--on-error", choices=("refuse", "skip"), default="refuse",
                         help="what to do with an image that cannot be read (default: refuse)")
    command.set_defaults(run=pack)


def inspect(arguments: argparse.Namespace) -> None:
    """Print what is in a data set, and draw some of it."""
    source = Path(arguments.source)
    name = source.resolve().name if source.is_dir() else source.stem
    out = Path(arguments.out or Path("runs", "inspect", f"{name}.png"))
    check_output("--out", out, (".png",))
    config = _data_of(source, arguments.overrides)
    from ddpm_ms import visual
    from ddpm_ms.data import create_dataset
    from ddpm_ms.data.inspection import sheet, summary

    dataset = create_dataset(config)
    for skipped in getattr(dataset, "skipped", ()):
        log.warning("skipped: %s", skipped)
    print("\n".join([f"data: {config.name}", *summary(dataset)]))
    images, columns = sheet(dataset)
    out.parent.mkdir(parents=True, exist_ok=True)
    visual.to_grid(images, columns).save(out)
    log.info("%s: %d of them", out, len(images))


def _data_of(source: Path, overrides: Sequence[str]) -> DataConfig:
    """The data of a recipe, or how the images of a folder or file would be read."""
    if not source.is_dir() and source.suffix != ".mindrecord":
        return load_config(source, overrides).data
    from ddpm_ms.data import name_of

    name = "image_folder" if source.is_dir() else name_of(source)
    return override_config(Config(data=DataConfig(name=name, root=str(source))), overrides).data


def pack(arguments: argparse.Namespace) -> None:
    """Pack a folder of images into one MindRecord file."""
    size = arguments.size
    if size is not None:
        check_range("the number of --size values", len(size), 1, 2)
        for pixels in size:
            check_range("--size", pixels, 1)
    from ddpm_ms.data.mindrecord import pack_folder

    for skipped in pack_folder(arguments.folder, arguments.out, size and (size[0], size[-1]), arguments.on_error):
        log.warning("skipped: %s", skipped)
    log.info("%s is packed: data.name=mindrecord data.root=%s", arguments.out, arguments.out)
