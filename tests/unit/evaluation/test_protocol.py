"""Comparing two sides: what is compared with what, what is kept, what is said, and what is refused."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddpm_ms.config import Config, DataConfig
from ddpm_ms.data import ArrayDataset, create_dataset
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation import metrics, protocol, sides, statistics
from ddpm_ms.evaluation.drawn import DrawnImages
from ddpm_ms.evaluation.features import FeatureRequest, OfStatistics, digits, pixels
from ddpm_ms.evaluation.protocol import compare
from ddpm_ms.evaluation.sides import of_dataset, side_of, training_data
from ddpm_ms.evaluation.statistics import Statistics, Sums
from ddpm_ms.parts import COMPARISONS
from ddpm_ms.runtime import Runtime
from ddpm_ms.visual import to_uint8

ALONE = Runtime("CPU", 0, 1, "a test")
SHAPE = (1, 3, 4)
PIXELS = pixels(FeatureRequest(SHAPE))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "statistics"


def images(count=40, seed=0, shape=SHAPE, scale=1.0):
    return (np.random.default_rng(seed).uniform(size=(count, *shape)) * scale).astype(np.float32)


def side(array, what="images", **changes):
    return replace(of_dataset(what, ArrayDataset(array, array.shape[1]), {"file": what}), **changes)


class Counting:
    """Features that count what they are shown, with logits and places."""

    name, identity, width = "counting", "counting 1", 12

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        assert batch.dtype == np.float32
        self.batches.append(len(batch))
        flat = batch.reshape(len(batch), -1)
        return PIXELS(batch)._replace(logits=flat[:, :3] * 9, spatial=flat[:, :5])


def test_several_metrics_come_from_one_pass_and_are_those_of_the_arrays():
    features, ours, theirs = Counting(), images(50), images(45, seed=1)
    result = compare(side(ours), side(theirs), list(COMPARISONS), features, ALONE, batch_size=16)
    assert features.batches == [16] * 3 + [16] * 4  # against first; the last batch is filled up
    x, y = (to_uint8(array).reshape(len(array), -1).astype(np.float32) / np.float32(255) for array in (ours, theirs))

    def gaussian(rows):
        return metrics.Gaussian(rows.astype(np.float64).mean(0), np.cov(rows.astype(np.float64), rowvar=False))

    expected = {"fid": metrics.frechet(gaussian(x), gaussian(y)), "kid": metrics.kid(x, y).value,
                "is": metrics.inception_score(x[:, :3] * 9).value, "precision": metrics.covered(x, y),
                "recall": metrics.covered(y, x), "sfid": metrics.frechet(gaussian(x[:, :5]), gaussian(y[:, :5])),
                "mind": metrics.mind(x, y)}
    assert {name: score.value for name, score in result.scores.items()} == pytest.approx(expected, rel=1e-6)


def test_the_protocol_is_printed_with_the_numbers_and_is_the_row():
    result = compare(side(images(), "samples of a run"), side(images(1500, 1), "photos"), ["fid", "kid"], PIXELS, ALONE)
    lines = str(result).splitlines()
    assert lines[0].startswith("fid        0.") and " +- " in lines[1]
    assert lines[2:5] == ["40 images: samples of a run", "against 1,500 images: photos",
                          "features: pixels 1x3x4, 12 numbers of each image, which has 8 bits"]
    assert lines[5:] == ["kid is the mean of 100 subsets of 40 images"]
    row = json.loads(json.dumps(result.row()))
    assert row["judged"] == {"what": "samples of a run", "images": 40, "file": "samples of a run"}
    assert row["against"]["images"] == 1500 and row["features"] == {"name": "pixels", "identity": "pixels 1x3x4", "width": 12}
    assert row["scores"]["fid"] == {"value": result.scores["fid"].value, "deviation": None}


def test_too_few_images_for_the_covariance_are_said_and_kid_is_offered():
    notes = compare(side(images(12)), side(images(1500, 1)), ["fid"], PIXELS, ALONE).notes
    (note,) = notes
    assert note.endswith("covariance of 12 features is singular, and fid is larger than of more images; kid needs none")
    assert not compare(side(images(13)), side(images(50, 1)), ["fid"], PIXELS, ALONE).notes
    assert compare(side(images(13)), side(images(13, 1)), ["kid"], PIXELS, ALONE).notes == [
        "kid is of all 13 images at once, so it has no deviation"]


def test_statistics_are_kept_by_content_and_not_measured_again(cache):
    features = Counting()
    first = compare(side(images(30)), side(images(20, 1), "a"), ["fid"], features, ALONE)
    (kept,) = cache.iterdir()
    before = len(features.batches)
    again = compare(side(images(30)), side(images(20, 1), "the same by another name"), ["fid", "sfid"], features, ALONE)
    assert len(features.batches) == before + 1 and again.scores["fid"] == first.scores["fid"]  # of what is judged alone
    compare(side(images(30)), side(images(20, 2)), ["fid"], features, ALONE)
    compare(side(images(30)), side(images(20, 3), fixed=False), ["fid"], features, ALONE)  # drawn: another time it is another
    assert len(list(cache.iterdir())) == 2
    kept.write_bytes(kept.read_bytes()[:100])
    assert compare(side(images(30)), side(images(20, 1)), ["fid"], features, ALONE).scores == first.scores


def in_ranks(world, function):
    """What ``function(runtime, gather, broadcast_text)`` returns on each of as many ranks, which are threads."""
    barrier, shared, found = threading.Barrier(world), [None] * world, [None] * world

    def exchanged(rank, value):
        shared[rank] = value
        barrier.wait(20)
        values = list(shared)
        barrier.wait(20)
        return values

    class Rank(threading.Thread):
        def __init__(self, rank):
            super().__init__()
            self.runtime = Runtime("CPU", rank, world, "a test")

        def run(self):
            found[self.runtime.rank] = function(self.runtime)

    threads = [Rank(rank) for rank in range(world)]
    return threads, exchanged, found


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_work_and_rank_0_has_the_numbers_of_one_process(monkeypatch, world):
    ours, theirs, names = images(50), images(45, seed=1), list(COMPARISONS)
    alone = compare(side(ours), side(theirs), names, Counting(), ALONE, batch_size=8)
    for path in protocol.cache_dir().glob("statistics/*"):
        path.unlink()
    counted = [Counting() for _ in range(world)]
    threads, exchanged, found = in_ranks(world, lambda runtime: compare(
        side(ours), side(theirs), names, counted[runtime.rank], runtime, batch_size=8))
    monkeypatch.setattr(protocol, "gather", lambda array, runtime: np.concatenate(exchanged(runtime.rank, array)))
    monkeypatch.setattr(protocol, "broadcast_text", lambda text, runtime: exchanged(runtime.rank, text)[0])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found[1:] == [None] * (world - 1) and len({tuple(features.batches) for features in counted}) == 1
    for name, score in alone.scores.items():
        np.testing.assert_allclose(np.array(found[0].scores[name], float), np.array(score, float), rtol=1e-9)


def test_files_of_statistics_say_what_they_are_of_and_compare_as_the_images(tmp_path):
    features, path = Counting(), tmp_path / "a" / "photos.npz"
    photos = side(images(30, 1), "folder photos")
    assert not compare(photos, None, [], features, ALONE, save=path).scores
    known = side_of([str(path)], "--against")
    assert known.what == f"statistics {path} (folder photos)" and known.count == 30
    direct = compare(side(images(20)), photos, ["fid", "sfid"], features, ALONE).scores
    assert compare(side(images(20)), known, ["fid", "sfid"], features, ALONE).scores == direct
    both = compare(known, known, ["fid"], OfStatistics(known.statistics.features, 12), ALONE)
    assert both.scores["fid"].value == pytest.approx(0, abs=1e-9)


def test_the_statistics_of_other_projects_are_read(tmp_path):
    sums = Sums(12)
    sums.add(images(30).reshape(30, -1))
    mean, covariance = sums.gaussian()
    np.savez(tmp_path / "edm.npz", mu=mean, sigma=covariance)
    np.savez(tmp_path / "adm.npz", mu=mean, sigma=covariance, mu_s=mean[:5], sigma_s=covariance[:5, :5], arr_0=np.zeros(2))
    for name in ("edm", "adm"):
        known = side_of([str(tmp_path / f"{name}.npz")], "--against")
        result = compare(side(images(30)), known, ["fid"], PIXELS, ALONE)
        assert result.scores["fid"].value == pytest.approx(0, abs=1e-4)  # 8 bits
        assert "an unknown number of images" in str(result)
        assert result.notes == [f"{known.what} does not say which features it is of"]
    assert known.statistics.spatial.mean.shape == (5,)


def statistics_file(path, **changes):
    arrays = {"mu": np.zeros(12), "sigma": np.eye(12), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


@pytest.mark.parametrize(("changes", "metrics_", "message"), [
    (dict(features=np.array("inception 0f ttur")), ["fid"],
     r"is of the features inception 0f ttur, allowed: those of --features, pixels 1x3x4$"),
    (dict(mu=np.zeros(7), sigma=np.eye(7)), ["fid"], r"is of 7 numbers an image, allowed: the 12 of pixels 1x3x4$"),
    ({}, ["fid", "kid"], r"^--metric kid with statistics .*, which has no images, allowed: fid$"),
    ({}, ["sfid"], r"which has no images, allowed: fid$"),
    (dict(sigma=np.eye(11)), ["fid"], r"mu and sigma have the shapes \(12,\) and \(11, 11\), allowed: numbers"),
    (dict(mu=np.full(12, np.nan)), ["fid"], r"mu or sigma has numbers that are not finite"),
    (dict(sigma=np.full((12, 12), None, object)), ["fid"], r"cannot be read: Object arrays cannot be loaded"),
])
def test_statistics_that_do_not_fit_are_refused(tmp_path, changes, metrics_, message):
    path = statistics_file(tmp_path / "s.npz", **changes)
    with pytest.raises(InputError, match=message):
        compare(side(images()), side_of([path], "--against"), metrics_, PIXELS, ALONE)


def test_places_of_other_features_are_refused(tmp_path):
    known = side_of([statistics_file(tmp_path / "s.npz", mu_s=np.zeros(4), sigma_s=np.eye(4))], "--against")
    with pytest.raises(InputError, match=r"^statistics are of 5 and 4 numbers an image, allowed: the same$"):
        compare(side(images()), known, ["sfid"], Counting(), ALONE)


@pytest.mark.parametrize(("ours", "theirs", "names", "message"), [
    (images(), images(9, shape=(1, 3, 3)), ["fid"], r"^a has images of 1 channel, 3x4, b of 1 channel, 3x3, allowed: the same$"),
    (images(), images(9, shape=(3, 3, 4)), ["fid"], r"^a has images of 1 channel, 3x4, b of 3 channels, 3x4, allowed: the same$"),
    (images(1), images(), ["fid"], r"^a has 1 image\(s\), allowed with --metric fid: at least 2$"),
    (images(), images(3), ["recall"], r"^b has 3 image\(s\), allowed with --metric recall: at least 4$"),
    (images(9), None, ["is"], r"^a has 9 image\(s\), allowed with --metric is: at least 10$"),
    (images(), None, ["fid"], r"^--metric fid without --against, allowed: with it$"),
    (images(), images(), ["sfid"], r"^--metric sfid with --features pixels, which have no places, allowed: features that"),
    (images(), None, ["is"], r"^--metric is with --features pixels, which have no classes, allowed: features that have them$"),
])
def test_sides_that_do_not_fit_are_refused_before_anything_is_drawn(ours, theirs, names, message):
    drawn = []
    ours = side(ours, "a", fixed=False)
    if theirs is not None:
        ours = replace(ours, images=lambda: drawn.append(1))
    with pytest.raises(InputError, match=message):
        compare(ours, None if theirs is None else side(theirs, "b"), names, PIXELS, ALONE)
    assert not drawn


def test_a_folder_an_array_file_and_a_data_set_by_name_are_sides(tmp_path):
    pixels_ = to_uint8(images(5, shape=(1, 6, 5)))[:, 0]
    for number, picture in enumerate(pixels_):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{number}.png")
    np.savez(tmp_path / "a.npz", images=pixels_)
    np.savez(tmp_path / "adm.npz", arr_0=np.repeat(pixels_[..., None], 3, -1), arr_1=np.zeros(5, int))
    np.save(tmp_path / "b.npy", pixels_[..., None])
    np.save(tmp_path / "first.npy", np.zeros((5, 3, 9, 9), np.uint8))
    assert side_of([str(tmp_path / "first.npy")], "--images").shape == (3, 9, 9)
    for name in ("photos", "a.npz", "b.npy"):
        found = side_of([str(tmp_path / name)], "--images")
        assert found.shape == (1, 6, 5) and found.count == 5
        np.testing.assert_array_equal(to_uint8(found.images().load(range(5)))[:, 0], pixels_)
    assert side_of([str(tmp_path / "adm.npz")], "--images").shape == (3, 6, 5)
    fitted = side_of(["image_folder", f"root={tmp_path / 'photos'}"], "--against", shape=(3, 2, 2))
    assert fitted.shape == (3, 2, 2) and fitted.facts["data"] == "image_folder" and fitted.facts["part"] == "train"
    assert side_of(["image_folder", f"root={tmp_path / 'photos'}", "image_size=2", "channels=1"], "--against").shape == (1, 2, 2)
    assert side_of(["digits"], "--images").shape == (1, 8, 8)
    assert side_of(["digits"], "--images").first(100).count == 100
    with pytest.raises(InputError, match=r"^--num-images of data digits is 1798, allowed: 1 to 1797$"):
        side_of(["digits"], "--images").first(1798)


@pytest.mark.parametrize(("words", "message"), [
    (["none"], r"^--images is none, which does not exist, allowed: a run, a folder, a .npy or .npz of images or statistics, or"),
    (["x.txt"], r"^--images is x.txt, allowed: a run"),
    (["photos", "root=1"], r"^--images photos is followed by 'root=1', allowed: key=value behind the name of a data set"),
    (["digits", "root"], r"^'root' behind data digits, allowed: key=value, such as root=PATH$"),
    (["digits", "rot=1"], r"^unknown key 'data.rot', did you mean 'data.root'"),
    (["mixed"], r"^image mixed/b.png has 1 channel, 4x5, a.png has 1 channel, 4x4, allowed: one size \(image_folder"),
    (["kinds"], r"^image kinds/b.png has 3 channels, 4x4, a.png has 1 channel, 4x4, allowed: one size"),
    (["empty"], r"^data folder empty holds no image, allowed"),
    (["empty.npz"], r"^array file empty.npz has images of shape \(0, 4, 4\), allowed: at least one image$"),
    (["nan.npy"], r"^images range over nan to nan, allowed: 0 to 1$"),
    (["pickled.npy"], r"^array file pickled.npy cannot be read: "),
    (["digits", "image_size=9"], r"^data digits has images of 1 channel, 8x8, but data.channels and data.image_size say"),
])
def test_what_is_no_side_is_one_line(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "mixed", "kinds", "empty"):
        os.mkdir(folder)
    for name, mode, width in (("mixed/a", "L", 4), ("mixed/b", "L", 5), ("kinds/a", "L", 4), ("kinds/b", "RGB", 4)):
        Image.new(mode, (width, 4)).save(f"{name}.png")
    np.savez("empty.npz", images=np.zeros((0, 4, 4), np.uint8))
    np.save("nan.npy", np.full((2, 4, 4), np.nan, np.float32))
    np.save("pickled.npy", np.array([{}], object))
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match=message):
        side_of(words, "--images")


def test_the_runs_own_data_is_what_it_was_trained_on():
    config = Config(data=DataConfig(name="digits", image_size=8, channels=1))
    assert training_data(config).count == 1797 == len(create_dataset(config.data))
    held_out = config.model_copy(update={"training": config.training.changed({"validation_images": 97})})
    assert training_data(held_out).count == 1700 and "(digits without 97 held out)" in training_data(held_out).what
    with pytest.raises(InputError, match="given in Python, allowed: --against with images or statistics"):
        training_data(config.model_copy(update={"data": DataConfig(name="array")}))


def test_the_digits_features_are_the_classifiers():
    features = digits(FeatureRequest((1, 8, 8)))
    found = features(create_dataset(DataConfig(name="digits", image_size=8, channels=1)).load(range(20)))
    assert found.pool.shape == (20, 64) == (20, features.width) and found.logits.shape == (20, 10) and found.spatial is None
    assert found.logits.argmax(1).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 2
    assert features.identity == digits(FeatureRequest((1, 8, 8))).identity
    with pytest.raises(InputError, match="images are 1x3x4, allowed with --features digits: 1x8x8"):
        digits(FeatureRequest(SHAPE))
    with pytest.raises(InputError, match=r"--inception is x\.pth, allowed with --features pixels: none"):
        pixels(FeatureRequest(SHAPE, weights="x.pth"))


def test_sums_of_parts_merge_to_those_of_the_whole():
    rows, parts = images(50).reshape(50, -1), []
    for part in np.split(rows, [7, 30]):
        parts.append(Sums(12))
        parts[-1].add(part)
    for other in parts[1:]:
        parts[0].merge(other)
    mean, covariance = parts[0].gaussian()
    np.testing.assert_allclose(mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-14)


def test_statistics_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    known = Statistics(metrics.Gaussian(np.zeros(2), np.eye(2)), count=3, features="f")
    monkeypatch.setattr(statistics.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        known.save(tmp_path / "s.npz")
    assert not list(tmp_path.iterdir())


def test_drawn_images_are_kept_without_gaps_and_by_settings(tmp_path):
    drawn, pictures = DrawnImages(tmp_path, {"seed": 0}, SHAPE), images(30)
    assert drawn.read(9).shape == (0, *SHAPE)
    np.testing.assert_array_equal(drawn.add(0, pictures[:8]), to_uint8(pictures[:8]))
    drawn.add(8, pictures[8:16])
    drawn.add(20, pictures[20:])
    again = DrawnImages(tmp_path, {"seed": 0}, SHAPE)
    for count in (5, 16, 30):
        np.testing.assert_array_equal(again.read(count), to_uint8(pictures[:min(count, 16)]))  # what comes after a gap waits
    again.add(16, pictures[16:20])
    np.testing.assert_array_equal(again.read(25), to_uint8(pictures[:25]))
    assert not len(DrawnImages(tmp_path, {"seed": 1}, SHAPE).read(9))
    assert json.loads((drawn.folder / "settings.json").read_text()) == {"seed": 0}
    assert not len(DrawnImages(tmp_path, {"seed": 0}, SHAPE, kept=False).read(9))


def test_a_damaged_file_of_drawn_images_is_drawn_again(tmp_path, caplog):
    drawn, pictures = DrawnImages(tmp_path, {}, SHAPE), images(12)
    for first in (0, 4, 8):
        drawn.add(first, pictures[first:first + 4])
    middle = drawn.folder / "00000004_00000008.npz"
    middle.write_bytes(middle.read_bytes()[:50])
    assert len(drawn.read(12)) == 4 and "drawing again" in caplog.text
    drawn.add(4, pictures[4:8])
    np.testing.assert_array_equal(drawn.read(12), to_uint8(pictures))
    np.savez(middle, images=to_uint8(pictures[:3]))
    assert len(drawn.read(12)) == 4


def test_a_disk_that_takes_nothing_costs_no_images_and_what_is_not_finite_is_refused(tmp_path, caplog):
    (tmp_path / "evaluations").write_text("no folder")
    drawn, pictures = DrawnImages(tmp_path, {}, SHAPE), images(4)
    np.testing.assert_array_equal(drawn.add(0, pictures), to_uint8(pictures))
    assert "drawn images are not kept" in caplog.text
    pictures[2, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"^drawn image 12 is not finite, allowed: weights that draw finite images$"):
        drawn.add(10, pictures)


def test_features_too_wide_for_a_covariance_are_refused_but_not_for_what_needs_none():
    wide = images(5, shape=(3, 60, 60))
    features = pixels(FeatureRequest((3, 60, 60)))
    with pytest.raises(InputError, match="pixels 3x60x60 are 10800 numbers an image, allowed for a covariance: 8192 "):
        compare(side(wide), side(wide), ["mind", "fid"], features, ALONE)
    assert compare(side(wide), side(wide), ["mind", "kid"], features, ALONE).scores["mind"].value == 0


def test_a_side_can_be_made_of_any_data_set():
    assert sides.of_dataset("mine", ArrayDataset(images(), 1), {}).shape == SHAPE
