"""The Frechet distance between two sets of features."""

from __future__ import annotations

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of the Gaussians fitted to two feature sets (FID, arXiv:1706.08500, section 2).

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)), computed in float64 through the symmetric form
    (A^(1/2) B A^(1/2))^(1/2), which has real eigenvalues.

    Args:
        a, b: features (N, D) and (M, D), N and M at least 2.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(cov_a))
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ np.atleast_2d(cov_b) @ root)
    shift = a.mean(0) - b.mean(0)
    return float(shift @ shift + np.trace(np.atleast_2d(cov_a)) + np.trace(np.atleast_2d(cov_b))
                 - 2 * np.sqrt(np.clip(cross, 0, None)).sum())
