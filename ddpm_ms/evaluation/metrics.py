"""Distances between two sets of features, and what classes say of one: pure functions of arrays, computed in float64.

Wherever chance enters it is NumPy's `RandomState(2020)`, drawn from in the order of torch-fidelity, whose numbers these are.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

import numpy as np

SEED = 2020
KID_SUBSETS, KID_SUBSET = 100, 1000
SPLITS = 10  # of the Inception Score
NEIGHBOURS = 3  # whose distance is the radius of a ball
DIRECTIONS = 1000
BLOCK = 2**24  # numbers of one block of distances or projections
SAME = 1e-12  # square of a distance, as a share of the squared norms, that rounding makes of 0


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


class Score(NamedTuple):
    """A number, and where it is a mean over parts of the set their standard deviation."""

    value: float
    deviation: float | None = None


def frechet(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), the Frechet distance of two Gaussians (FID, arXiv:1706.08500, equation 6).

    The trace of the root is the sum of the roots of the eigenvalues of A B, which are real and not negative but for rounding;
    where a covariance is singular rounding makes some of them negative or complex, and their roots' real parts are about 0.
    """
    roots = np.sqrt(np.linalg.eigvals(a.covariance @ b.covariance).astype(np.complex128)).real.sum()
    shift = a.mean - b.mean
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * roots)


def kid(x: np.ndarray, y: np.ndarray, subsets: int = KID_SUBSETS, size: int = KID_SUBSET) -> Score:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased (KID, arXiv:1801.01401, section 4): may be
    negative. Its expectation does not depend on the number of images.

    Args:
        x, y: features (N, D) and (M, D).
        subsets: how many pairs of subsets, drawn without replacement; their mean is the value.
        size: of each; fewer where there are fewer images. Where a subset is all images on both sides there is one, and no
            deviation.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    size = min(size, len(x), len(y))
    if size == len(x) == len(y):
        return Score(_discrepancy(x, y))
    random = np.random.RandomState(SEED)
    values = [_discrepancy(x[random.choice(len(x), size, replace=False)], y[random.choice(len(y), size, replace=False)])
              for _ in range(subsets)]
    return Score(float(np.mean(values)), float(np.std(values)))


def _discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    count, width = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        k = a @ b.T / width + 1
        return k * k * k  # many times as fast as **

    def others(k: np.ndarray) -> float:
        return (k.sum() - np.trace(k)) / (count * (count - 1))

    return float(others(kernel(x, x)) + others(kernel(y, y)) - 2 * kernel(x, y).mean())


def inception_score(logits: np.ndarray, splits: int = SPLITS) -> Score:
    """The exponential of the mean Kullback-Leibler divergence from p(class) to p(class | image) (arXiv:1606.03498,
    section 4): mean and standard deviation over ``splits`` of the shuffled images.

    Args:
        logits: (N, K), N at least ``splits``.
    """
    count = len(logits)
    logits = np.asarray(logits, np.float64)[np.random.RandomState(SEED).permutation(count)]
    logs = logits - logits.max(1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    scores = []
    for k in range(splits):
        part = logs[k * count // splits:(k + 1) * count // splits]
        odds = np.exp(part)
        overall = odds.mean(0, keepdims=True)
        scores.append(np.exp((odds * (part - np.log(np.maximum(overall, np.finfo(float).tiny)))).sum(1).mean()))
    return Score(float(np.mean(scores)), float(np.std(scores)))


def covered(points: np.ndarray, by: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """The share of ``points`` (N, D) that lie in a ball around one of ``by`` (M, D), which reaches to that one's third nearest
    neighbour in its own set (arXiv:1904.06991, equations 1 and 2). Samples in balls of real images: precision; the other way
    round: recall.

    Args:
        neighbours: which one a ball reaches to, itself not counted; less than M.
    """
    points, by = np.asarray(points, np.float64), np.asarray(by, np.float64)
    radii = np.concatenate([np.partition(block, neighbours, axis=1)[:, neighbours].copy()  # a view would keep the block
                            for block in _squared_distances(by, by)])
    return float(np.concatenate([(block <= radii).any(1) for block in _squared_distances(points, by)]).mean())


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances of all rows of ``b`` from those of ``a``, some rows of ``a`` at a time."""
    norms, rows = np.square(b).sum(1), max(1, BLOCK // len(b))
    for first in range(0, len(a), rows):
        part = a[first:first + rows]
        sizes = np.square(part).sum(1)[:, None] + norms
        squares = sizes - 2 * part @ b.T
        squares[squares < SAME * sizes] = 0  # copies are at distance 0
        yield squares


def mind(x: np.ndarray, y: np.ndarray, directions: int = DIRECTIONS) -> float:
    """3 D times the mean, over random directions, of the squared Wasserstein distance of the projections (MIND,
    arXiv:2605.06797). No covariance is needed, so it serves for few images.

    Args:
        x, y: features (N, D) and (M, D).
        directions: how many.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    width, random, total = x.shape[1], np.random.RandomState(SEED), 0.0
    # Where the steps of either distribution function lie, in units of 1 / (N M), and between which images they are.
    ends = np.union1d(np.arange(1, len(x) + 1) * len(y), np.arange(1, len(y) + 1) * len(x))
    shares = np.diff(ends, prepend=0) / (len(x) * len(y))
    of_x, of_y = (ends - 1) // len(y), (ends - 1) // len(x)
    at_once = max(1, BLOCK // (len(x) + len(y)))
    for first in range(0, directions, at_once):
        lines = random.standard_normal((min(at_once, directions - first), width))
        lines /= np.linalg.norm(lines, axis=1, keepdims=True)
        gaps = np.sort(lines @ x.T, axis=1)[:, of_x] - np.sort(lines @ y.T, axis=1)[:, of_y]
        total += float((np.square(gaps) @ shares).sum())
    return 3 * width * total / directions
