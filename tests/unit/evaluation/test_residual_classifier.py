"""The residual classifier: trained once from the data's labels, the same every time, and what its features tell apart."""

from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_ms.cli import main
from ddpm_ms.config import Config, DataConfig
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation import Subject, agreement, residual_classifier
from ddpm_ms.evaluation.features import FeatureRequest
from ddpm_ms.evaluation.residual_classifier import ResidualClassifier, classifier, labelled_images, train_classifier

SHAPE = (1, 8, 8)


@pytest.fixture
def bars(tmp_path, monkeypatch):
    """Data of 200 horizontal and vertical bars, and a cache of its own; training is short."""
    monkeypatch.setattr("ddpm_ms.runtime.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(residual_classifier, "PASSES", (8, 8))
    random, labels = np.random.default_rng(0), np.arange(200) % 2
    images = random.integers(0, 60, (200, *SHAPE), np.uint8)
    for image, label in zip(images, labels):
        image[(..., random.integers(8)) if label else (slice(None), random.integers(8))] = 255
    np.savez(tmp_path / "bars.npz", images=images, labels=labels)
    return DataConfig(name="npz", root=str(tmp_path / "bars.npz"), image_size=8, channels=1)


def request_for(data, shape=SHAPE):
    return FeatureRequest(shape, data)


def test_it_is_trained_once_the_same_every_time_and_tells_the_classes_apart(bars, monkeypatch):
    with pytest.raises(InputError, match=r"no classifier of data npz is trained, allowed .* --train-classifier"):
        classifier(request_for(bars))
    first = train_classifier(bars)
    found = labelled_images(bars)
    assert first.accuracy > 0.9 and f"{first.accuracy:.2%}" in first.identity
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name]

    monkeypatch.setattr(residual_classifier, "_train", lambda *_: pytest.fail("it was trained before"))
    kept = classifier(request_for(bars))
    assert train_classifier(bars).identity == kept.identity == first.identity and kept.accuracy == first.accuracy
    seen = kept(found.images[:64].astype(np.float32) / 255)
    assert seen.pool.shape == (64, kept.width) and seen.logits.shape == (64, 2)
    assert (seen.logits.argmax(1) == found.numbers[:64]).mean() > 0.9
    np.testing.assert_allclose(kept(found.images[3:4].astype(np.float32) / 255).pool[0], seen.pool[3], atol=1e-5)
    monkeypatch.undo()


def test_training_again_gives_the_same_weights(bars, monkeypatch, without_graphs):
    monkeypatch.setattr(residual_classifier, "PASSES", (1, 1))
    first = train_classifier(bars)
    labelled_images(bars).path.unlink()
    assert train_classifier(bars).identity == first.identity


def test_agreement_is_the_share_that_is_recognised_as_what_was_asked_for(bars, monkeypatch):
    found, asked = labelled_images(bars), np.arange(40) % 2

    class Seer:
        accuracy, identity = 0.75, "seer"

        def recognised(self, images):
            assert images.dtype == np.uint8 and images.shape == (40, *SHAPE)
            return np.where(np.arange(40) < 10, 1 - asked, asked)

    monkeypatch.setattr(agreement, "classifier", lambda request: Seer())
    config = Config(data=bars)

    def subject(classes):
        diffusion = SimpleNamespace(model=SimpleNamespace(num_classes=classes))
        return Subject(diffusion, config, None, lambda options, count: found.images[:count] / np.float32(255), 40)

    report = agreement.agreement(subject(2))
    assert (report.samples, report.agree, report.real) == (40, 0.75, 0.75)
    assert report.numbers == {"agreement": 0.75, "real_agreement": 0.75}
    assert "asked for: 75.0% of 40 samples, 75.0% of real images" in str(report) and "seer" in str(report)
    with pytest.raises(InputError, match=r"no classes, allowed with --metric agreement: one with model\.num_classes"):
        agreement.agreement(subject(None))


def test_classes_keep_the_labels_that_the_data_gives_them(bars):
    with np.load(bars.root) as arrays:
        np.savez(bars.root, images=arrays["images"], labels=3 * arrays["labels"] + 2)
    found = labelled_images(bars)
    assert found.classes.tolist() == [2, 5] and found.numbers[:3].tolist() == [0, 1, 0]
    recognised = residual_classifier.ResidualFeatures(found, found.network(), 0).recognised(found.images[:70])
    assert recognised.shape == (70,) and set(recognised) <= {2, 5}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 48), (1, 5, 9)])
def test_the_network_takes_images_of_any_size(shape):
    network = ResidualClassifier(shape, 7).set_train(False)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    hidden, logits = network(residual_classifier._inputs(images))
    assert (hidden.shape, logits.shape) == ((2, 64), (2, 7)) and hidden.asnumpy().min() >= 0


def test_what_it_cannot_serve_for_is_one_line(bars, tmp_path):
    for images, labels, message in ((np.zeros((40, 8, 8, 1), np.uint8), None, "has no labels"),
                                    (np.zeros((40, 8, 8, 1), np.uint8), np.zeros(40, int), "of 1 class"),
                                    (np.zeros((6, 8, 8, 1), np.uint8), np.arange(6), "6 images")):
        np.savez(tmp_path / "x.npz", **{"images": images, **({} if labels is None else {"labels": labels})})
        with pytest.raises(InputError, match=message):
            labelled_images(DataConfig(name="npz", root=str(tmp_path / "x.npz"), image_size=8, channels=1))
    with pytest.raises(InputError, match="without a data set on either side"):
        classifier(request_for(None))
    with pytest.raises(InputError, match="images are 1x9x9, allowed with the classifier of data npz: 1x8x8"):
        classifier(request_for(bars, (1, 9, 9)))
    path = labelled_images(bars).path
    path.parent.mkdir(parents=True)
    np.savez(path, accuracy=1.0)
    with pytest.raises(InputError, match="is damaged, allowed: delete it"):
        classifier(request_for(bars))


def test_one_command_trains_it_and_says_how_well_it_sees(bars, monkeypatch, capsys):
    monkeypatch.setattr(residual_classifier, "_train", lambda *_: None)
    images = ["--images", "npz", f"root={bars.root}", "image_size=8", "channels=1"]
    assert main(["evaluate", "--device", "CPU", "--train-classifier", *images]) == 0
    assert "of the images that it was not trained on" in capsys.readouterr().out
    for wrong in ([], [*images, "--metric", "fid"], [*images, "--checkpoint", "x"], ["--images", bars.root]):
        assert main(["evaluate", "--device", "CPU", "--train-classifier", *wrong]) == 2
        assert "allowed" in capsys.readouterr().err
