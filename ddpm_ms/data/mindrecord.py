"""MindRecord files: many encoded images in one file, MindSpore's own format.

Their rows are reached through `mindspore.dataset.MindDataset` with a `SubsetSampler`, a new pipeline for each batch: with 200,000
rows 14 ms for 64 of them, in any order, and nothing is left behind between two batches. `mindspore.mindrecord.MindPage`, which
is meant for access by key, searches its index from the start for every row (34 ms for one of 20,000).
"""

from __future__ import annotations

import functools
import io
import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from ddpm_ms.config import DataConfig
from ddpm_ms.data.datasets import Classes, EncodedDataset, check_labels
from ddpm_ms.data.folders import class_folders
from ddpm_ms.data.images import FORMATS, find_images, fit, is_transparent, read_image, upright
from ddpm_ms.data.official import path_of
from ddpm_ms.errors import InputError
from ddpm_ms.progress import watched

log = logging.getLogger("ddpm_ms")

ROWS = 256  # that packing holds in memory
PAGE = 2**22  # bytes; a page must hold its largest image, and a file has one page at least


def mindrecord(config: DataConfig) -> MindRecordDataset:
    """The images of the file ``data.root``; see `MindRecordDataset`."""
    return MindRecordDataset(path_of(config), **config.reading)


class MindRecordDataset(EncodedDataset):
    """The images of a MindRecord file: column ``image`` (a file's bytes), perhaps ``label`` and ``name``.

    Args:
        path: the file; its index is beside it, with ``.db`` added to its name.
        size, channels, on_error, workers, background: see `EncodedDataset`.

    Raises:
        InputError: file or index missing or damaged, or other columns. Asking for labels that are no whole numbers.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], channels: int, on_error: str = "refuse", workers: int = 2,
                 background: str = "white") -> None:
        self._path, self._threads = Path(path), min(workers, os.cpu_count() or 1)
        self._schema, count = _header(self._path)
        if self._schema.get("image", {}).get("type") != "bytes":
            raise InputError(f"mindrecord file {path} has the columns {', '.join(self._schema)}, allowed: image of type bytes, "
                             "and perhaps label and name")
        super().__init__(count, size, channels, on_error, workers, background=background)
        self._classes = functools.lru_cache(None)(self._read_classes)
        if not count or isinstance(self._sources(np.array([count - 1]))[0], InputError):
            raise InputError(f"mindrecord file {path} is {'cut off or damaged' if count else 'empty'}, allowed: a whole file")

    def _sources(self, rows: np.ndarray) -> list[Any]:
        try:
            return [image.tobytes() for image, in self._rows_of(["image"], rows)]
        except RuntimeError as error:
            if len(rows) == 1:
                return [InputError(f"{self._name(rows[0])} cannot be read: {_cause(error)}")]
            return [source for row in rows for source in self._sources(np.array([row]))]

    def _name(self, row: int) -> str:
        return f"record {row} of {self._path}"

    def _rows_of(self, columns: list[str], rows: np.ndarray | None, batch: int = 1) -> Iterator[Sequence[np.ndarray]]:
        """Tuples of ``columns``: of ``rows`` in their order, or of all rows in batches."""
        import mindspore.dataset as mds

        order = dict(shuffle=False) if rows is None else dict(sampler=mds.SubsetSampler(rows.tolist()))
        data = mds.MindDataset(str(self._path), columns_list=columns, num_parallel_workers=self._threads, **order)
        data = data if batch == 1 else data.batch(batch)
        return data.create_tuple_iterator(num_epochs=1, output_numpy=True)

    def _read_classes(self) -> Classes:
        """A class is called as the first folder in its images' names."""
        column = self._schema.get("label")
        if column is None:
            return Classes(None, why_none=f"{self._path} has no column label")
        if column.get("type") not in ("int32", "int64") or "shape" in column:
            raise InputError(f"mindrecord file {self._path}: column label is {column}, allowed: int32 or int64, one per image")
        named = self._schema.get("name", {}).get("type") == "string"
        try:
            parts = list(self._rows_of(["label", "name"] if named else ["label"], None, 4096))
        except RuntimeError as error:
            raise InputError(f"mindrecord file {self._path}: its labels cannot be read: {_cause(error)}") from None
        labels = np.concatenate([part[0].ravel() for part in parts]).astype(np.int64)
        check_labels(f"mindrecord file {self._path}", labels)
        if not named:
            return Classes(labels)
        names = np.concatenate([part[1].ravel() for part in parts])
        first = dict(zip(labels[::-1].tolist(), names[::-1].tolist()))
        return Classes(labels, tuple(str(first.get(k, k)).split("/")[0] for k in range(labels.max() + 1)))


def pack_folder(folder: str | Path, out: str | Path, size: tuple[int, int] | None = None, on_error: str = "refuse") -> list[str]:
    """Write every image below ``folder`` into the MindRecord file ``out``: its bytes, its name, and its label if there are
    class folders. Both ``out`` and its index appear at the end, whole, or not at all.

    Args:
        folder: as for `ImageFolderDataset`.
        out: a new file ending in .mindrecord.
        size: (height, width) to fit the images to, stored as PNG; None stores the files as they are.
        on_error: "refuse" raises at the first broken file, "skip" leaves broken files out.

    Returns:
        What was skipped and why.

    Raises:
        InputError: no images, a broken one under "refuse", an empty class folder, or ``out`` cannot be written.
    """
    out, index = Path(out), Path(f"{out}.db")
    if out.suffix != ".mindrecord":
        raise InputError(f"the packed file is {out}, allowed: a name ending in .mindrecord")
    for path in (out, index):
        if path.exists():
            raise InputError(f"{path} exists already, allowed: the name of a new file")
    encode = functools.partial(_encode, size=size)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        paths = find_images(folder)
        errors = list(watched(pool.map(_broken, paths), len(paths), "image", "checking"))
        skipped = [str(error) for error in errors if error is not None]
        if skipped and on_error == "refuse":
            raise InputError(f"{skipped[0]}; remove it, or skip what is broken")
        paths = [path for path, error in zip(paths, errors) if error is None]
        if not paths:
            raise InputError(f"data folder {folder}: all {len(skipped)} images are broken, allowed: at least one that is not")
        labels, _, why_none = class_folders(folder, paths)
        if labels is None:
            log.info("packed without labels: %s", why_none)
        rows: list[dict[str, Any]] = [{"name": path.relative_to(folder).as_posix()} for path in paths]
        if labels is not None:
            rows = [{**row, "label": int(label)} for row, label in zip(rows, labels)]
        parts = ([{**row, "image": image} for row, image in zip(rows[i:i + ROWS], pool.map(encode, paths[i:i + ROWS]))]
                 for i in range(0, len(paths), ROWS))
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
                largest = max(path.stat().st_size for path in paths) if size is None else 5 * size[0] * size[1]
                packing = watched(parts, -(-len(paths) // ROWS), "part", f"packing parts of {ROWS} images")
                _write(Path(scratch, out.name), packing, largest, labels is not None)
                # The index first: whoever sees the file sees its index.
                os.rename(Path(scratch, index.name), index)
                os.rename(Path(scratch, out.name), out)
        except InputError:
            raise
        except Exception as error:  # MindSpore's writer has errors of its own for a name, a full disk
            raise InputError(f"{out} cannot be written: {_cause(error)}") from None
    return skipped


def _write(path: Path, parts: Iterable[list[dict[str, Any]]], largest: int, labelled: bool) -> None:
    """Write parts of the rows, and the index beside them."""
    from mindspore.mindrecord import FileWriter

    writer = FileWriter(str(path), shard_num=1)
    page = PAGE
    while page < 2 * largest:
        page *= 2
    writer.set_page_size(page)
    writer.add_schema({"image": {"type": "bytes"}, "name": {"type": "string"},
                       **({"label": {"type": "int32"}} if labelled else {})}, "images")
    for part in parts:
        writer.write_raw_data(part)
    writer.commit()
    plain = path.with_suffix(".mode")
    plain.touch()
    for written in (path, Path(f"{path}.db")):
        written.chmod(plain.stat().st_mode)  # MindSpore's writer keeps others from reading, whatever the umask says
        with written.open("rb") as file:
            os.fsync(file.fileno())


def _encode(path: Path, size: tuple[int, int] | None) -> bytes:
    """The file as it is, or fitted to ``size`` as a PNG without loss."""
    if size is None:
        return path.read_bytes()
    with Image.open(path, formats=FORMATS) as image:
        image.draft(None, (2 * max(size), 2 * max(size)))  # as in `read_image`, so that both give the same pixels
        image = upright(image)
        if is_transparent(image):
            image = image.convert("RGBA")
        else:
            image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
            image.info.pop("transparency", None)  # a colour that no pixel has, but one of the resized may
        file = io.BytesIO()
        fit(image, size).save(file, "PNG")
    return file.getvalue()


def _broken(path: Path) -> InputError | None:
    try:
        read_image(path, (8, 8), 3)
    except InputError as error:
        return error
    return None


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """(columns, number of rows)."""
    for needed in (path, Path(f"{path}.db")):
        if not needed.is_file():
            raise InputError(f"{needed} does not exist or is no file, allowed: a .mindrecord file with its .db index beside it "
                             "(ddpm-ms data pack writes both)")
    from mindspore.mindrecord import FileReader

    try:
        reader = FileReader(str(path), num_consumer=1)
        try:
            return reader.schema(), reader.len()
        finally:
            reader.close()
    except Exception as error:  # of several kinds
        raise InputError(f"mindrecord file {path} cannot be read: {_cause(error)}") from None


def _cause(error: Exception) -> str:
    """The one line of MindSpore's page-long errors that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [line.split("[ERROR]")[-1].strip() for line in lines if "[ERROR]" in line]
    return (marked or lines or [type(error).__name__])[0].replace("[Internal ERROR]", "").strip() or "its data are damaged"
