"""Grids, GIFs, curves, schedules, nearest images, and the score of the digits."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddpm_ms import visual
from ddpm_ms.cli import main
from ddpm_ms.config import DataConfig
from ddpm_ms.data.arrays import digits
from ddpm_ms.data.datasets import ArrayDataset
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation import ClassifierJudge, classifier, classifier_judge, evaluate_nearest, frechet_distance, nearest_images


def test_a_grid_shows_every_image_in_order():
    images = np.linspace(0, 1, 5).reshape(5, 1, 1, 1) * np.ones((5, 1, 200, 200))
    grid = np.asarray(visual.to_grid(images))
    assert grid.shape == (2 * 201 + 1, 3 * 201 + 1)
    assert [grid[100, 100], grid[100, 301], grid[100, 502], grid[301, 100], grid[301, 301]] == [0, 64, 128, 191, 255]
    assert np.asarray(visual.to_grid(np.zeros((2, 3, 4, 4)))).shape[2] == 3


def test_captions_stand_below_their_images_and_leave_the_pixels_alone():
    images = np.linspace(0.6, 1, 5).reshape(5, 1, 1, 1) * np.ones((5, 1, 80, 80))
    words = ["cats", "dogs", "a name too long for it", "", "x"]
    plain, named = (np.asarray(visual.to_grid(images, captions=captions)) for captions in ([], words))
    strip = (named.shape[0] - plain.shape[0]) // 2
    assert strip > 10 and named.shape[1] == plain.shape[1]
    for row in range(2):
        np.testing.assert_array_equal(named[row * (81 + strip):][:81], plain[row * 81:][:81])
    below = [named[81:81 + strip, 1 + 81 * k:81 * (k + 1)] for k in range(3)] + [named[162 + strip:-1, 1:81]]
    assert [bool((cell < 100).any()) for cell in below] == [True, True, True, False]
    assert (named[81:81 + strip, [0, 81, 162]] == 128).all()  # nothing reaches the next image


def test_captions_say_names_where_these_say_more_than_numbers():
    assert visual.class_captions([1, 0, 2], ["cats", "dogs", "none"]) == ["dogs", "cats", "none"]
    assert visual.class_captions([1, 0, 2], ["0", "1", "none"]) == []
    assert visual.class_captions([0, 1], ["\u732b", "caf\u00e9", "none"]) == ["0", "caf\u00e9"]  # the font has no such letter


@pytest.mark.parametrize(("value", "byte"), [(-0.2, 0), (0.5, 128), (1.4, 255), (0.999, 255)])
def test_pixels_are_rounded_and_clipped(value, byte):
    assert visual.to_uint8(np.array([value]))[0] == byte


def test_a_gif_rests_on_its_last_frame(tmp_path):
    visual.save_gif([np.full((4, 1, 8, 8), v) for v in (0.0, 0.5, 1.0)], tmp_path / "x.gif", frame_ms=50, hold_ms=900)
    with Image.open(tmp_path / "x.gif") as gif:
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
    assert durations == [50, 50, 900]


def test_the_loss_curve_takes_rows_with_empty_quarters(tmp_path):
    rows = [{"step": s, "loss": 1 / s, "loss_q1": 1.0, "loss_q2": None, "loss_q3": 0.1, "loss_q4": 0.2} for s in (1, 2, 3)]
    visual.save_loss_curve(rows, tmp_path / "loss.png")
    assert Image.open(tmp_path / "loss.png").width == 960


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


def test_too_few_samples_to_judge_are_refused_before_they_are_drawn_and_few_are_called_few(digits_judge, monkeypatch):
    monkeypatch.setattr(classifier, "classifier_judge", lambda data: digits_judge)
    asked = SimpleNamespace(count=9, runtime=SimpleNamespace(rank=0), config=SimpleNamespace(data=None), classes=None)
    with pytest.raises(InputError, match=r"^--num-images is 9, allowed: at least 10, one for each class$"):
        classifier.classifier(asked)
    few, enough = (str(digits_judge.report(digits().load(range(count)))) for count in (255, 256))
    assert few.endswith("of fewer than 256 images the distance varies threefold from draw to draw") and "threefold" not in enough


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


class Counted(ArrayDataset):
    """A data set that keeps count of what is asked of it."""

    def load(self, indices):
        self.asked = [*getattr(self, "asked", []), len(indices)]
        return super().load(indices)


def images_of(*values):
    """Images (len(values), 1, 2, 3) of one grey each."""
    return np.array(values, np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 1, 2, 3), np.float32)


@pytest.mark.parametrize("chunk", [1, 100, 1 << 26])
def test_the_nearest_image_has_its_closed_form_whatever_the_pieces(chunk):
    data = Counted(images_of(0.0, 0.25, 0.5, 1.0), channels=1)
    done = []
    distances, indices = nearest_images(images_of(0.3, 0.9, 0.5), data, chunk=chunk, callback=done.append)
    assert indices.tolist() == [1, 3, 2] and sum(done) == 4
    np.testing.assert_allclose(distances, [0.05, 0.1, 0], atol=1e-7)
    assert done == {1: [1] * 4, 100: [2, 2]}.get(chunk, [4]) == data.asked  # 4 * (6 + 3) bytes an image


def test_an_exact_copy_is_at_distance_0_and_no_image_is_compared_with_itself():
    random = np.random.default_rng(0)
    images = random.uniform(size=(40, 3, 8, 8)).astype(np.float32)
    data = ArrayDataset(images, channels=3)
    distances, indices = nearest_images(images[:5], data)
    assert indices.tolist() == [0, 1, 2, 3, 4] and not distances.any()
    distances, indices = nearest_images(images[:5], data, own=range(5))
    brute = np.sqrt(np.square(images[:5, None].astype(np.float64) - images).mean((2, 3, 4)))
    np.fill_diagonal(brute, np.inf)
    assert indices.tolist() == brute.argmin(1).tolist()
    np.testing.assert_allclose(distances, brute.min(1), rtol=1e-6)


def test_a_mirrored_copy_is_found_where_training_mirrors():
    data = ArrayDataset(np.random.default_rng(0).uniform(size=(9, 1, 4, 4)).astype(np.float32), channels=1)
    copies = data.load([7])[..., ::-1]
    assert nearest_images(copies, data)[0] > 0.1
    assert nearest_images(copies, data, mirrored=True) == (0, 7)


def test_copies_stand_out_from_what_is_usual_and_new_images_do_not():
    random = np.random.default_rng(0)
    train, new = random.uniform(size=(500, 1, 6, 6)), random.uniform(size=(40, 1, 6, 6))
    data = ArrayDataset(train.astype(np.float32), channels=1)
    report = evaluate_nearest(np.concatenate([new, train[:3] + 0.001]).astype(np.float32), data)
    assert len(report.real) == 256 and report.close[40:].all() and report.close[:40].sum() <= 5
    assert report.indices[40:].tolist() == [0, 1, 2] and report.rank(41) == 0 and 0.3 < np.median(
        [report.rank(k) for k in range(40)]) < 0.7
    lines = str(report).splitlines()
    assert "samples (43)" in lines[2] and "training, to another (256)" in lines[3]
    assert lines[5].startswith("sample   4") and "about 2.1 are expected" in lines[-1]  # the nearest come first


def test_pairs_touch_and_rows_are_apart(tmp_path):
    visual.save_pairs(images_of(0, 0.2), images_of(1, 0.8), tmp_path / "x.png", columns=1)
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    factor = len(picture) // (3 * 2 + 2 * 2)  # three gaps of 2 and two images of 2
    assert picture[3 * factor, [2 * factor, 5 * factor - 1, 5 * factor, 8 * factor - 1]].tolist() == [0, 0, 255, 255]
    assert picture[7 * factor, 2 * factor] == 51 and picture[5 * factor, 3 * factor] == 128


@pytest.mark.parametrize("transitions", [1, 4, 99, 100, 150, 199, 1000])
def test_an_animation_has_at_most_a_hundred_frames_from_noise_to_result(transitions):
    steps = visual.frame_steps(transitions)
    assert {0, transitions} <= steps and len(steps) == min(100, transitions + 1) and max(np.diff(sorted(steps))) <= 11


@pytest.mark.parametrize("overrides", [["diffusion.timesteps=10"], ["diffusion.rescale_betas_zero_snr=true"],
                                       ["diffusion.betas=[0.1, 0.2]", "diffusion.timesteps=2", "diffusion.loss_weight=min_snr"]])
def test_schedules_are_drawn_for_every_recipe(tmp_path, caplog, overrides):
    out, config = tmp_path / "x.png", Path(__file__).parents[3] / "configs" / "digits.yaml"
    caplog.set_level("INFO", logger="ddpm_ms")
    assert main(["visualize", "schedules", "--config", str(config), *overrides, "--out", str(out)]) == 0
    assert Image.open(out).size == (1210, 770)
    drawn = caplog.records[-1].getMessage().partition("weights ")[2].split(", ")
    missing = {name for name in ("snr", "min_snr", "soft_min_snr") if f"left out: {name}" in caplog.text}
    assert sorted([*drawn, *missing]) == ["min_snr", "none", "p2", "snr", "soft_min_snr", "truncated_snr"]
    assert len(missing) == (3 if "diffusion.rescale_betas_zero_snr=true" in overrides else 0)
    assert ("left out: linear" in caplog.text) == ("diffusion.timesteps=10" in overrides or len(overrides) > 1)


@pytest.mark.parametrize(("arguments", "message"), [
    (["forward", "--steps", "1000"], "--steps is 1000, allowed: 0 to 999"),
    (["forward", "--index", "1797"], "--index is 1797, allowed: 0 to 1796"),
    (["forward", "--out", "x.jpg"], "--out is x.jpg, allowed: a file ending in .png"),
    (["schedules", "diffusion.loss_weight=p2", "diffusion.p2_loss_weight_gamma=0"], "p2_loss_weight_gamma is 0"),
    (["schedules", "diffusion.loss_weight=snr5"], "diffusion.loss_weight is 'snr5'"),
])
def test_a_picture_that_cannot_be_drawn_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    config = Path(__file__).parents[3] / "configs" / "digits.yaml"
    monkeypatch.chdir(tmp_path)
    kind, *rest = arguments
    overrides = [a for a in rest if "=" in a]
    assert main(["visualize", kind, "--config", str(config), *overrides, *(a for a in rest if a not in overrides)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_forward_strip_begins_clean_and_ends_as_noise(tmp_path):
    config = Path(__file__).parents[3] / "configs" / "digits.yaml"
    assert main(["visualize", "forward", "--config", str(config), "--out", str(tmp_path / "x.png")]) == 0
    strip = np.asarray(Image.open(tmp_path / "x.png")).astype(float)
    factor = len(strip) // 10
    clean, least, *_, most = (strip[factor:-factor:factor, (1 + 9 * k) * factor:(9 + 9 * k) * factor:factor] for k in range(5))
    np.testing.assert_array_equal(clean, np.round(digits().load([0])[0, 0] * 255))
    assert np.abs(least - clean).mean() < 3 < 60 < np.abs(most - clean).mean()


def test_data_without_labels_cannot_be_judged_by_a_classifier(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((9, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"data npz has no labels, allowed with --metric classifier: data with labels"):
        classifier_judge(DataConfig(name="npz", root=str(tmp_path / "images.npy"), image_size=4, channels=1))
