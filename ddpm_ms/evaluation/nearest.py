"""Does the network draw, or does it copy? The nearest training image of every sample, and what is usual among real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy as np

CHUNK = 1 << 26  # bytes of one piece of the data set
REFERENCES = 256
CLOSE = 5  # per cent of real images that are nearer to another real image than what is called close


@dataclass(frozen=True)
class NearestReport:
    """Distances are root mean squares over all pixels and channels, images in [0, 1].

    Args:
        distances: (N,) of each sample to its nearest training image.
        indices: (N,) the number of that image.
        real: (M,) of training images, evenly spaced through the data, each to its nearest *other* training image.
    """

    distances: np.ndarray
    indices: np.ndarray
    real: np.ndarray

    @property
    def close(self) -> np.ndarray:
        """(N,) bool: nearer than 95 % of the real images are to theirs."""
        return self.distances < np.percentile(self.real, CLOSE)

    def rank(self, sample: int) -> float:
        """The share of real images that are nearer to another real image than this sample is."""
        return float((self.real < self.distances[sample]).mean())

    def __str__(self) -> str:
        def row(name: str, values: np.ndarray) -> str:
            shown = np.percentile(values, (0, CLOSE, 50, 95, 100))
            return f"{f'{name} ({len(values)})':28}" + "".join(f"{value:9.4f}" for value in shown)

        order = np.argsort(self.distances)
        return "\n".join([
            "distance to the nearest training image (root mean square per pixel, images in [0, 1])",
            f"{'':28}  minimum      5 %   median     95 %  maximum",
            row("samples", self.distances), row("training, to another", self.real), "",
            *(f"sample {k:4}  {self.distances[k]:.4f}  image {self.indices[k]:7}  farther than {self.rank(k):4.0%} of the "
              "training images are from another" for k in order), "",
            f"{self.close.sum()} of {len(order)} samples are nearer than 95 % of the training images are to another one; "
            f"about {len(order) * CLOSE / 100:.1f} are expected where nothing is copied"])


def nearest_images(queries: np.ndarray, dataset: Any, *, own: Sequence[int] | np.ndarray | None = None, mirrored: bool = False,
                   chunk: int = CHUNK, callback: Callable[[int], object] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The nearest image of ``dataset`` to each of ``queries``, in one pass over the data in pieces.

    Args:
        queries: (N, C, H, W) in [0, 1].
        dataset: has a length and ``load(indices)`` -> (n, C, H, W) in [0, 1].
        own: (N,) numbers of images that are not to be compared with the query of their place; -1 for none.
        mirrored: compare with each image's mirror image as well, for data that is mirrored in training.
        chunk: bytes that one piece, its images and their distances, may take; at least one image.
        callback: called with the images of each piece when it is done.

    Returns:
        Root mean square distances (N,) float64, and numbers (N,) int64.
    """
    flat = queries.reshape(len(queries), -1).astype(np.float32) - 0.5
    norms, size = np.square(flat).sum(1), flat.shape[1]
    barred = np.full(len(flat), -1) if own is None else np.asarray(own)
    best, found = np.full(len(flat), np.inf), np.full(len(flat), -1)
    piece = max(1, chunk // (4 * (size + len(flat))))
    for first in range(0, len(dataset), piece):
        numbers = np.arange(first, min(first + piece, len(dataset)))
        images = dataset.load(numbers)
        for view in (images, images[..., ::-1]) if mirrored else (images,):
            rows = view.reshape(len(numbers), -1) - np.float32(0.5)
            # |a - b|^2 as a product of matrices says which is nearest; how far that is, the difference itself says, exactly.
            squares = norms[:, None] - 2 * flat @ rows.T + np.square(rows).sum(1)
            squares[barred[:, None] == numbers] = np.inf
            for query, column in enumerate(squares.argmin(1)):
                if np.isfinite(squares[query, column]):
                    square = np.square(flat[query].astype(np.float64) - rows[column]).sum()
                    if square < best[query]:
                        best[query], found[query] = square, numbers[column]
        if callback is not None:
            callback(len(numbers))
    return np.sqrt(best / size), found


def evaluate_nearest(samples: np.ndarray, dataset: Any, *, mirrored: bool = False,
                     callback: Callable[[int], object] | None = None) -> NearestReport:
    """Compare ``samples`` (N, C, H, W) in [0, 1] with all of ``dataset``, and up to 256 of its own images with the others.

    One pass over the data: the real images tell what distance is usual between two images that are no copies. Data that
    holds the same image twice makes that distance 0, and says so by its minimum.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(REFERENCES, len(dataset))).round().astype(int))
    queries = np.concatenate([samples, dataset.load(chosen)])
    own = np.concatenate([np.full(len(samples), -1), chosen])
    distances, indices = nearest_images(queries, dataset, own=own, mirrored=mirrored, callback=callback)
    count = len(samples)
    return NearestReport(distances[:count], indices[:count], distances[count:])
