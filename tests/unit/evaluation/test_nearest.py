"""The training images nearest to samples."""

import numpy as np
import pytest

from ddpm_ms.data.datasets import ArrayDataset
from ddpm_ms.evaluation import evaluate_nearest, nearest_images


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
