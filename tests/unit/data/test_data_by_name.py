"""Data sets by name: small files in each published format, read back; and what is said of files that are not right."""

import dataclasses
import gzip
import logging
from pathlib import Path

import mindspore.dataset as mds
import numpy as np
import pytest
from PIL import Image

from ddpm_ms.cli import main
from ddpm_ms.config import DataConfig
from ddpm_ms.data import create_dataset
from ddpm_ms.data import idx as idx_files
from ddpm_ms.data.idx import read_idx
from ddpm_ms.errors import InputError

RNG = np.random.default_rng(0)
CONFIGS = Path(__file__).parents[3] / "configs"


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_mnist(folder, images, labels, ending=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        data = idx(array)
        (folder / f"{name}{ending}").write_bytes(gzip.compress(data) if ending else data)


def write_cifar(folder, files, classes, label_bytes=1, count=4):
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = pixels(len(files) * count, 3, 32, 32), RNG.integers(0, classes, len(files) * count).astype(np.uint8)
    records = np.concatenate([np.repeat(labels[:, None], label_bytes, 1), images.reshape(len(images), -1)], axis=1)
    if label_bytes == 2:
        records[:, 0] = 7  # the coarse label, which is not used
    for k, file in enumerate(files):
        records[k * count:(k + 1) * count].tofile(folder / file)
    return images, labels


def load(name, root, size=28, channels=1, **keys):
    return create_dataset(DataConfig(name=name, root=str(root), image_size=size, channels=channels, **keys))


def check(dataset, images, labels):
    np.testing.assert_array_equal(dataset.load(range(len(images))), images.astype(np.float32) / 255)
    np.testing.assert_array_equal(dataset.labels, labels)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_is_read_plain_or_compressed_and_the_test_pair_is_not_training_data(tmp_path, name, ending):
    images, labels = pixels(20, 28, 28), np.arange(20, dtype=np.uint8) % 10
    write_mnist(tmp_path, images, labels, ending)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(pixels(3, 28, 28)))
    dataset = load(name, tmp_path)
    check(dataset, images[:, None], labels)
    assert len(dataset.class_names) == 10


def test_mnist_is_what_mindspores_own_reader_gives(tmp_path):
    write_mnist(tmp_path, pixels(6, 28, 28), np.arange(6, dtype=np.uint8))
    reader = mds.MnistDataset(str(tmp_path), usage="train", shuffle=False)
    images, labels = zip(*reader.create_tuple_iterator(output_numpy=True, num_epochs=1))
    check(load("mnist", tmp_path), np.stack(images).transpose(0, 3, 1, 2), labels)


def test_data_that_are_not_the_published_ones_are_read_and_reported(tmp_path, caplog):
    write_mnist(tmp_path, pixels(2, 28, 28), np.zeros(2, np.uint8))
    with caplog.at_level(logging.WARNING, "ddpm_ms"):
        load("mnist", tmp_path)
    assert "train-images-idx3-ubyte is not the published file of mnist (md5" in caplog.text


def test_the_part_for_testing_is_read_where_there_is_one(tmp_path):
    write_mnist(tmp_path, pixels(20, 28, 28), np.zeros(20, np.uint8))
    images, labels = pixels(3, 28, 28), np.arange(3, dtype=np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        (tmp_path / f"t10k-{name}-ubyte").write_bytes(idx(array))
    check(load("mnist", tmp_path, part="test"), images[:, None], labels)
    for name, folder, train, test, classes, label_bytes in (
            ("cifar10", "cifar-10-batches-bin", [f"data_batch_{k}.bin" for k in range(1, 6)], "test_batch.bin", 10, 1),
            ("cifar100", "cifar-100-binary", ["train.bin"], "test.bin", 100, 2)):
        write_cifar(tmp_path / folder, train, classes, label_bytes)
        images, labels = write_cifar(tmp_path / folder, [test], classes, label_bytes, 2)
        check(load(name, tmp_path, 32, 3, part="test"), images, labels)
    with pytest.raises(InputError, match=r"^data.part is test, allowed for digits: train, for it has one part \(not so mnist, "):
        DataConfig(name="digits", part="test")


IMAGES, LABELS = idx(np.zeros((3, 28, 28), np.uint8)), idx(np.zeros(3, np.uint8))


@pytest.mark.parametrize(("images", "labels", "message"), [
    (IMAGES[:-1], LABELS, r"train-images-idx3-ubyte is cut off: its header says 3 x 28 x 28 bytes"),
    (IMAGES + b"x", LABELS, "is too long"), (IMAGES[:9], LABELS, "is no IDX file"), (b"", LABELS, "is no IDX file"),
    (LABELS, LABELS, "is no IDX file of bytes in 3 dimension"), (IMAGES, LABELS[:-1], "train-labels-idx1-ubyte is cut off"),
    (IMAGES, idx(np.zeros(2, np.uint8)), "2 labels for 3 images"), (IMAGES, idx(np.full(3, 10, np.uint8)), "label 10, allowed"),
    (idx(np.zeros((0, 28, 28), np.uint8)), idx(np.zeros(0, np.uint8)), "no image, allowed"),
    (IMAGES[:4] + b"\xff" * 12, LABELS, "bytes, allowed: 2147483648 in all"),
    (IMAGES, None, "train-labels-idx1-ubyte.gz does not exist; download train-images-idx3-ubyte.gz"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_idx_files_that_are_not_right_are_refused(tmp_path, images, labels, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    if labels is not None:
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(InputError, match=message):
        load("mnist", tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:40] + b"\0" * 40 + data[80:],
                                    lambda data: b"x" + data])
def test_damaged_compressed_files_are_refused(tmp_path, damage):
    path = tmp_path / "x.gz"
    path.write_bytes(damage(gzip.compress(idx(pixels(3, 28, 28)))))
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(path, 3)


def test_images_of_another_size_or_with_other_channels_are_refused(tmp_path):
    write_mnist(tmp_path, pixels(3, 28, 28), np.zeros(3, np.uint8))
    with pytest.raises(InputError, match=r"data mnist has images of 1 channel, 28x28, but data.* say 3 channels, 32x32"):
        load("mnist", tmp_path, 32, 3)


def test_the_installed_fashion_mnist_is_the_published_one(caplog):
    if not idx_files.FASHION_MNIST.installed.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    with caplog.at_level(logging.INFO, "ddpm_ms"):
        dataset = create_dataset(DataConfig(name="fashion_mnist", image_size=28, channels=1))
    assert len(dataset) == 60_000 and np.bincount(dataset.labels).tolist() == [6000] * 10
    assert "data.root is not set: using" in caplog.text and "not the published" not in caplog.text
    assert np.mean([dataset.load([i]).mean() for i in range(200)]) == pytest.approx(0.286, abs=0.03)


def test_fashion_mnist_of_the_system_is_used_only_if_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(idx_files, "FASHION_MNIST", dataclasses.replace(idx_files.FASHION_MNIST, installed=tmp_path / "none"))
    with pytest.raises(InputError, match=r"root is not set, allowed for fashion_mnist: download .*github\.com/zalandoresearch"):
        create_dataset(DataConfig(name="fashion_mnist", image_size=28, channels=1))
    write_mnist(tmp_path / "none", pixels(3, 28, 28), np.zeros(3, np.uint8))
    assert len(create_dataset(DataConfig(name="fashion_mnist", image_size=28, channels=1))) == 3


BATCHES = [f"data_batch_{k}.bin" for k in range(1, 6)]


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_cifar10_is_read_in_its_order_from_its_folder_or_the_one_above(tmp_path, inside):
    images, labels = write_cifar(tmp_path / inside, BATCHES, 10)
    (tmp_path / inside / "batches.meta.txt").write_text("plane\ncar\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n")
    dataset = load("cifar10", tmp_path, 32, 3)
    check(dataset, images, labels)
    assert dataset.class_names[3] == "cat"


def test_cifar100_has_its_fine_labels(tmp_path):
    images, labels = write_cifar(tmp_path, ["train.bin"], 100, label_bytes=2)
    check(load("cifar100", tmp_path, 32, 3), images, labels)


@pytest.mark.parametrize(("name", "files", "reader", "column"), [
    ("cifar10", BATCHES, mds.Cifar10Dataset, "label"), ("cifar100", ["train.bin"], mds.Cifar100Dataset, "fine_label"),
])
def test_cifar_is_what_mindspores_own_readers_give(tmp_path, name, files, reader, column):
    # They accept whole files only, of 50,000 images in all.
    write_cifar(tmp_path, files, 10, label_bytes=1 if column == "label" else 2, count=50_000 // len(files))
    theirs = reader(str(tmp_path), usage="train", shuffle=False, num_samples=40)
    rows = list(theirs.create_dict_iterator(output_numpy=True, num_epochs=1))
    dataset = load(name, tmp_path, 32, 3)
    for file in files:
        (tmp_path / file).unlink()
    check(dataset.subset(range(40)), np.stack([row["image"].transpose(2, 0, 1) for row in rows]), [row[column] for row in rows])


@pytest.mark.parametrize(("data", "message"), [
    (bytes(3073)[:-1], "has 3072 bytes, allowed: a multiple of 3073"), (b"", "has 0 bytes"), (b"\x0a" + bytes(3072), "label 10"),
    (None, "data_batch_3.bin does not exist; download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
])
def test_cifar_files_that_are_not_right_are_refused(tmp_path, data, message):
    write_cifar(tmp_path, BATCHES, 10)
    (tmp_path / "data_batch_3.bin").unlink()
    if data is not None:
        (tmp_path / "data_batch_3.bin").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load("cifar10", tmp_path, 32, 3)


def test_the_pickled_cifar_is_never_opened(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"cposix\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(InputError, match=r"is the Python version of cifar10, pickles .*cifar-10-binary\.tar\.gz"):
        load("cifar10", tmp_path, 32, 3)


def jpegs(folder, names, size=(22, 27)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(pixels(size[1], size[0], 3)).save(folder / name)


def test_celeba_is_its_training_part(tmp_path, caplog):
    names = [f"{k:06d}.jpg" for k in range(1, 7)]
    jpegs(tmp_path / "img_align_celeba", names)
    (tmp_path / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, "001020")))
    dataset = load("celeba", tmp_path, 16, 3)
    assert len(dataset) == 4 and dataset.labels is None
    assert "(4 training images, published: 162770 training images)" in caplog.text
    with Image.open(tmp_path / "img_align_celeba" / "000004.jpg") as image:
        expected = np.asarray(image.resize((16, round(27 * 16 / 22)), Image.Resampling.BICUBIC))[2:18]
    np.testing.assert_allclose(dataset.load([2])[0], expected.transpose(2, 0, 1) / np.float32(255), atol=1e-6)


@pytest.mark.parametrize(("listing", "message"), [
    ("000001.jpg 0\n000001.jpg\n", "list_eval_partition.txt line 2 is '000001.jpg', allowed"),
    ("000001.jpg 1\n", "names no"), ("../secret.jpg 0\n", "line 1 is"),
    ("000001.jpg 0\n000009.jpg 0\n", "000009.jpg cannot be read"),
    ("000009.jpg 0\n", r"img_align_celeba holds no image that list_eval_partition\.txt names; download"),
    ("000001.jpg 3\n", "line 1 is"),
    (None, r"list_eval_partition\.txt does not exist; download img_align_celeba\.zip"),
])
def test_celeba_that_is_not_right_is_refused(tmp_path, listing, message):
    jpegs(tmp_path / "img_align_celeba", ["000001.jpg"])
    if listing is not None:
        (tmp_path / "list_eval_partition.txt").write_text(listing)
    with pytest.raises(InputError, match=message):
        load("celeba", tmp_path, 16, 3)


def write_flowers(root, labels, count):
    from scipy.io import savemat

    jpegs(root / "jpg", [f"image_{k:05d}.jpg" for k in range(1, count + 1)])
    savemat(root / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})


def test_flowers_have_labels_from_zero(tmp_path, caplog):
    write_flowers(tmp_path, [77, 1, 102], 3)
    dataset = load("flowers102", tmp_path, 16, 3)
    assert "(3 labels, published: 8189 labels)" in caplog.text
    assert dataset.labels.tolist() == [76, 0, 101] and dataset.load([0, 1, 2]).shape == (3, 3, 16, 16)


@pytest.mark.parametrize(("labels", "count", "message"), [
    ([1, 2, 3], 2, "holds 2 images, but .* has 3 labels, .*download 102flowers"), ([1, 0], 2, "not 1 to 102"),
    ([1, 103], 2, "not 1 to 102"),
])
def test_flowers_that_are_not_right_are_refused(tmp_path, labels, count, message):
    write_flowers(tmp_path, labels, count)
    with pytest.raises(InputError, match=message):
        load("flowers102", tmp_path, 16, 3)
    (tmp_path / "imagelabels.mat").write_bytes(b"MATLAB nothing")
    with pytest.raises(InputError, match=r"imagelabels\.mat cannot be read"):
        load("flowers102", tmp_path, 16, 3)


def test_labels_that_are_no_classes_are_refused(tmp_path):
    for labels, found in (([0, -1, 2], "-1 to 2"), ([0, 1, 2**40], "0 to 1099511627776")):
        np.savez(tmp_path / "x.npz", images=pixels(3, 8, 8), labels=np.array(labels))
        with pytest.raises(InputError, match=f"has labels {found}, allowed: 0 to 65535"):
            load("npz", tmp_path / "x.npz", 8)


def test_an_array_file_may_say_what_its_classes_are_called(tmp_path):
    arrays = dict(images=pixels(3, 8, 8), labels=np.arange(3))
    np.savez(tmp_path / "x.npz", **arrays, class_names=["cat", "dog", "owl"])
    assert load("npz", tmp_path / "x.npz", 8).class_names == ("cat", "dog", "owl")
    for names in (np.arange(3), np.array([["cat"]])):
        np.savez(tmp_path / "x.npz", **arrays, class_names=names)
        with pytest.raises(InputError, match=r"has class_names of shape .*, allowed: texts \(K,\)"):
            load("npz", tmp_path / "x.npz", 8)


def test_an_array_file_needs_its_root(tmp_path):
    np.savez(tmp_path / "x.npz", images=pixels(3, 8, 8), labels=np.arange(2))
    with pytest.raises(InputError, match="2 labels for 3 images"):
        load("npz", tmp_path / "x.npz", 8)
    np.save(tmp_path / "x.npy", pixels(3, 8, 8))
    assert len(load("array", tmp_path / "x.npy", 8)) == 3  # the name that recipes of 0.1.0 use
    with pytest.raises(InputError, match="is not set, allowed for npz"):
        create_dataset(DataConfig(name="npz"))


def test_the_command_line_says_in_one_line_what_is_missing(tmp_path, capsys):
    recipe = str(CONFIGS / "folder.yaml")
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100", "celeba", "flowers102"):
        assert main(["data", "inspect", recipe, f"data.name={name}", f"data.root={tmp_path / 'none'}"]) == 2
        line, = capsys.readouterr().err.splitlines()
        assert "does not exist" in line and "download" in line and "https://" in line and "data.root" in line


def test_inspect_counts_classes_and_draws_a_row_of_each(tmp_path, capsys):
    write_mnist(tmp_path, pixels(30, 28, 28), np.repeat(np.arange(3, dtype=np.uint8), [2, 8, 20]))
    assert main(["data", "inspect", str(CONFIGS / "digits.yaml"), "data.name=fashion_mnist", f"data.root={tmp_path}",
                 "data.image_size=28", "--out", str(tmp_path / "sub" / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "images: 30" in out and "shape: 1 channel, 28x28" in out and "values: 0.000 to 1.000" in out
    assert "labels: 3 classes, 2 to 20 images in each" in out and "Pullover          20  ########" in out
    with Image.open(tmp_path / "sub" / "sheet.png") as sheet:
        assert sheet.width / sheet.height == pytest.approx((8 * 29 + 1) / (3 * 29 + 1), rel=0.01)  # 8 columns, 3 rows
    assert main(["data", "inspect", str(CONFIGS / "digits.yaml"), "--out", "sheet.txt"]) == 2


def test_inspect_takes_a_folder_and_leaves_the_working_directory_and_the_folder_alone(tmp_path, monkeypatch, capsys, caplog):
    for name in ("photos/cats", "photos/dogs", "here"):
        jpegs(tmp_path / name, ["a.jpg", "b.jpg"])
    monkeypatch.chdir(tmp_path / "here")
    caplog.set_level(logging.INFO, "ddpm_ms")
    assert main(["data", "inspect", "../photos", "data.image_size=16"]) == 0
    out = capsys.readouterr().out
    assert "images: 4" in out and "shape: 3 channels, 16x16" in out and "dogs        2" in out
    assert sorted(path.name for path in Path().iterdir()) == ["a.jpg", "b.jpg", "runs"]
    assert Path("runs/inspect/photos.png").is_file() and "runs/inspect/photos.png: 16 of them" in caplog.text
    jpegs(tmp_path / "photos", ["loose.jpg"])
    assert main(["data", "inspect", "../photos", "--out", "x/y.png"]) == 0 and Path("x/y.png").is_file()
    assert "labels: none (../photos/loose.jpg lies in none of the 2 class folders)" in capsys.readouterr().out


def test_inspect_takes_a_packed_file(tmp_path, capsys):
    jpegs(tmp_path / "photos", ["a.jpg", "b.jpg"])
    packed, out = tmp_path / "photos.mindrecord", tmp_path / "x.png"
    assert main(["data", "pack", str(tmp_path / "photos"), str(packed)]) == 0
    assert main(["data", "inspect", str(packed), "--out", str(out)]) == 0
    assert "data: mindrecord\nimages: 2" in capsys.readouterr().out and out.is_file()
