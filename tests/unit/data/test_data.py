"""Images from folders, arrays and iterables."""

from pathlib import Path

import mindspore.dataset as mds
import numpy as np
import pytest
from PIL import Image

from ddpm_ms.config import DataConfig
from ddpm_ms.data import ArrayDataset, StreamDataset, create_dataset, prefetch
from ddpm_ms.data.arrays import digits
from ddpm_ms.data.images import find_images, read_image
from ddpm_ms.errors import InputError


def picture(path, size=(8, 8), mode="RGB", seed=0):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_images_are_found_at_any_depth_with_extensions_in_any_case(tmp_path):
    names = ["a.PNG", "b/c.jpg", "b/d/e.JPEG", "f.webp", "g.bmp", "h.Tiff", "i.tif"]
    for name in names:
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert [str(p.relative_to(tmp_path)) for p in find_images(tmp_path)] == sorted(names)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_pixels_come_back_as_they_were(tmp_path, mode, channels):
    pixels = picture(tmp_path / "x.png", mode=mode).astype(np.float32) / 255
    expected = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", (8, 8), channels), expected)


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", (4, 4), 1).mean() == pytest.approx(0.5, abs=0.01)


def with_a_hole(path, mode, hidden, opaque=False):
    """An 8x8 picture of grey 100, but for its left half: there it is ``hidden`` and, unless ``opaque``, transparent."""
    grey = np.full((8, 8), 100, np.uint8)
    grey[:, :4] = hidden
    alpha = np.where(np.arange(8) < 4, 255 if opaque else 0, 255).astype(np.uint8)[None].repeat(8, 0)
    if mode == "RGBA":
        image = Image.fromarray(np.stack([grey, grey, grey, alpha], -1))
    elif mode == "LA":
        image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    else:  # a colour, or a palette's entry, that stands for transparent
        colour = Image.fromarray(np.stack([grey] * 3, -1))
        image = {"L": Image.fromarray(grey), "RGB": colour, "P": colour.quantize(4),
                 "I;16": Image.fromarray(grey.astype(np.uint16) << 8)}[mode]
        clear = hidden << 8 if mode == "I;16" else image.getpixel((0, 0))
    image.save(path, **{} if opaque or mode in ("RGBA", "LA") else {"transparency": clear})
    return read_image(path, (8, 8), 3, "white"), read_image(path, (8, 8), 1, "black")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
def test_what_is_transparent_shows_the_background_and_never_its_hidden_colour(tmp_path, mode):
    colour, grey = with_a_hole(tmp_path / "x.png", mode, hidden=30)
    assert (colour[:, :, :4] == 1).all() and (grey[:, :, :4] == 0).all()
    for image in (colour, grey):
        np.testing.assert_allclose(image[:, :, 4:], 100 / 255, atol=1e-6)
    colour, grey = with_a_hole(tmp_path / "x.png", mode, hidden=30, opaque=True)
    for image in (colour, grey):
        np.testing.assert_allclose(image[:, :, :4], 30 / 255, atol=1e-6)


def test_half_transparent_pixels_are_mixed_and_four_channels_keep_them(tmp_path):
    Image.new("RGBA", (8, 8), (200, 100, 0, 51)).save(tmp_path / "x.png")
    mixed = read_image(tmp_path / "x.png", (4, 4), 3)
    np.testing.assert_allclose(mixed[:, 0, 0] * 255, [244, 224, 204], atol=1)
    np.testing.assert_allclose(read_image(tmp_path / "x.png", (4, 4), 4)[:, 0, 0] * 255, [200, 100, 0, 51], atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_opaque_image_has_the_same_bits_with_or_without_an_alpha_channel(tmp_path, channels):
    pixels = picture(tmp_path / "plain.png", (24, 16))
    Image.fromarray(np.concatenate([pixels, np.full((16, 24, 1), 255, np.uint8)], 2)).save(tmp_path / "alpha.png")
    plain, alpha = (read_image(tmp_path / name, (10, 10), channels, "black") for name in ("plain.png", "alpha.png"))
    np.testing.assert_array_equal(plain, alpha)
    expected = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB").resize((15, 10), Image.Resampling.BICUBIC)
    expected = np.asarray(expected.crop((2, 0, 12, 10)), np.float32) / 255
    np.testing.assert_array_equal(plain, expected[None] if channels == 1 else expected.transpose(2, 0, 1))


def test_the_background_is_that_of_the_recipe(tmp_path):
    Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(tmp_path / "x.png")
    for colour, value in (("white", 1), ("black", 0)):
        config = DataConfig(root=str(tmp_path), image_size=8, background=colour)
        assert (create_dataset(config).load([0]) == value).all()


@pytest.mark.parametrize(("size", "box"), [((16, 8), (4, 0, 12, 8)), ((8, 16), (0, 4, 8, 12))])
def test_the_shorter_side_is_fitted_and_the_centre_cropped(tmp_path, size, box):
    pixels = picture(tmp_path / "x.png", size)
    expected = np.asarray(Image.fromarray(pixels).crop(box)).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_allclose(read_image(tmp_path / "x.png", (8, 8), 3), expected, atol=1e-6)
    assert read_image(tmp_path / "x.png", (6, 10), 3).shape == (3, 6, 10)


def test_a_round_thing_stays_round(tmp_path):
    image = Image.new("L", (64, 32))
    image.paste(255, (24, 8, 40, 24))  # a square in the middle of a wide picture
    image.save(tmp_path / "x.png")
    small = read_image(tmp_path / "x.png", (16, 16), 1)[0] > 0.5
    assert abs(small.any(0).sum() - small.any(1).sum()) <= 1


def test_a_broken_file_is_refused_by_name_or_skipped_and_counted(tmp_path):
    picture(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    config = dict(name="image_folder", root=str(tmp_path), image_size=8)
    with pytest.raises(InputError, match=r"broken\.png cannot be read"):
        create_dataset(DataConfig(**config))
    dataset = create_dataset(DataConfig(**config, on_error="skip"))
    assert len(dataset) == 1 and len(dataset.skipped) == 1 and "broken.png" in dataset.skipped[0]
    (tmp_path / "good.png").unlink()
    with pytest.raises(InputError, match="all 1 images are broken"):
        create_dataset(DataConfig(**config, on_error="skip"))


def test_an_image_bomb_is_refused(tmp_path, monkeypatch):
    picture(tmp_path / "x.png", (64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "x.png", (8, 8), 3)


@pytest.mark.parametrize(("make", "message"), [
    (lambda d: None, "does not exist"),
    (lambda d: d.mkdir(), "holds no image"),
    (lambda d: d.write_text(""), "is no folder"),
])
def test_a_folder_without_images_is_refused(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        create_dataset(DataConfig(root=str(tmp_path / "data")))


def test_the_digits_are_scikit_learns_whether_their_file_is_found_or_not(monkeypatch):
    from sklearn.datasets import load_digits

    found = load_digits()
    datasets = [digits()]
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    for dataset in [*datasets, digits()]:
        assert (dataset.load(range(1797))[:, 0] == (found.images / 16).astype(np.float32)).all()
        assert (np.asarray(dataset.labels) == found.target).all() and list(dataset.class_names) == [str(k) for k in range(10)]


def test_digits_are_the_real_ones():
    digits = create_dataset(DataConfig(name="digits", image_size=8, channels=1))
    assert len(digits) == 1797 and digits.shape == (1, 8, 8) and np.bincount(digits.labels).min() > 170
    batch = digits.load(range(10))
    assert batch.dtype == np.float32 and batch.min() == 0 and batch.max() == 1
    with pytest.raises(InputError, match="has images of 1 channel, 8x8, but"):
        create_dataset(DataConfig(name="digits", image_size=16, channels=1))


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 1), (5, 1, 8, 8)])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_array_files_of_every_layout(tmp_path, shape, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / f"x.{suffix}"
    np.save(path, pixels) if suffix == "npy" else np.savez(path, images=pixels, labels=np.arange(5))
    dataset = create_dataset(DataConfig(name="npz", root=str(path), image_size=8, channels=1))
    np.testing.assert_allclose(dataset.load([3])[0, 0], pixels[3].reshape(8, 8) / 255, atol=1e-7)
    assert (dataset.labels is None) == (suffix == "npy")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "cannot be read"), (b"PK\x03\x04 nothing", "damaged|cannot"), (b"\x93NUMPY\x01", "cannot be read"),
])
def test_a_damaged_array_file_is_refused(tmp_path, content, message):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        create_dataset(DataConfig(name="npz", root=str(tmp_path / "x.npz"), image_size=8, channels=1))


def test_pickled_arrays_are_never_opened(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        create_dataset(DataConfig(name="npz", root=str(tmp_path / "x.npy"), image_size=8, channels=1))


@pytest.mark.parametrize(("images", "message"), [
    (np.zeros((3, 8, 8, 2), np.uint8), "allowed with 1 channels"), (np.zeros((3, 8, 8), np.int32), "type int32"),
    (np.full((3, 8, 8), 2.0), "allowed: 0 to 1"), (np.full((3, 8, 8), np.nan), "allowed: 0 to 1"),
])
def test_arrays_that_are_no_images_are_refused(images, message):
    with pytest.raises(InputError, match=message):
        ArrayDataset(images, 1)


def test_iterables_start_again_and_skip_to_a_position():
    rows = [np.full((1, 2, 2), i / 2, np.float32) for i in range(3)]
    stream = StreamDataset(rows)
    assert stream.take(range(5), 0)[:, 0, 0, 0].tolist() == [0, 0.5, 1, 0, 0.5]
    assert stream.take(range(2, 4), 0)[:, 0, 0, 0].tolist() == [1, 0]  # a position that has passed
    assert StreamDataset([np.stack(rows)]).take(range(4, 6), 0)[:, 0, 0, 0].tolist() == [0.5, 1]
    once = StreamDataset(iter(rows))
    once.take(range(2), 0)
    with pytest.raises(InputError, match="can be read once only and is at image 2, allowed for image 0"):
        once.take([0], 0)
    with pytest.raises(InputError, match="yields no image"):
        StreamDataset([])
    with pytest.raises(InputError, match="shape"):
        StreamDataset([np.zeros(3)])
    for second, message in ((np.zeros((1, 2, 3)), r"shape \(1, 2, 3\), allowed: \(1, 2, 2\)"),
                            (rows[1] * 255, "values 127.5 to 127.5"), (rows[0] * np.nan, "values nan")):
        with pytest.raises(InputError, match=message):
            StreamDataset([rows[0], second]).take([1], 0)


def test_a_mindspore_dataset_is_an_iterable():
    images = np.random.default_rng(0).uniform(0, 1, (4, 1, 2, 2)).astype(np.float32)
    stream = StreamDataset(mds.NumpySlicesDataset(images, shuffle=False).batch(2))
    np.testing.assert_array_equal(stream.take(range(6), 0), images[[0, 1, 2, 3, 0, 1]])


def test_prefetch_keeps_order_and_raises_where_the_value_was_due():
    assert list(prefetch(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
    values = prefetch(lambda x: 1 // (2 - x), range(5))
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(values)
