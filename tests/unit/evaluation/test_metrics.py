"""The metrics: their closed forms, their ideals, which way they fall, and that no order of images matters."""

import tracemalloc

import numpy as np
import pytest

from ddpm_ms.evaluation import metrics
from ddpm_ms.evaluation.metrics import Gaussian
from ddpm_ms.evaluation.statistics import Sums


def normal(count, width=6, shift=0.0, scale=1.0, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)) * scale + shift


def gaussian(features):
    sums = Sums(features.shape[1])
    sums.add(features)
    return sums.gaussian()


def fid(x, y):
    return metrics.frechet(gaussian(x), gaussian(y))


def test_the_frechet_distance_of_equal_covariances_is_that_of_the_means():
    x = normal(50)
    shift = np.arange(6.0)
    assert fid(x, x + shift) == pytest.approx(shift @ shift, rel=1e-9)
    diagonal = [np.diag(np.square(deviations)) for deviations in ([1.0, 2, 3], [2.0, 2, 1])]
    mean = np.zeros(3)
    assert metrics.frechet(*(Gaussian(mean, covariance) for covariance in diagonal)) == pytest.approx(1 + 0 + 4)


def test_a_set_against_itself_is_at_the_ideal():
    x = normal(40).astype(np.float32)
    x[:8] = x[0]  # copies are no trouble
    assert fid(x, x) == pytest.approx(0, abs=1e-6)
    assert metrics.covered(x, x) == 1 and metrics.mind(x, x) == 0
    assert metrics.kid(x, x).value <= 0  # unbiased: the images' kernels with themselves are missing on one side alone
    logits = np.repeat(np.eye(5) * 50, 20, axis=0)
    assert metrics.inception_score(logits, splits=1).value == pytest.approx(5)  # sure of every image, and all classes alike
    assert metrics.inception_score(np.ones((20, 5))).value == pytest.approx(1)


def test_precision_keeps_one_block_of_distances_at_a_time(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 2**16)
    points = np.random.default_rng(0).standard_normal((2000, 4))  # whose distances take 32 MB
    tracemalloc.start()
    metrics.covered(points, points)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_precision_and_recall_fall_on_the_right_side():
    real = normal(400)
    collapsed, varied = normal(400, scale=0.1, seed=1), normal(400, scale=6, seed=2)
    assert metrics.covered(collapsed, real) > 0.8 and metrics.covered(real, collapsed) < 0.3
    assert metrics.covered(varied, real) < 0.3 and metrics.covered(real, varied) > 0.8
    point = np.zeros((400, 6))
    assert metrics.covered(point, real) == 1 and metrics.covered(real, point) == 0


def test_two_halves_of_one_set_are_at_kid_0_and_a_shift_is_not():
    x, how = normal(2400), dict(subsets=30, size=400)
    value, deviation = metrics.kid(x[:1200], x[1200:], **how)
    assert abs(value) < 2 * deviation and deviation < 0.05
    assert metrics.kid(x[:1200], x[1200:] + 0.5, **how).value > 0.5


def test_of_fewer_images_than_a_subset_kid_takes_all_at_once():
    assert metrics.kid(normal(30), normal(30, seed=1)).deviation is None
    assert metrics.kid(normal(30), normal(40, seed=1)).deviation > 0  # subsets of 30


def test_mind_of_a_shift_has_its_closed_form_and_takes_sets_of_unequal_sizes():
    x, shift = normal(60), np.full(6, 0.5)
    expected = 3 * shift @ shift  # a direction sees 1 / D of its square
    assert metrics.mind(x, x + shift) == pytest.approx(expected, rel=0.06)
    assert metrics.mind(np.repeat(x, 2, axis=0), x + shift) == pytest.approx(metrics.mind(x, x + shift), rel=1e-9)
    assert metrics.mind(x[:1], x[:1] + shift) == pytest.approx(expected, rel=0.06)
    assert metrics.mind(np.zeros((3, 1)), np.array([[1.0], [1.0], [4.0], [4.0]])) == pytest.approx(3 * (1 + 16) / 2)


def test_four_images_in_four_dimensions_give_numbers():
    x, y = normal(4, 4), normal(4, 4, seed=1)
    collapsed = np.ones((4, 4))
    for a, b in ((x, y), (x, collapsed), (collapsed, collapsed)):
        values = [fid(a, b), metrics.kid(a, b).value, metrics.covered(a, b), metrics.mind(a, b),
                  *metrics.inception_score(a, 2)]
        assert np.isfinite(values).all() and fid(a, b) > -1e-6


@pytest.mark.parametrize("metric", [fid, metrics.covered, metrics.mind, lambda x, y: metrics.kid(x, y).value])
def test_the_order_of_images_does_not_matter(metric):
    x, y = normal(50), normal(50, shift=0.3, seed=1)
    assert metric(x[::-1], np.roll(y, 7, axis=0)) == pytest.approx(metric(x, y), rel=1e-9)


def test_blocks_change_nothing(monkeypatch):
    x, y = normal(50), normal(45, shift=0.3, seed=1)
    before = metrics.covered(x, y), metrics.mind(x, y)
    monkeypatch.setattr(metrics, "BLOCK", 300)
    assert (metrics.covered(x, y), metrics.mind(x, y)) == pytest.approx(before, rel=1e-9)
