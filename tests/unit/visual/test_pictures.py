"""What `visual` draws."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_ms import visual
from ddpm_ms.cli import main
from ddpm_ms.data.arrays import digits


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


def images_of(*values):
    """Images (len(values), 1, 2, 3) of one grey each."""
    return np.array(values, np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 1, 2, 3), np.float32)


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
