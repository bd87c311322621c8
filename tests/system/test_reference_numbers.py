"""The numbers that torch-fidelity publishes of CIFAR-10, where the files are that they need:

DDPM_MS_INCEPTION=pt_inception-2015-12-05-6726825d.pth DDPM_MS_CIFAR10=cifar-10-batches-bin pytest -m slow -k reference_numbers
"""

import os

import numpy as np
import pytest

from ddpm_ms.config import DataConfig
from ddpm_ms.data import create_dataset
from ddpm_ms.evaluation import metrics
from ddpm_ms.evaluation.features import FeatureRequest
from ddpm_ms.evaluation.inception_features import inception
from ddpm_ms.evaluation.statistics import Sums

WEIGHTS, CIFAR10 = (os.environ.get(name, "") for name in ("DDPM_MS_INCEPTION", "DDPM_MS_CIFAR10"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (WEIGHTS and CIFAR10), reason="the weights or the images are not there")]


def subset(part):
    """The 5,000 images that torch-fidelity chooses, in its order."""
    dataset = create_dataset(DataConfig(name="cifar10", root=CIFAR10, image_size=32, channels=3, part=part))
    return dataset.load(np.random.RandomState(2020).choice(len(dataset), 5000, replace=False))


def test_5000_images_of_cifar10_against_5000_have_the_numbers_that_torch_fidelity_publishes():
    compute = inception(FeatureRequest((3, 32, 32), weights=WEIGHTS))
    sides = []
    for part in ("train", "test"):
        found = [compute(images) for images in np.array_split(subset(part), 100)]
        sides.append([np.concatenate(arrays) for arrays in list(zip(*found))[:2]])
    (train, logits), (test, _) = sides
    gaussians = []
    for rows in (train, test):
        gaussians.append(Sums(2048))
        gaussians[-1].add(rows)
    assert metrics.frechet(*(sums.gaussian() for sums in gaussians)) == pytest.approx(10.32333, abs=1e-3)
    assert metrics.inception_score(logits) == pytest.approx((10.75051, 0.57787), abs=1e-3)
    assert metrics.kid(train, test) == pytest.approx((-2.907863e-05, 1.023e-04), abs=1e-6)
    assert metrics.covered(train, test) == pytest.approx(0.6852, abs=1e-3)
    assert metrics.covered(test, train) == pytest.approx(0.6908, abs=1e-3)
