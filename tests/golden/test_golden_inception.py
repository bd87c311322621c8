"""Our Inception computes what torch-fidelity's and pytorch-fid's compute with the same weights, at every tap."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from inception_cases import EVERY, SIZES, checkerboard, images, weight
from mindspore import Tensor

from ddpm_ms.evaluation.inception import SIZE, Inception
from ddpm_ms.evaluation.inception_features import InceptionFeatures
from ddpm_ms.evaluation.inception_weights import Weights, fold, shapes
from ddpm_ms.evaluation.resizing import PROTOCOLS

GOLDEN = np.load(Path(__file__).parent / "inception.npz")


def kept(resized):
    return resized[0, 0, ::EVERY, ::EVERY]


@pytest.fixture(scope="module")
def weights():
    return Weights(*fold({name: weight(name, shape) for name, shape in shapes().items()}), "0" * 64)


@pytest.fixture(scope="module")
def network(weights):
    return Inception(weights.folded, weights.classifier)


def test_the_tensors_of_the_file_are_those_of_torch_fidelity():
    assert hashlib.sha256(repr(sorted(shapes().items())).encode()).hexdigest() == GOLDEN["tensors"]


@pytest.mark.parametrize("protocol", ["ttur", "pytorch-fid"])
def test_every_tap_equals_that_of_the_protocol_s_own_network(network, protocol):
    taps = network(Tensor(PROTOCOLS[protocol](images(SIZES[1]), SIZE)))
    names = [name for name in taps._fields if f"{protocol}.{name}" in GOLDEN and name != "spatial"]
    assert len(names) == (5 if protocol == "ttur" else 4)
    for name in names:
        expected = GOLDEN[f"{protocol}.{name}"]
        np.testing.assert_allclose(getattr(taps, name).asnumpy(), expected, rtol=0, atol=1e-5 * expected.std(), err_msg=name)


def test_features_are_the_last_means_the_logits_and_what_sfid_looks_at(weights):
    features = InceptionFeatures(weights)
    found = features(images(SIZES[1]).astype(np.float32) / 255)
    assert (features.name, features.width) == ("inception", 2048) and "ttur" in features.identity
    assert (found.pool.shape, found.logits.shape, found.spatial.shape) == ((2, 2048), (2, 1008), (2, 7 * 17 * 17))
    # What is not a mean has more of the rounding, here and there.
    for name, error in (("pool", 1e-5), ("logits", 1e-5), ("spatial", 5e-5)):
        array = getattr(found, name)[:, ::5 if name == "spatial" else 1]
        expected = GOLDEN[f"ttur.{name}"]
        np.testing.assert_allclose(array, expected, rtol=0, atol=error * expected.std(), err_msg=name)


def test_features_of_an_image_do_not_depend_on_the_others_and_grey_is_grey_in_three_channels(weights, monkeypatch):
    monkeypatch.setattr("ddpm_ms.evaluation.inception_features.BATCH", 2)
    features = InceptionFeatures(weights, "clean-fid")
    grey = images((8, 8), 3)[:, :1].astype(np.float32) / 255
    together, alone = features(grey), features(np.repeat(grey[2:], 3, axis=1))
    for several, one in zip(together, alone):
        np.testing.assert_allclose(several[2], one[0], rtol=0, atol=1e-5 * several.std())


def test_the_resize_of_ttur_is_that_of_torch_fidelity_in_every_bit():
    cases = {"checkerboard.sha256": checkerboard(), **{"x".join(map(str, size)): images(size, 1) for size in SIZES}}
    np.testing.assert_array_equal(kept(PROTOCOLS["ttur"](checkerboard(), SIZE)), GOLDEN["ttur.checkerboard"])
    for name, x in cases.items():
        resized = PROTOCOLS["ttur"](x, SIZE)
        assert resized.dtype == np.float32 and resized.flags.c_contiguous
        assert hashlib.sha256(resized.tobytes()).hexdigest() == GOLDEN[f"ttur.{name}"], name


@pytest.mark.parametrize("protocol", ["pytorch-fid", "clean-fid"])
@pytest.mark.parametrize("size", SIZES)
def test_the_other_protocols_resize_and_normalise_as_their_packages(protocol, size):
    resized = PROTOCOLS[protocol](images(size, 1), SIZE)
    assert resized.dtype == np.float32 and resized.shape == (1, 3, SIZE, SIZE)
    np.testing.assert_allclose(kept(resized), GOLDEN[f"{protocol}.{'x'.join(map(str, size))}"], rtol=0, atol=1e-6)
