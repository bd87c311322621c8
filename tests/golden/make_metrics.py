"""Make metrics.npz: what torch-fidelity computes of small random features.

    pip install torch torch-fidelity==0.4.0    (without torchvision: what reads images and networks is left out below)
    python tests/golden/make_metrics.py
"""

from pathlib import Path

import numpy as np

CASES = {"near": (300, 250, 12, 0.1), "far": (60, 90, 5, 1.5), "few": (6, 9, 16, 0.3)}  # N, M, D, how far apart


def features(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) and (M, D), float64."""
    n, m, width, shift = CASES[name]
    random = np.random.RandomState(len(name))
    mixing = random.standard_normal((width, width)) / width ** 0.5
    return random.standard_normal((n, width)) @ mixing, random.standard_normal((m, width)) * 1.2 + shift


def main() -> None:
    import importlib.util
    import sys
    import types
    from unittest.mock import MagicMock

    import torch

    theirs = types.ModuleType("torch_fidelity")
    theirs.__path__ = list(importlib.util.find_spec("torch_fidelity").submodule_search_locations)
    sys.modules.update({"torch_fidelity": theirs, "torch_fidelity.utils": MagicMock()})
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = {}
    for name in CASES:
        x, y = map(torch.from_numpy, features(name))
        statistics = [fid_features_to_statistics(side) for side in (x, y)]
        found[f"{name}_fid"] = list(fid_statistics_to_metric(*statistics, False).values())
        size = min(len(x), len(y)) // 2
        found[f"{name}_kid"] = list(kid_features_to_metric(x, y, kid_subset_size=size, kid_subsets=20, verbose=False,
                                                           rng_seed=2020).values())
        found[f"{name}_is"] = list(isc_features_to_metric(3 * x, splits=min(10, len(x))).values())
        found[f"{name}_prc"] = list(prc_features_to_metric(x, y, verbose=False).values())[:2]
    np.savez_compressed(Path(__file__).parent / "metrics.npz", **found)
    for name, values in found.items():
        print(name, values)


if __name__ == "__main__":
    main()
