"""The file of Inception's weights: what is in it, and that no other one is taken."""

import hashlib
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm_ms.cli import main
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.features import FeatureRequest
from ddpm_ms.evaluation.inception import units
from ddpm_ms.evaluation.inception_features import inception
from ddpm_ms.evaluation.inception_weights import PUBLISHED, checked, fold, read_weights, shapes

FILES = Path(__file__).parents[2] / "golden" / "torch_files"
MOST = max(map(math.prod, shapes().values()))
COUNTER = "Conv2d_1a_3x3.bn.num_batches_tracked"


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def whole(*values):
    return b"".join(b"J" + value.to_bytes(4, "little") for value in values)


def tensor(shape):
    """The pickle of a tensor at the beginning of the one storage."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(MOST) + b"tQ"
    strides = [math.prod(shape[k + 1:]) for k in range(len(shape))]
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole(0) + b"(" + whole(*shape) + b"t(" + whole(*strides)
            + b"t\x89NtR")


@pytest.fixture
def saved(tmp_path):
    """A function that writes tensors of one number as torch.save would; they share a storage, which keeps the file small."""
    def save(named=None, name="weights.pth", number=1):
        pickle = b"\x80\x02}(" + b"".join(text(key) + tensor(shape) for key, shape in (named or shapes()).items()) + b"u."
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("archive/data.pkl", pickle)
            file.writestr("archive/data/0", np.full(MOST, number, np.float32).tobytes())
        return tmp_path / name

    return save


def ones():
    return {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes().items()}


def test_the_network_has_the_numbers_that_are_known_of_it():
    sizes = {name: math.prod(shape) for name, shape in shapes().items()}

    def count(*kinds):
        return sum(size for name, size in sizes.items() if name.endswith(kinds))

    assert (len(sizes), len(list(units()))) == (472, 94)
    assert count(".conv.weight") == 21_751_136
    assert count(".bn.weight", ".bn.bias") == count(".running_mean", ".running_var") == 34_432
    assert count("fc.weight", "fc.bias") == 2_065_392
    assert sum(sizes.values()) - count(".running_mean", ".running_var") == 23_850_960


def test_batch_norms_are_folded_into_the_convolutions():
    tensors = ones()
    tensors["Conv2d_1a_3x3.bn.running_var"] = np.full(32, 4 - 1e-3, np.float32)
    tensors["Conv2d_1a_3x3.bn.running_mean"] = np.full(32, 3, np.float32)
    tensors["Conv2d_1a_3x3.bn.weight"] = np.arange(32, dtype=np.float32)
    folded, classifier = fold(tensors)
    weight, bias = folded["Conv2d_1a_3x3"]
    np.testing.assert_allclose(weight, np.broadcast_to(np.arange(32).reshape(-1, 1, 1, 1) / 2, (32, 3, 3, 3)), rtol=1e-6)
    np.testing.assert_allclose(bias, 1 - 3 * np.arange(32) / 2, rtol=1e-6)
    assert classifier.shape == (1008, 2048) and classifier.dtype == weight.dtype == bias.dtype == np.float32


def test_a_file_that_torch_save_wrote_is_read_and_known_by_its_hash(saved):
    path = saved({**shapes(), COUNTER: ()})
    found = read_weights(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.folded.keys() == {name for name, *_ in units()}
    np.testing.assert_allclose(found.folded["Mixed_7c.branch_pool"][0], 1.001**-0.5, rtol=1e-6)
    named = path.with_name(f"weights-{found.sha256[:8]}.pth")
    shutil.copy(path, named)
    assert read_weights(named).sha256 == found.sha256


@pytest.mark.parametrize("change", [
    lambda tensors: tensors.pop("Mixed_6c.branch7x7_2.conv.weight"),
    lambda tensors: tensors.update({"AuxLogits.fc.weight": np.ones((1000, 768), np.float32)}),
    lambda tensors: tensors.update({"fc.weight": np.ones((1000, 2048), np.float32)}),
    lambda tensors: tensors.update({"fc.weight": {}}),
    lambda tensors: tensors.update({"fc.weight": np.ones((1008, 2048), np.int32)}),
    lambda tensors: tensors.update({"fc.bias": np.full(1008, np.nan, np.float32)}),
    lambda tensors: tensors.update({"Conv2d_2a_3x3.bn.running_var": np.full(32, -1, np.float32)}),
])
def test_what_is_not_this_inception_is_refused(change):
    tensors = ones()
    checked(tensors)
    change(tensors)
    with pytest.raises(InputError, match=r"Mixed_6c\.branch7x7_2\.conv\.weight|AuxLogits|fc\.|Conv2d_2a"):
        checked(tensors)


def test_files_that_are_something_else_are_refused_in_one_line(saved, tmp_path):
    page = tmp_path / "page.pth"
    page.write_text("<!DOCTYPE html><p>not found")
    for path, message in (
            (tmp_path / "absent.pth", f"are no file; get .*{PUBLISHED}"), (page, "HTML"),
            (FILES / "trainer_zip.pt", f"is not the Inception of FID: .*Conv2d_1a_3x3.*{PUBLISHED}"),
            (FILES / "numbers_zip.pt", f"is not the Inception of FID: .*Conv2d_1a_3x3.*{PUBLISHED}"),
            (saved(name=f"pt_inception-2015-12-05-{PUBLISHED}.pth"), f"damaged: their SHA-256 begins with .*{PUBLISHED}")):
        with pytest.raises(InputError, match=message) as caught:
            read_weights(path)
        assert "\n" not in str(caught.value)


def test_features_say_which_file_they_need_and_how_it_is_named(saved, monkeypatch):
    monkeypatch.delenv("DDPM_MS_INCEPTION", raising=False)
    request = FeatureRequest((3, 8, 8))
    with pytest.raises(InputError, match=f"{PUBLISHED}.pth .*nothing is downloaded.*--inception FILE or DDPM_MS_INCEPTION=FILE"):
        inception(request)
    with pytest.raises(InputError, match="channels, allowed with --features inception: 1, 3"):
        inception(FeatureRequest((4, 8, 8)))
    with pytest.raises(InputError, match="--protocol is 'x', allowed: ttur, pytorch-fid, clean-fid"):
        inception(FeatureRequest((3, 8, 8), protocol="x"))
    path = saved()
    monkeypatch.setenv("DDPM_MS_INCEPTION", str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert inception(request).identity == f"inception {sha256[:16]} ttur"
    monkeypatch.setenv("DDPM_MS_INCEPTION", "absent.pth")
    named = FeatureRequest((1, 8, 8), weights=str(path), protocol="clean-fid")
    assert inception(named).identity == f"inception {sha256[:16]} clean-fid"


def test_a_number_in_these_features_is_printed_with_the_weights_and_the_resize(saved, tmp_path, capsys):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8))
    path = saved(number=0)
    assert main(["evaluate", "--device", "CPU", "--images", str(tmp_path / "images.npy"), "--metric", "is",
                 "--inception", str(path), "--protocol", "clean-fid"]) == 0
    printed, sha256 = capsys.readouterr().out, hashlib.sha256(path.read_bytes()).hexdigest()
    assert printed.split()[:2] == ["is", "1"]  # all features are 0
    assert f"inception {sha256[:16]} clean-fid, 2048 numbers of each image" in printed
