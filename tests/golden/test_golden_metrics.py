"""Our metrics against the numbers that torch-fidelity made (see make_metrics.py)."""

from pathlib import Path

import numpy as np
import pytest
from make_metrics import CASES, features

from ddpm_ms.evaluation import metrics
from ddpm_ms.evaluation.statistics import Sums

THEIRS = np.load(Path(__file__).parent / "metrics.npz")
NEAR = dict(rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_every_metric_is_torch_fidelitys(name):
    x, y = features(name)
    sides = [Sums(x.shape[1]) for _ in "xy"]
    for side, rows in zip(sides, (x, y)):
        for batch in np.array_split(rows, 4):
            side.add(batch)
    assert metrics.frechet(*(side.gaussian() for side in sides)) == pytest.approx(THEIRS[f"{name}_fid"][0], **NEAR)
    size = min(len(x), len(y)) // 2
    assert metrics.kid(x, y, subsets=20, size=size) == pytest.approx(THEIRS[f"{name}_kid"], **NEAR)
    assert metrics.inception_score(3 * x, min(10, len(x))) == pytest.approx(THEIRS[f"{name}_is"], **NEAR)
    assert [metrics.covered(x, y), metrics.covered(y, x)] == pytest.approx(THEIRS[f"{name}_prc"], **NEAR)
