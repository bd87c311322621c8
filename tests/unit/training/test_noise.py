"""The noise of training: an offset for each channel, noise near to its image, and what stays the same without both."""

import itertools
import sys

import numpy as np
import pytest
from mindspore import Tensor, nn

from ddpm_ms import GaussianDiffusion, Trainer, load_config, rng
from ddpm_ms.config import Config, DiffusionConfig, TrainingConfig, differences
from ddpm_ms.data import ArrayDataset
from ddpm_ms.diffusion.noise import assigned
from ddpm_ms.errors import InputError
from ddpm_ms.training.batches import BatchSource

IMAGES = np.random.default_rng(0).uniform(0, 1, (36, 3, 4, 4)).astype(np.float32)


class Zeros(nn.Cell):
    channels = 3

    def construct(self, x, t, x_self_cond=None, classes=None, dropout_key=None):
        return x * 0


def diffusion(**keywords):
    return GaussianDiffusion(Zeros(), image_size=4, **keywords)


def noise(step=4, batch_size=6, accumulate=1, **keywords):
    """Of all images of a step, and the images in [-1, 1]."""
    source = BatchSource(ArrayDataset(IMAGES, 3), batch_size, accumulate, seed=5, draw_noise=diffusion(**keywords).draw_noise)
    batches = source.step(step)
    return np.concatenate([b.noise for b in batches]), np.concatenate([b.images for b in batches]) * 2 - 1


PLAIN = rng.normal(5, "noise", 4, range(6), (3, 4, 4))


def test_by_default_the_noise_is_the_plain_one():
    np.testing.assert_array_equal(noise()[0], PLAIN)


def test_offset_noise_adds_a_constant_to_each_channel_of_an_image_whatever_the_accumulation():
    found, _ = noise(offset_noise_strength=0.1)
    constants = rng.normal(5, "offset_noise", 4, range(6), (3, 1, 1))
    assert found.dtype == np.float32 and len(np.unique(constants)) == 18
    np.testing.assert_array_equal(found, PLAIN + np.float32(0.1) * constants)
    np.testing.assert_array_equal(noise(offset_noise_strength=0.1, batch_size=2, accumulate=3)[0], found)


def distance(x_start, noise):
    return sum(np.linalg.norm(x - n) for x, n in zip(x_start.astype(np.float64), noise.astype(np.float64)))


def test_immiscible_noise_is_the_plain_one_in_the_nearest_of_all_orders():
    found, x_start = noise(immiscible=True)
    orders = [list(order) for order in itertools.permutations(range(6))]
    nearest = min(orders, key=lambda order: distance(x_start, PLAIN[order]))
    np.testing.assert_array_equal(found, PLAIN[nearest])
    assert nearest != sorted(nearest)
    np.testing.assert_array_equal(noise(immiscible=True)[0], found)  # a function of the seed, the step and the images


def test_immiscible_noise_stays_within_its_micro_batch_and_carries_its_offset():
    plain, _ = noise(offset_noise_strength=0.3, batch_size=3, accumulate=2)
    found, x_start = noise(offset_noise_strength=0.3, batch_size=3, accumulate=2, immiscible=True)
    for half in (slice(0, 3), slice(3, 6)):
        np.testing.assert_array_equal(found[half], assigned(x_start[half], plain[half]))
        assert {n.tobytes() for n in found[half]} == {n.tobytes() for n in plain[half]}


def test_calling_with_images_alone_adds_the_same_kind_of_noise(monkeypatch):
    monkeypatch.setattr("ddpm_ms.gaussian_diffusion._standard_normal", lambda count: lambda purpose, shape: np.full(
        (count, *shape), {"noise": 1, "offset_noise": 10}[purpose], np.float32))
    offset = diffusion(objective="pred_noise", offset_noise_strength=0.5)
    assert float(offset(IMAGES).asnumpy()) == 36  # (1 + 0.5 * 10)^2
    assert float(offset(Tensor(IMAGES)).asnumpy()) == 36
    np.testing.assert_array_equal(offset.p_losses(IMAGES * 2 - 1, np.zeros(36, np.int32), loss_reduction="none").asnumpy(), 36)


def test_a_recipe_can_ask_for_both(tmp_path):
    (tmp_path / "c.yaml").write_text("diffusion: {offset_noise_strength: 0.1, immiscible: true}")
    found = load_config(tmp_path / "c.yaml").diffusion
    assert (found.offset_noise_strength, found.immiscible) == (0.1, True)
    with pytest.raises(InputError, match=r"diffusion.offset_noise_strength is -1.0, allowed: at least 0"):
        load_config(tmp_path / "c.yaml", ["diffusion.offset_noise_strength=-1"])


def test_a_run_whose_noise_is_chosen_within_the_micro_batch_resumes_with_the_same_ones_only():
    def config(immiscible, batch, accumulate):
        return Config(diffusion=DiffusionConfig(immiscible=immiscible),
                      training=TrainingConfig(train_batch_size=batch, gradient_accumulate_every=accumulate))

    assert differences(config(False, 8, 2), config(False, 16, 1)) == []
    assert differences(config(True, 8, 2), config(True, 16, 1)) == [
        "training.train_batch_size: 8 -> 16", "training.gradient_accumulate_every: 2 -> 1"]


def test_without_scipy_immiscible_training_ends_in_one_line_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    line = "^diffusion.immiscible assigns noise to images by SciPy, but scipy is not installed: pip install scipy$"
    immiscible = diffusion(immiscible=True)  # sampling needs no SciPy
    with pytest.raises(InputError, match=line):
        Trainer(immiscible, IMAGES, results_folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=line):
        immiscible(IMAGES)
