"""What a classifier says of samples."""

from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_ms.config import Config, DataConfig
from ddpm_ms.data.arrays import digits
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation import ClassifierJudge, classifier, classifier_judge, frechet_distance


def test_frechet_distance_has_its_closed_form():
    random = np.random.default_rng(0)
    a = random.standard_normal((50_000, 3)) * [1, 2, 3] + [0, 1, 0]
    b = random.standard_normal((50_000, 3)) * [2, 2, 1]
    assert frechet_distance(a, b) == pytest.approx(1 + 1 + 0 + 4, rel=0.03)  # |shift|^2 + sum (sigma_a - sigma_b)^2
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def digits_judge():
    data = digits()
    return ClassifierJudge(data.load(range(len(data))), data.labels)


def test_real_digits_pass_and_noise_does_not(digits_judge):
    real = digits_judge.report(digits().load(range(0, 1792, 7)))
    assert real.passed and real.confident > 0.9 and real.classes == 10
    noise = np.random.default_rng(0).uniform(0, 1, (256, 1, 8, 8))
    assert not digits_judge.report(noise).passed
    with pytest.raises(InputError, match=r"allowed: \(N, 1, 8, 8\)"):
        digits_judge.report(noise[:, :, :4])


def test_samples_are_compared_with_as_many_real_images_that_the_classifier_never_saw(digits_judge):
    few, many = (digits_judge.report(digits().load(range(count))) for count in (64, 1797))
    assert (few.samples, few.real, many.samples, many.real) == (64, 64, 1797, 540)  # 30 % are held out
    assert few.real_distance > many.real_distance  # fewer images are farther, real or not
    assert "64 samples" in str(few) and "540 real images" in str(many)
    exact = digits_judge.report(digits_judge.held_out[:100].reshape(-1, 1, 8, 8))
    assert exact.distance == exact.real_distance and exact.confident == exact.real_confident


def test_too_few_samples_to_judge_are_refused_before_the_judge_is_trained_and_few_are_called_few(digits_judge, monkeypatch):
    monkeypatch.setattr(classifier, "ClassifierJudge", lambda *data: pytest.fail("the judge was trained"))
    asked = SimpleNamespace(count=9, runtime=SimpleNamespace(rank=0), config=Config(data=DataConfig(name="digits")), classes=None,
                            dataset=digits())
    with pytest.raises(InputError, match=r"^--num-images is 9, allowed: at least 10, one for each class$"):
        classifier.classifier(asked)
    few, enough = (str(digits_judge.report(digits().load(range(count)))) for count in (255, 256))
    assert few.endswith("of fewer than 256 images the distance is larger, and varies from draw to draw")
    assert "varies" not in enough


def two_kinds(count=200):
    """Dark images of class 3 and bright ones of class 7, 2x2 in three colours."""
    labels = np.where(np.arange(count) % 2, 7, 3)
    light = np.where(labels == 7, 0.8, 0.2)[:, None, None, None]
    return (light + np.random.default_rng(0).uniform(-0.15, 0.15, (count, 3, 2, 2))).astype(np.float32), labels


def test_any_labelled_images_are_judged_and_two_classes_are_enough():
    images, labels = two_kinds()
    report = ClassifierJudge(images, labels).report(images, asked=labels)
    assert (report.agree, report.classes, report.all_classes) == (1.0, 2, 2) and report.passed
    assert ClassifierJudge(images, labels).report(images[labels == 3]).classes == 1


def test_the_classifier_is_scikit_learns(digits_judge):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    data = load_digits()
    train, test, labels, _ = train_test_split(data.data / 16, data.target, train_size=0.7, random_state=0, stratify=data.target)
    theirs = MLPClassifier((128, 64), random_state=0).fit(train, labels).predict_proba(test)
    np.testing.assert_allclose(digits_judge.classifier.probabilities(test), theirs, atol=1e-9)


def test_the_classifier_is_trained_once_and_a_damaged_one_again(tmp_path, monkeypatch, caplog):
    images, labels = two_kinds()
    first = ClassifierJudge(images, labels, tmp_path).report(images)
    (kept,) = tmp_path.iterdir()
    trained = []
    monkeypatch.setattr(classifier, "_train", lambda *given: trained.append(given) or original(*given))
    assert ClassifierJudge(images, labels, tmp_path).report(images) == first and not trained
    ClassifierJudge(images[:100], labels[:100], tmp_path)
    assert len(trained) == 1 and len(list(tmp_path.iterdir())) == 2  # other images, another classifier
    kept.write_bytes(kept.read_bytes()[:200])
    assert ClassifierJudge(images, labels, tmp_path).report(images) == first and len(trained) == 2
    assert "cannot be read" in caplog.text


original = classifier._train


@pytest.mark.parametrize("labels", [np.zeros(10, int), np.r_[np.zeros(9, int), 1]])
def test_what_no_classifier_can_learn_is_refused(labels):
    with pytest.raises(InputError, match=r"class\(es\), the smallest of \d+ image\(s\), allowed for a classifier: 2 classes"):
        ClassifierJudge(np.zeros((10, 1, 2, 2), np.float32), labels)


def test_data_without_labels_cannot_be_judged_by_a_classifier(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((9, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"data npz has no labels, allowed with --metric classifier: data with labels"):
        classifier_judge(DataConfig(name="npz", root=str(tmp_path / "images.npy"), image_size=4, channels=1))
