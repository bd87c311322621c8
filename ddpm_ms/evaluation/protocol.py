"""Comparing two sides: features of either in one pass, what is kept of them, the numbers, and the protocol printed with them."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from ddpm_ms.data import RandomAccessDataset, describe
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.comparisons import STATISTICS, Comparison, Measured
from ddpm_ms.evaluation.features import Extracted, Features
from ddpm_ms.evaluation.metrics import KID_SUBSET, KID_SUBSETS, Score
from ddpm_ms.evaluation.sides import Side
from ddpm_ms.evaluation.statistics import Statistics, Sums
from ddpm_ms.parts import COMPARISONS
from ddpm_ms.progress import progress
from ddpm_ms.runtime import Runtime, cache_dir, caches
from ddpm_ms.runtime.ranks import Shares, broadcast_text, gather
from ddpm_ms.visual import to_uint8

log = logging.getLogger("ddpm_ms")

WIDEST = 8192  # features: their covariance takes 512 MiB


@dataclass(frozen=True)
class Result:
    """Numbers, and what they are of."""

    scores: Mapping[str, Score]
    judged: Side
    against: Side | None
    features: Features
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        lines = [f"{name:10} {_shown(score)}" for name, score in self.scores.items()]
        lines.append(_with_count(self.judged))
        if self.against is not None:
            lines.append(f"against {_with_count(self.against)}")
        lines.append(f"features: {self.features.identity}, {self.features.width} numbers of each image, which has 8 bits")
        return "\n".join([*lines, *self.notes])

    def row(self) -> dict[str, Any]:
        """The line of evaluations.jsonl."""
        return {"time": round(time.time(), 3),
                "scores": {name: {"value": score.value, "deviation": score.deviation} for name, score in self.scores.items()},
                "judged": _row_of(self.judged), "against": self.against and _row_of(self.against),
                "features": {"name": self.features.name, "identity": self.features.identity, "width": self.features.width},
                "notes": list(self.notes)}


def compare(judged: Side, against: Side | None, names: Sequence[str], features: Features, runtime: Runtime, batch_size: int = 64,
            save: str | Path | None = None) -> Result | None:
    """Measure both sides and compare them; every rank calls it.

    Args:
        judged: the side whose images are drawn last, when everything else is known to be in order.
        against: None where no comparison needs it.
        names: of `COMPARISONS`.
        features: to compare in.
        runtime: the ranks.
        batch_size: images that a rank looks at at once.
        save: where to write the statistics of what is judged.

    Returns:
        On rank 0; None on the others.

    Raises:
        InputError: the sides do not fit each other, the features or the comparisons; or ``save`` cannot be written.
    """
    chosen: dict[str, Comparison] = {name: COMPARISONS[name] for name in names}
    two_sided = {name: comparison for name, comparison in chosen.items() if not comparison.alone}
    if not two_sided:
        against = None
    elif against is None:
        raise InputError(f"--metric {next(iter(two_sided))} without --against, allowed: with it")
    if features.width > WIDEST and (save or any(comparison.needs == "pool" for comparison in chosen.values())):
        raise InputError(f"features {features.identity} are {features.width} numbers an image, allowed for a covariance: "
                         f"{WIDEST} (kid and mind need none)")
    _check_shapes(judged, against)
    _check(judged, chosen, features)
    theirs: Measured | None = Measured()
    if against is not None:
        _check(against, two_sided, features)
        theirs = measured(against, two_sided, features, runtime, batch_size, against.fixed)
    ours = measured(judged, chosen, features, runtime, batch_size, for_statistics=bool(save))
    if ours is None or theirs is None:  # another rank than 0
        return None
    if save:
        _save(judged, ours, features, save)
    scores = {name: comparison(ours, theirs) for name, comparison in chosen.items()}
    return Result(scores, judged, against, features, _notes(judged, against, chosen, features))


def _check_shapes(judged: Side, against: Side | None) -> None:
    if against is not None and judged.shape and against.shape and tuple(judged.shape) != tuple(against.shape):
        raise InputError(f"{judged.what} has images of {describe(judged.shape)}, {against.what} of {describe(against.shape)}, "
                         "allowed: the same")


def _check(side: Side, comparisons: Mapping[str, Comparison], features: Features) -> None:
    """The side has what the comparisons need."""
    for name, comparison in comparisons.items():
        if side.count is not None and side.count < comparison.least:
            raise InputError(f"{side.what} has {side.count} image(s), allowed with --metric {name}: at least {comparison.least}")
    if side.statistics is None:
        return
    found = side.statistics
    enough = [name for name, comparison in COMPARISONS.items()
              if comparison.of_statistics and getattr(found, comparison.needs) is not None]
    for name in comparisons:
        if name not in enough:
            raise InputError(f"--metric {name} with {side.what}, which has no images, allowed: {', '.join(enough)}")
    if found.features and found.features != features.identity:
        raise InputError(f"{side.what} is of the features {found.features}, allowed: those of --features, {features.identity}")
    if len(found.pool.mean) != features.width:
        raise InputError(f"{side.what} is of {len(found.pool.mean)} numbers an image, allowed: the {features.width} of "
                         f"{features.identity}")


def measured(side: Side, comparisons: Mapping[str, Comparison], features: Features, runtime: Runtime, batch_size: int,
             cached: bool = False, for_statistics: bool = False) -> Measured | None:
    """What the comparisons need of a side, on rank 0; where that is statistics and they may be ``cached``, from the cache."""
    if side.statistics is not None:
        return Measured(side.statistics.pool, side.statistics.spatial)
    assert side.images is not None
    dataset, needs = side.images(), {comparison.needs for comparison in comparisons.values()}
    if for_statistics:
        needs.add("pool")
    if not cached or not needs & {*STATISTICS}:
        return _pass_over(side.what, dataset, needs, features, runtime, batch_size)
    path, kept = None, None
    if runtime.rank == 0:
        path = cache_dir() / caches.STATISTICS / f"{_identity(dataset, features)}.npz"
        kept = _kept(path, needs)
    if broadcast_text("kept" if kept else "", runtime):
        return Measured(kept.pool, kept.spatial) if kept else None
    found = _pass_over(side.what, dataset, needs, features, runtime, batch_size)
    if found is not None and path is not None and found.pool is not None:
        try:
            Statistics(found.pool, found.spatial, len(dataset), features.identity, side.what).save(path)
        except OSError as error:
            log.warning("%s could not be written (%s)", path, error.strerror or error)
    return found


def _kept(path: Path, needs: set[str]) -> Statistics | None:
    """The statistics at ``path``, if they are there and have what is needed."""
    if not path.is_file():
        return None
    try:
        found = Statistics.load(path)
    except InputError as error:
        log.warning("%s; measuring again", error)
        return None
    return found if all(getattr(found, name, None) is not None for name in needs) else None


def _identity(dataset: RandomAccessDataset, features: Features) -> str:
    """Of these images, to the last bit, in these features."""
    digest = hashlib.sha256(f"{features.identity}\n{tuple(dataset.shape)} {len(dataset)}\n".encode())
    for first in range(0, len(dataset), 1024):
        digest.update(to_uint8(dataset.load(range(first, min(first + 1024, len(dataset))))).data)
    return digest.hexdigest()[:32]


def _pass_over(what: str, dataset: RandomAccessDataset, needs: set[str], features: Features, runtime: Runtime,
               batch_size: int) -> Measured | None:
    """Features of all images, each rank its share; rank 0 keeps what is needed, and all statistics that there are if any are
    needed."""
    sums: dict[str, Sums] = {}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("rows", "logits") if name in needs}
    for extracted in _extracted(what, dataset, features, runtime, batch_size):
        _check_extracted(extracted, needs, features)
        if runtime.rank != 0:
            continue
        for name in STATISTICS if needs & {*STATISTICS} else ():
            values = getattr(extracted, name)
            if values is not None:
                sums.setdefault(name, Sums(values.shape[1])).add(values)
        for name, parts in rows.items():
            parts.append(extracted.pool if name == "rows" else getattr(extracted, name))
    if runtime.rank != 0:
        return None
    kept: dict[str, Any] = {name: np.concatenate(parts) for name, parts in rows.items()}
    kept |= {name: found.gaussian() for name, found in sums.items() if found.count > 1}
    return Measured(**kept)


def _check_extracted(found: Extracted, needs: set[str], features: Features) -> None:
    for name, metric in (("logits", "is"), ("spatial", "sfid")):
        if name in needs and getattr(found, name) is None:
            raise InputError(f"--metric {metric} with --features {features.name}, which have no "
                             f"{'classes' if name == 'logits' else 'places'}, allowed: features that have them")
    if not np.isfinite(found.pool).all():
        raise InputError(f"features {features.identity} are not finite, allowed: finite ones")


def _extracted(what: str, dataset: RandomAccessDataset, features: Features, runtime: Runtime,
               batch_size: int) -> Iterator[Extracted]:
    """Features of the images in order, as many at once as all ranks compute; every rank has all of them."""
    shares, left = Shares(len(dataset), batch_size, runtime), len(dataset)
    with progress(len(dataset), "image", runtime.rank == 0, f"features of {what}") as bar:
        for numbers in shares.batches:
            # The last batch is filled up and cut: another size would be another graph.
            images = to_uint8(dataset.load(np.array(numbers) % len(dataset)))
            found = features(images.astype(np.float32) / 255)
            parts = {name: gather(np.asarray(part, np.float32), runtime)[:left]
                     for name, part in found._asdict().items() if part is not None}
            yield Extracted(**parts)
            bar.update(len(parts["pool"]))
            left -= len(parts["pool"])


def _save(side: Side, measured: Measured, features: Features, path: str | Path) -> None:
    if measured.pool is None:
        raise InputError(f"{side.what} has {side.count} image(s), allowed with --save-stats: at least 2")
    try:
        Statistics(measured.pool, measured.spatial, side.count, features.identity, side.what).save(path)
    except OSError as error:
        raise InputError(f"--save-stats {path} cannot be written: {error.strerror or error}") from None
    log.info("%s: mean and covariance of %d features", path, features.width)


def _notes(judged: Side, against: Side | None, names: Mapping[str, Comparison], features: Features) -> list[str]:
    """What must be said of these numbers."""
    counts = [side.count for side in (judged, against) if side is not None and side.count is not None]
    few, notes = min(counts, default=None), []
    if few is not None and few <= features.width and "fid" in names:
        other = "" if "kid" in names else "; kid needs none"
        notes.append(f"of {few} images the covariance of {features.width} features is singular, and fid is larger than of more "
                     f"images{other}")
    if "kid" in names and few is not None:
        if few == max(counts) <= KID_SUBSET:
            notes.append(f"kid is of all {few} images at once, so it has no deviation")
        else:
            notes.append(f"kid is the mean of {KID_SUBSETS} subsets of {min(few, KID_SUBSET)} images")
    if against is not None and against.statistics is not None and not against.statistics.features:
        notes.append(f"{against.what} does not say which features it is of")
    return notes


def _shown(score: Score) -> str:
    deviation = "" if score.deviation is None else f" +- {score.deviation:.3g}"
    return f"{score.value:.6g}{deviation}"


def _with_count(side: Side) -> str:
    return f"{'an unknown number of' if side.count is None else f'{side.count:,}'} images: {side.what}"


def _row_of(side: Side) -> dict[str, Any]:
    return {"what": side.what, "images": side.count, **side.facts}
