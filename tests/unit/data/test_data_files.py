"""Images in class folders and in MindRecord files, held-out images, and images that break while training runs."""

import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddpm_ms.cli import main
from ddpm_ms.config import DataConfig
from ddpm_ms.data import ArrayDataset, StreamDataset, as_dataset, create_dataset, split
from ddpm_ms.data.images import read_image
from ddpm_ms.data.mindrecord import pack_folder
from ddpm_ms.errors import InputError
from ddpm_ms.training.batches import BatchSource
from ddpm_ms.training.checks import check_labels


def picture(path, value=None, size=(8, 8)):
    shape = (size[1], size[0], 3)
    data = np.random.default_rng(hash(path.name) % 2**32).integers(0, 256, shape) if value is None else np.full(shape, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.astype(np.uint8)).save(path)


@pytest.fixture
def animals(tmp_path):
    """Three classes, nested or not; image k of all is grey with value 10 * k."""
    for k, name in enumerate(["cat/a.png", "cat/b.png", "dog/puppy/a.png", "dog/z.png", "owl/a.png", "owl/b.png"]):
        picture(tmp_path / "animals" / name, 10 * k)
    return tmp_path / "animals"


def folder(root, **keys):
    return create_dataset(DataConfig(**{**dict(name="image_folder", root=str(root), image_size=8), **keys}))


def value(image):
    return round(float(image.mean()) * 255)


def test_class_folders_give_labels_in_sorted_order(animals):
    dataset = folder(animals)
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2] and tuple(dataset.class_names) == ("cat", "dog", "owl")
    batch, labels = dataset.take(range(6), 3), dataset.take_labels(range(6), 3)
    assert [value(image) // 20 for image in batch] == labels.tolist()


def test_folders_that_are_no_classes_give_no_labels(animals):
    assert folder(animals / "dog").labels is None
    assert folder(animals / "cat").labels is None
    assert folder(animals / "cat").why_no_labels == f"{animals}/cat has 0 sub-folders, and classes need two"
    picture(animals / "loose.png")
    assert folder(animals).labels is None
    assert folder(animals).why_no_labels == f"{animals}/loose.png lies in none of the 3 class folders"
    with pytest.raises(InputError, match=r"the data has no labels \(.*loose\.png lies in none of the 3 class folders\), allowed"):
        check_labels(SimpleNamespace(num_classes=3), folder(animals))
    picture(animals / "stray.png")
    assert folder(animals).why_no_labels == f"{animals}/loose.png (and 1 more) lies in none of the 3 class folders"


def test_other_names_of_the_classes_can_be_given(animals):
    assert tuple(folder(animals, class_names=["Katze", "Hund", "Eule"]).class_names) == ("Katze", "Hund", "Eule")
    assert folder(animals, class_names=["Katze", "Hund", "Eule"]).labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_an_empty_class_folder_is_named_when_labels_are_asked_for(animals):
    (animals / "bat").mkdir()
    dataset = folder(animals)
    assert len(dataset.take(range(6), 0)) == 6
    with pytest.raises(InputError, match=r"class folder .*bat holds no image"):
        dataset.labels  # noqa: B018
    (animals / "bat" / "x.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"class folder .*bat holds no image that can be read"):
        folder(animals, on_error="skip").labels  # noqa: B018


def test_labels_stay_with_their_images_when_broken_files_are_left_out(animals):
    (animals / "cat" / "a.png").write_bytes(b"broken")
    dataset = folder(animals, on_error="skip")
    assert dataset.labels.tolist() == [0, 1, 1, 2, 2] and [value(x) for x in dataset.load(range(5))] == [10, 20, 30, 40, 50]


def test_held_out_images_are_the_same_ones_each_time_and_not_trained_on():
    images, labels = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1), np.arange(20)
    train, held_out = split(ArrayDataset(images, 1, labels), 5, seed=1)
    assert (len(train), len(held_out)) == (15, 5)
    assert sorted([*train.labels, *held_out.labels]) == list(range(20))
    for part in (train, held_out):
        assert [value(image) for image in part.load(range(len(part)))] == part.labels.tolist()
        assert [value(image) for image in part.take(range(40), 2)] == part.take_labels(range(40), 2).tolist()
    assert held_out.labels.tolist() == split(ArrayDataset(images, 1, labels), 5, seed=1)[1].labels.tolist()
    assert held_out.labels.tolist() != split(ArrayDataset(images, 1, labels), 5, seed=2)[1].labels.tolist()
    assert split(train, 1, seed=0)[1].labels[0] in train.labels
    assert split(ArrayDataset(images, 1), 5, seed=1)[0].labels is None


@pytest.mark.parametrize("count", [0, 20, 21])
def test_neither_part_of_a_split_is_empty(count):
    with pytest.raises(InputError, match="held-out images is"):
        split(ArrayDataset(np.zeros((20, 1, 1), np.uint8), 1), count, 0)
    with pytest.raises(InputError, match="of a stream"):
        split(StreamDataset([np.zeros((1, 2, 2))]), 1, 0)


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:40])])
def test_an_image_that_breaks_in_training_is_refused_with_its_step(animals, harm):
    batches = BatchSource(folder(animals), 3, 2, seed=0)
    batches.step(0)
    harm(animals / "owl" / "b.png")
    with pytest.raises(InputError, match=r"^step 5: image .*b\.png cannot be read: .*; repair it, or set data\.on_error=skip$"):
        batches.step(4)


def test_an_image_that_breaks_in_training_is_replaced_by_the_next_of_its_class(animals, caplog):
    dataset = folder(animals, on_error="skip")
    (animals / "owl" / "b.png").unlink()
    (animals / "cat" / "a.png").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING, "ddpm_ms"):
        for _ in range(2):
            assert [value(image) for image in dataset.load(range(6))] == [10, 10, 20, 30, 40, 40]
    assert len(caplog.records) == 2 and "b.png cannot be read" in caplog.text and "a.png stands in for it" in caplog.text
    # What stands in is a member of the set itself, so held-out images stay out.
    part = dataset.subset([1, 2, 5])
    with pytest.raises(InputError, match=r"b\.png cannot be read.*nor can the images after it"):
        part.load([2])


def test_without_labels_the_next_image_stands_in(animals):
    dataset = folder(animals / "dog", on_error="skip")
    (animals / "dog" / "z.png").unlink()
    assert [value(image) for image in dataset.load([0, 1])] == [20, 20]
    shutil.rmtree(animals)
    with pytest.raises(InputError, match="cannot be read"):
        dataset.load([0])


def test_a_large_photograph_is_read_at_reduced_size_with_next_to_the_same_result(tmp_path):
    x, y = np.meshgrid(np.linspace(0, 9, 1200), np.linspace(0, 7, 800))
    photo = np.stack([np.sin(10 * x * y / 8), np.cos(10 * (x - y)), np.sin(30 * y)], axis=-1) * 100 + 128
    Image.fromarray(photo.astype(np.uint8)).save(tmp_path / "x.jpg", quality=95)
    Image.open(tmp_path / "x.jpg").save(tmp_path / "x.png")
    for size in ((64, 64), (48, 96), (600, 600)):
        reduced, whole = (read_image(tmp_path / name, size, 3) for name in ("x.jpg", "x.png"))
        assert reduced.shape == (3, *size) and np.abs(reduced - whole).max() < 2.5 / 255
        np.testing.assert_array_equal(reduced, read_image(tmp_path / "x.jpg", size, 3))


def packed(root, path, **keys):
    pack_folder(root, path, **keys)
    return create_dataset(DataConfig(name="mindrecord", root=str(path), image_size=8))


def test_a_packed_folder_gives_what_the_folder_gives(animals, tmp_path):
    picture(animals / "cat" / "c.jpg", size=(40, 30))
    alpha = np.random.default_rng(1).integers(0, 256, (30, 40, 4), np.uint8)
    Image.fromarray(alpha).save(animals / "owl" / "c.png")
    Image.fromarray(alpha[..., 0]).save(animals / "owl" / "d.png", transparency=int(alpha[0, 0, 0]))
    plain, whole = folder(animals), packed(animals, tmp_path / "a b.mindrecord")
    fitted = packed(animals, tmp_path / "fitted.mindrecord", size=(8, 8))
    for dataset in (whole, fitted, as_dataset(tmp_path / "fitted.mindrecord", (8, 8), 3)):
        np.testing.assert_array_equal(dataset.take(range(20), 5), plain.take(range(20), 5))
        np.testing.assert_array_equal(dataset.labels, plain.labels)
        assert tuple(dataset.class_names) == ("cat", "dog", "owl")
    train, held_out = split(whole, 2, 0)
    np.testing.assert_array_equal(train.load([4, 0, 0]), split(plain, 2, 0)[0].load([4, 0, 0]))
    assert len(held_out.labels) == 2
    # Another user on the cluster may read it.
    assert (tmp_path / "a b.mindrecord").stat().st_mode & 0o777 == (animals / "cat" / "a.png").stat().st_mode & 0o777


def test_a_packed_folder_without_classes_has_no_labels(animals, tmp_path):
    assert packed(animals / "dog", tmp_path / "x.mindrecord").labels is None


def test_packing_says_why_there_are_no_labels(animals, tmp_path, caplog):
    picture(animals / "loose.png")
    with caplog.at_level(logging.INFO, "ddpm_ms"):
        assert packed(animals, tmp_path / "x.mindrecord").labels is None
    assert f"packed without labels: {animals}/loose.png lies in none of the 3 class folders" in caplog.text


def full_disk(writer):
    raise RuntimeError("[ERROR] disk is full")


def test_packing_leaves_nothing_half_written(animals, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out" / "x.mindrecord"
    (animals / "cat" / "a.png").write_bytes(b"broken")
    assert main(["data", "pack", str(animals), str(out)]) == 2
    assert "a.png cannot be read" in capsys.readouterr().err and not out.parent.exists()
    with monkeypatch.context() as patch:
        patch.setattr("mindspore.mindrecord.FileWriter.commit", full_disk)
        with pytest.raises(InputError, match="cannot be written: disk is full"):
            pack_folder(animals, out, on_error="skip")
        assert list(out.parent.iterdir()) == []
    assert main(["data", "pack", str(animals), str(out), "--size", "8", "--on-error", "skip"]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.mindrecord", "x.mindrecord.db"]
    assert main(["data", "pack", str(animals), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["data", "pack", str(animals), str(tmp_path / "x.rec")]) == 2
    assert main(["data", "pack", str(animals), str(tmp_path / "y.mindrecord"), "--size", "1", "2", "3"]) == 2
    (animals / "ant").mkdir()
    with pytest.raises(InputError, match=r"class folder .*ant"):
        pack_folder(animals, tmp_path / "y.mindrecord", on_error="skip")
    assert not (tmp_path / "y.mindrecord").exists()


def test_a_damaged_mindrecord_file_is_refused(animals, tmp_path):
    path, index = tmp_path / "x.mindrecord", tmp_path / "x.mindrecord.db"
    pack_folder(animals, path)
    data = path.read_bytes()
    for kept in (0, 1000, len(data) - 5):
        path.write_bytes(data[:kept])
        with pytest.raises(InputError, match=r"mindrecord file .* (cannot be read|is cut off or damaged)") as caught:
            folder(path, name="mindrecord")
        assert len(str(caught.value).splitlines()) == 1
    path.write_bytes(data)
    index.unlink()
    with pytest.raises(InputError, match=r"x\.mindrecord\.db does not exist"):
        folder(path, name="mindrecord")
    with pytest.raises(InputError, match="none does not exist"):
        folder(tmp_path / "none", name="mindrecord")


def write_rows(path, schema, rows):
    from mindspore.mindrecord import FileWriter

    writer = FileWriter(str(path))
    writer.set_page_size(2**22)
    writer.add_schema(schema, "test")
    writer.write_raw_data(rows)
    writer.commit()


def test_other_mindrecord_files_need_a_column_of_images(tmp_path, animals, caplog):
    write_rows(tmp_path / "a.mindrecord", {"data": {"type": "int32"}}, [{"data": 1}])
    with pytest.raises(InputError, match="has the columns data, allowed: image of type bytes"):
        folder(tmp_path / "a.mindrecord", name="mindrecord")
    good = (animals / "cat" / "b.png").read_bytes()
    rows = [{"image": image, "label": label} for image, label in ((good, 4), (b"broken", 1), (good, 1))]
    write_rows(tmp_path / "b.mindrecord", {"image": {"type": "bytes"}, "label": {"type": "int64"}}, rows)
    dataset = folder(tmp_path / "b.mindrecord", name="mindrecord")
    assert dataset.labels.tolist() == [4, 1, 1] and dataset.class_names == ()
    with pytest.raises(InputError, match=r"image record 1 of .*b\.mindrecord cannot be read"):
        dataset.load([0, 1])
    skipping = folder(tmp_path / "b.mindrecord", name="mindrecord", on_error="skip")
    assert value(skipping.load([1])[0]) == 10 and "stands in" in caplog.text
