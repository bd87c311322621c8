"""Grids, GIFs, curves, and the score of the digits."""

import numpy as np
import pytest
from PIL import Image

from ddpm_ms import visual
from ddpm_ms.data.datasets import load_digits
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation import evaluate_digits, frechet_distance
from ddpm_ms.evaluation.digits import DigitsClassifier


def test_a_grid_shows_every_image_in_order():
    images = np.linspace(0, 1, 5).reshape(5, 1, 1, 1) * np.ones((5, 1, 200, 200))
    grid = np.asarray(visual.to_grid(images))
    assert grid.shape == (2 * 201 + 1, 3 * 201 + 1)
    assert [grid[100, 100], grid[100, 301], grid[100, 502], grid[301, 100], grid[301, 301]] == [0, 64, 128, 191, 255]
    assert np.asarray(visual.to_grid(np.zeros((2, 3, 4, 4)))).shape[2] == 3


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


def test_real_digits_pass_and_noise_does_not():
    classifier = DigitsClassifier()
    real = evaluate_digits(load_digits().load(range(0, 1792, 7)), classifier)
    assert real.passed and real.confident > 0.9 and "PASSED" in str(real)
    noise = np.random.default_rng(0).uniform(0, 1, (256, 1, 8, 8))
    assert not evaluate_digits(noise, classifier).passed
    with pytest.raises(InputError, match=r"allowed: \(N, 1, 8, 8\)"):
        evaluate_digits(noise[:, :, :4])
