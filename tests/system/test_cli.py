"""The command line as a user meets it: one process per call."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ddpm_ms.cli import main, parser
from ddpm_ms.cli.classes import asked_classes
from ddpm_ms.cli.options import parsed
from ddpm_ms.config import Config, DataConfig, load_config
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.drawn import DrawnImages
from ddpm_ms.runtime import graphs
from ddpm_ms.visual.runs import read_measurements

ROOT = Path(__file__).parents[2]
TINY = ["model.dim=8", "model.dim_mults=[1]", "model.attn_heads=1", "model.attn_dim_head=4", "diffusion.timesteps=20",
        "training.train_batch_size=4", "training.num_samples=4", "training.log_every=2", "sampling.steps=4"]


def command(*arguments):
    return [sys.executable, "-m", "ddpm_ms", *map(str, arguments)]


def cli(*arguments, cwd=ROOT):
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, timeout=300)


def train_arguments(run, *overrides):
    return ["train", "--config", ROOT / "configs" / "digits.yaml", "--run-dir", run, "--device", "CPU", *TINY, *overrides]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps made by the command line, in a directory whose name has a space."""
    run = tmp_path_factory.mktemp("a run") / "digits"
    done = cli(*train_arguments(run, "training.train_num_steps=4", "training.save_and_sample_every=2"))
    assert done.returncode == 0, done.stderr
    return run, done


def test_overrides_may_stand_before_behind_and_between_options():
    words = ["--config", "a.yaml", "training.seed=1", "--run-dir", "r", "training.num_samples=0", "--dry-run", "data.root=x"]
    given = parsed(parser(), ["train", *words])
    assert given.overrides == ["training.seed=1", "training.num_samples=0", "data.root=x"]
    assert (given.run_dir, given.dry_run) == ("r", True)


@pytest.mark.parametrize("words", [
    ["train", "--config", "a.yaml", "training.seed=1", "--seed", "data.root=x"],
    ["train", "--config", "a.yaml", "training.seed=1", "--dry-run", "oops"], ["sample", "--checkpoint", "r", "training.seed=1"],
])
def test_words_that_nothing_takes_are_refused(words, capsys):
    with pytest.raises(SystemExit) as status:
        parsed(parser(), words)
    assert status.value.code == 2 and "unrecognized arguments: " in capsys.readouterr().err


def test_a_run_leaves_everything_behind(trained):
    run, done = trained
    assert "device: CPU (asked for), graph mode" in done.stderr and "step 4/4" in done.stderr
    told = [re.sub(r"^\S+ \S+ ", "", line) for line in (run / "log.txt").read_text().splitlines()]
    for line in ("step 2: saved checkpoints/step_00000002", "step 2: drawing 4 images (the first time compiles)",
                 "step 2: drew samples/step_00000002.png", "step 4: drew samples/step_00000004.png"):
        assert line in done.stderr.splitlines() and line in told
    assert re.search(r"training .*digits: \d\d?,\d{3} parameters, 1,797 images", done.stderr)
    for name in ("config.yaml", "environment.json", "log.txt", "metrics.jsonl", "loss.png", "samples/step_00000002.png",
                 "samples/step_00000004.png", "checkpoints/step_00000004/state.json"):
        assert (run / name).is_file(), name
    assert "step 4/4" in (run / "log.txt").read_text()
    assert json.loads((run / "environment.json").read_text())["device"] == "CPU"
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert row.keys() >= {"step", "loss", "loss_q1", "loss_q4", "grad_norm", "lr", "ema_decay", "images_per_second",
                          "compile_seconds"}


def test_the_same_command_again_finishes_at_once(trained):
    run, _ = trained
    done = cli(*train_arguments(run, "training.train_num_steps=4", "training.save_and_sample_every=2"))
    assert done.returncode == 0 and "is finished: 4 of 4 steps" in done.stderr


def test_sampling_needs_only_the_checkpoint(trained, tmp_path):
    run, _ = trained
    done = cli("sample", "--checkpoint", run, "--device", "CPU", "-n", 5, "--batch-size", 2, "--seed", 3, "--out",
               tmp_path / "grid.png", "--gif", tmp_path / "x.gif", "--npz", tmp_path / "x.npz", "--files", tmp_path / "files")
    assert done.returncode == 0, done.stderr
    images = np.load(tmp_path / "x.npz")["images"]
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8
    assert len(list((tmp_path / "files").glob("*.png"))) == 5
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "files" / "000004.png")), images[4, ..., 0])
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == 5  # four steps and the result, held
    assert Image.open(tmp_path / "grid.png").width >= 100
    assert re.search(r"5 images, ddim, 4 steps, seed 3; NFE 4, \d+\.\d\d images/s once compiled, \d+\.\d s in all", done.stderr)


def test_single_files_of_a_larger_export_are_neither_mixed_with_others_nor_deleted(trained, tmp_path, capsys):
    run, _ = trained
    for number in range(5):
        (tmp_path / f"{number:06d}.png").write_bytes(b"mine")
    (tmp_path / "notes.png").write_bytes(b"mine")
    assert main(["sample", "--checkpoint", str(run), "--device", "CPU", "-n", "3", "--out", str(tmp_path / "grid.png"), "--files",
                 str(tmp_path)]) == 2
    assert ("where 2 files of a larger export would stay (000003.png to 000004.png), allowed for 3 images: a folder without "
            "them") in capsys.readouterr().err
    assert all(path.read_bytes() == b"mine" for path in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 6


def test_another_batch_is_told_what_goes_with_it(trained, capsys):
    run, _ = trained
    arguments = [*train_arguments(run, "training.train_num_steps=4"), "training.train_batch_size=2"]
    assert main([*map(str, arguments)]) == 2
    message = "training.train_batch_size: 4 -> 2 (the same run with training.gradient_accumulate_every=2)"
    assert message in capsys.readouterr().err


def test_visualize_forward_writes_a_strip(tmp_path):
    done = cli("visualize", "forward", "--config", ROOT / "configs" / "digits.yaml", "--out", tmp_path / "strip.png",
               "--steps", 0, 500, 999)
    assert done.returncode == 0, done.stderr
    strip = Image.open(tmp_path / "strip.png")
    assert strip.width > 3 * strip.height


def test_the_pictures_of_a_run_are_reachable(trained, tmp_path, capsys):
    run, _ = trained
    assert main(["visualize", "losses", str(run), "--out", str(tmp_path / "losses.png")]) == 0
    assert main(["visualize", "nearest", "--checkpoint", str(run), "--device", "CPU", "-n", "3", "--out",
                 str(tmp_path / "nearest.png")]) == 0
    assert "samples (3)" in capsys.readouterr().out
    assert Image.open(tmp_path / "nearest.png").width > Image.open(tmp_path / "nearest.png").height
    assert main(["visualize", "reverse", "--checkpoint", str(run / "checkpoints" / "step_00000004"), "--device", "CPU", "-n",
                 "2"]) == 0
    with Image.open(run / "reverse.gif") as animation:
        assert animation.n_frames == 21  # T = 20: the noise and 20 transitions
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 3 and "step 4/4" in page and "step_00000004" in page
    assert re.search(r"<dt>Wall time</dt><dd>\d+(\.\d| min \d\d) s", page)
    assert re.search(r"<dt>Parameters</dt><dd>\d\d?,\d{3}<", page)


def test_a_run_is_exported_beside_itself_and_never_over_something(trained, tmp_path, capsys):
    run, _ = trained
    checkpoint, output = run / "checkpoints" / "step_00000004", run / "exports" / "safetensors.safetensors"

    def export(of, to, *arguments):
        status = main(["export", str(of), "--to", to, "--device", "CPU", *map(str, arguments)])
        return status, capsys.readouterr().err.strip()

    try:
        assert export(run, "safetensors")[0] == 0
        same = load_file(checkpoint / "ema.safetensors")
        assert all(np.array_equal(array, same[name]) for name, array in load_file(output).items())
        there = (2, f"ddpm-ms: the output is {output}, which is there already, allowed: a path where nothing is")
        assert export(checkpoint, "safetensors") == there
    finally:
        shutil.rmtree(run / "exports", ignore_errors=True)
    assert export(checkpoint, "safetensors", "--raw", "--output", tmp_path / "x.safetensors")[0] == 0
    raw = load_file(checkpoint / "model.safetensors")
    assert all(np.array_equal(array, raw[name]) for name, array in load_file(tmp_path / "x.safetensors").items())
    for arguments, message in ((["lucidrains"], "model.num_classes is 10, which denoising-diffusion-pytorch does not know"),
                               (["diffusers"], "model.name is 'unet', which UNet2DModel of diffusers does not know"),
                               (["safetensors", "--best"], "holds no validation loss, so none is the best"),
                               (["safetensors", "--batch-size", 2], "batch sizes for safetensors, which has none")):
        status, line = export(run, *arguments)
        assert status == 2 and message in line
    assert not (run / "exports").exists()


def test_dry_run_prints_the_recipe_and_writes_nothing(tmp_path):
    done = cli(*train_arguments(tmp_path / "run", "training.seed=7"), "--dry-run")
    assert done.returncode == 0 and "seed: 7" in done.stdout and "# parameters: " in done.stdout
    assert not (tmp_path / "run").exists()


def mistakes(tmp):
    (tmp / "empty").mkdir()
    folder = ["data.name=image_folder", "data.channels=1"]
    return {
        "missing folder": (train_arguments(tmp / "r", *folder, f"data.root={tmp}/none"), "does not exist"),
        "empty folder": (train_arguments(tmp / "r", *folder, f"data.root={tmp}/empty"), "holds no image"),
        "no root": (train_arguments(tmp / "r", *folder), "data.root is not set"),
        "unknown key": (train_arguments(tmp / "r", "model.dmi=3"), "unknown key 'model.dmi', did you mean 'model.dim'?"),
        "linear with 10 steps": (train_arguments(tmp / "r", "diffusion.timesteps=10", "diffusion.beta_schedule=linear"),
                                 "beta of step"),
        "size": (train_arguments(tmp / "r", "model.dim_mults=[1,1,1,1,1]"), "multiples of 16 (nearest: 16)"),
        "batch": (train_arguments(tmp / "r", "training.train_batch_size=1798"), "at most the 1797"),
        "negative steps": (train_arguments(tmp / "r", "training.train_num_steps=-1"), "training.train_num_steps is -1"),
        "no config": (["train", "--config", tmp / "none.yaml"], "No such file"),
        "no checkpoint": (["sample", "--checkpoint", tmp / "none", "--device", "CPU"], "does not exist"),
        "no checkpoint in it": (["sample", "--checkpoint", tmp / "empty", "--device", "CPU"], "has no state.json"),
    }


@pytest.mark.parametrize("name", ["missing folder", "empty folder", "no root", "unknown key", "linear with 10 steps", "size",
                                  "batch", "negative steps", "no config", "no checkpoint", "no checkpoint in it"])
def test_a_mistake_is_one_line_status_2_and_nothing_written(tmp_path, name):
    arguments, message = mistakes(tmp_path)[name]
    done = cli(*arguments)
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and line.startswith("ddpm-ms: ") and message in line, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "r").exists()


@pytest.mark.parametrize("device", ["Ascend", "GPU"])
def test_a_device_that_is_not_there_is_one_line_that_says_what_is_missing(device, tmp_path):
    arguments = train_arguments(tmp_path / "r")
    arguments[arguments.index("CPU")] = device
    done = cli(*arguments)
    assert done.returncode == 2 and f"device is {device}, but" in done.stderr and "It needs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    return path


def test_every_way_of_editing_is_reachable(trained, picture, tmp_path, capsys):
    run, _ = trained
    mask, out = tmp_path / "mask.png", tmp_path / "out.npz"
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4] = 255
    Image.fromarray(pixels).save(mask)

    def images(*arguments):
        assert main(["sample", "--checkpoint", str(run), "--device", "CPU", "--out", str(tmp_path / "grid.png"), "--npz",
                     str(out), *map(str, arguments)]) == 0
        return np.load(out)["images"][..., 0]

    given = np.asarray(Image.open(picture))
    assert images("--init-image", picture, "-n", 3, "--strength", 0.5).shape == (3, 8, 8)
    inverted = images("--init-image", picture, "--invert", "--strength", 1, "--steps", 20, "--no-clip-x-start")
    assert inverted.shape == (1, 8, 8)
    filled = images("--init-image", picture, "--mask", mask, "-n", 2, "--jump-length", 2, "--resamplings", 2)
    np.testing.assert_array_equal(filled[:, :4], np.stack([given[:4]] * 2))
    assert images("--interpolate", picture, picture, "--classes", 10).shape == (8, 8, 8)
    guided = images("-n", 2, "--sampler", "unipc", "--spacing", "log_snr", "--guidance-scale", 3, "--guidance-interval", 0, 0.9,
                    "--gif", tmp_path / "x.gif")
    assert guided.shape == (2, 8, 8) and (tmp_path / "x.gif").is_file()


def test_the_likelihood_and_the_score_are_reachable(trained, capsys):
    run, _ = trained
    assert main(["evaluate", "--checkpoint", str(run), "--device", "CPU", "--metric", "bits_per_dim", "-n", "3"]) == 0
    assert re.match(r"bits/dim: \d+\.\d+ \+- \d+\.\d+ over 3 images", capsys.readouterr().out)
    for arguments, message in ((["--variance", "fixed_large"], "--variance with --metric bits_per_dim"),
                               (["--num-images", "-5"], "--num-images is -5"), (["--batch-size", "0"], "--batch-size is 0")):
        assert main(["evaluate", "--checkpoint", str(run), "--device", "CPU", "--metric", "bits_per_dim", *arguments]) == 2
        assert message in capsys.readouterr().err
    # The run is of four steps, so its samples fail: status 1, and no traceback.
    assert main(["evaluate", "--checkpoint", str(run), "--device", "CPU"]) == 1
    assert "recognised as the class asked for" in capsys.readouterr().out
    bits, seen = (json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()[-2:])
    assert list(bits["scores"]) == ["bits_per_dim", "prior", "decoder"] and bits["judged"]["images"] is None
    assert {"images": 256, "sampler": "ddim", "steps": 4, "step": 4}.items() <= seen["judged"].items()
    assert 0 <= seen["scores"]["agree"]["value"] <= 1


def test_a_run_is_compared_with_its_data_and_what_it_drew_is_not_drawn_again(trained, tmp_path, monkeypatch, capsys):
    run, _ = trained
    evaluate = ["evaluate", "--checkpoint", str(run), "--device", "CPU", "--features", "digits", "--batch-size", "8"]
    add, added = DrawnImages.add, []

    def killed(self, first, *rest):
        added.append(first)
        if len(added) == 2:
            raise KeyboardInterrupt
        return add(self, first, *rest)

    monkeypatch.setattr(DrawnImages, "add", killed)
    assert main([*evaluate, "--metric", "fid", "kid", "is", "-n", "20"]) == 130
    statistics = tmp_path / "drawn.npz"
    assert main([*evaluate, "--metric", "fid", "kid", "is", "-n", "20", "--save-stats", str(statistics)]) == 0
    assert added == [0, 8, 8, 16]
    text = capsys.readouterr().out
    assert re.search(r"^fid +\S+\nkid +\S+ \+- \S+\nis +\S+ \+- \S+\n20 images: \S.*step_00000004, averaged weights \w{16}, "
                     r"ddim, 4 steps, seed 0\nagainst 1,797 images: the run's training data \(digits\)\nfeatures: digits \w{16}, "
                     r"64 numbers of each image, which has 8 bits\nof 20 images the covariance of 64 features is singular", text)
    assert main([*evaluate, "--metric", "fid", "-n", "20"]) == 0 and len(added) == 4
    assert main([*evaluate, "--metric", "fid", "-n", "20", "--raw", "--steps", "2"]) == 0 and added[4:] == [0, 8, 16]
    first, again, other = (json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()[-3:])
    assert first["scores"]["fid"] == again["scores"]["fid"] != other["scores"]["fid"]
    told = {"sampler": "ddim", "steps": 2, "seed": 0, "weights": "model.safetensors", "step": 4, "classes": None}
    assert told.items() <= other["judged"].items() and first["judged"]["weights"] == "ema.safetensors"
    capsys.readouterr()
    same = ["evaluate", "--images", "digits", "--device", "CPU", "--features", "digits", "--against"]
    assert main([*same, str(statistics)]) == 0
    found = float(re.search(r"^fid +(\S+)$", capsys.readouterr().out, re.M)[1])
    assert found == pytest.approx(first["scores"]["fid"]["value"], rel=1e-4)
    assert main([*same, str(run), "-n", "20", "--metric", "recall"]) == 0 and len(added) == 7
    assert "20 images: data digits\nagainst 20 images: " in capsys.readouterr().out


def test_a_finished_run_that_is_to_be_measured_is_measured_and_its_best_checkpoint_found(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    measured = ["evaluation.every=2", "evaluation.images=12", "evaluation.metric=[fid,precision]", "evaluation.features=digits"]
    again = train_arguments(run, "training.train_num_steps=4", "training.save_and_sample_every=2", *measured)
    assert main(list(map(str, again))) == 0 and re.search(
        r"step 4/4  fid \S+  precision \S+  \(12 images, ddim, 4 steps, seed 0, against the 1797 of training, in digits \w{16}\)",
        (run / "log.txt").read_text())
    row, = read_measurements(run)
    assert row["step"] == 4 and row["fid"] > 0 and 0 <= row["precision"] <= 1
    for metric, message in ((["kid"], "holds no kid"), (["loss"], "best is 'loss', allowed: fid, kid"),
                            ([], "holds no validation loss, so none is the best; allowed: a run that was trained with training."
                                 "validation_images, or the best by fid, precision")):
        assert main(["sample", "--checkpoint", str(run), "--device", "CPU", "--best", *metric]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--metric", "fid"], "--checkpoint is not given, allowed: a run, or --images"),
    (["--images", "digits", "--checkpoint", "x"], "--checkpoint and --images are given, allowed: one of them"),
    (["--images", "digits"], "--images without --against, allowed: with it, or --metric is, or --save-stats alone"),
    (["--images", "digits", "--metric", "classifier"], "--metric classifier with --images, allowed: classifier alone and of"),
    (["--checkpoint", "x", "--metric", "fid", "classifier"], "--metric fid classifier, allowed: classifier alone and"),
    (["--images", "digits", "--metric", "is", "--against", "digits"], "--against with --metric is, which looks at one side"),
    (["--images", "digits", "--against", "digits", "--steps", "5"], "--steps with --images, which are not drawn, allowed: with"),
    (["--images", "digits", "--against", "digits", "--features", "pixel"], "--features is 'pixel', allowed: "),
    (["--images", "digits", "--against", "none"], "--against is none, which does not exist, allowed: a run, a folder"),
    (["--images", "digits", "--save-stats", "x.txt"], "--save-stats is x.txt, allowed: a file ending in .npz"),
    (["--images", "digits", "-n", "5000", "--against", "digits"], "--num-images of data digits is 5000, allowed: 1 to 1797"),
    (["--checkpoint", "none", "--metric", "fid"], "checkpoint none does not exist, allowed: a run directory"),
])
def test_a_mistake_in_a_comparison_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    features = [] if "--features" in arguments else ["--features", "pixels"]
    assert main(["evaluate", "--device", "CPU", *features, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("ddpm-ms: ") and not list(tmp_path.iterdir())


def test_a_run_without_averaged_weights_is_compared_raw(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    for state in run.glob("checkpoints/*/state.json"):
        content = json.loads(state.read_text())
        del content["checksum"], content["sha256"]["ema.safetensors"]
        checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        state.write_text(json.dumps({**content, "checksum": checksum}))
    assert main(["evaluate", "--checkpoint", str(run), "--device", "CPU", "--features", "pixels", "--metric", "fid"]) == 2
    assert capsys.readouterr().err.strip().endswith("has no ema.safetensors, allowed: the raw weights (--raw, ema=False)")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--steps", "21"], "steps is 21, allowed: 1 to 20"),
    (["--steps", "0"], "steps is 0, allowed: at least 1"),
    (["--sampler", "pndm"], "sampler is 'pndm', allowed: ddpm, ddim, heun, dpmpp_2m, dpmpp_2m_sde, unipc"),
    (["--spacing", "even"], "spacing is 'even', allowed: linspace, leading, trailing, both_ends, quadratic, karras, log_snr"),
    (["--sampler", "euler"], "sampler is 'euler', allowed: ddim with eta 0"),
    (["--sampler", "heun", "--eta", "0.5"], "sampling.eta is 0.5, which heun does not take but ddim, allowed: null"),
    (["--variance", "fixed_large"], "sampling.variance is 'fixed_large', which ddim does not take but ddpm, allowed: null"),
    (["--eta", "1.5"], "eta is 1.5, allowed: 0.0 to 1.0"),
    (["--num-images", "0"], "--num-images is 0"),
    (["--seed", "-1"], "seed is -1"),
    (["--classes", "11"], "--classes is '11', allowed: 0 to 9, or none (no class)"),
    (["--classes", "-1"], "--classes is '-1', allowed: 0 to 9, or none (no class)"),
    (["--classes", "non"], "or none (no class), did you mean 'none'?"),
    (["--sampler", "ddpm", "--variance", "learned"], "variance is 'learned', allowed with a network"),
    (["--mask", "m.png"], "--mask without --init-image"),
    (["--out", "x.foo"], "--out is x.foo, allowed: a file ending in .png"),
    (["--files", "/proc/none"], "--files is /proc/none/000000.png"),
    (["--npz", "/proc/none/x.npz"], "--npz is /proc/none/x.npz"),
    (["--init-image", "none.png"], "image none.png cannot be read"),
    (["--interpolate", "a.png", "b.png", "--init-image", "c.png"], "--interpolate with --init-image"),
])
def test_a_mistake_in_sampling_is_one_line(trained, capsys, arguments, message):
    run, _ = trained
    assert main(["sample", "--checkpoint", str(run), "--device", "CPU", *arguments]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_mask_of_another_size_is_refused(trained, picture, tmp_path, capsys):
    run, _ = trained
    Image.new("L", (9, 8)).save(tmp_path / "mask.png")
    assert main(["sample", "--checkpoint", str(run), "--device", "CPU", "--init-image", str(picture), "--mask",
                 str(tmp_path / "mask.png")]) == 2
    assert "is 9x8 pixels, allowed: 8x8" in capsys.readouterr().err


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three classes, a run of it, and the command that trains it; without graphs, which would only take time."""
    place = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(["cats", "dogs", "owls"] * 3):
        (place / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(place / "photos" / name / f"{number}.png")
    words = ["train", "--config", ROOT / "configs" / "folder.yaml", "--run-dir", place / "run", "--device", "CPU", "--mode",
             "pynative", *TINY, "model.num_classes=3", "training.train_num_steps=1", "training.gradient_accumulate_every=1",
             "data.image_size=8", f"data.root={place / 'photos'}"]
    assert main(list(map(str, words))) == 0
    yield place, list(map(str, words))
    graphs.use("graph")


def test_class_names_travel_with_the_run(photos, tmp_path, capsys):
    place, _ = photos
    assert load_config(place / "run" / "config.yaml").data.class_names == ("cats", "dogs", "owls")
    sample = ["sample", "--checkpoint", str(place / "run"), "--device", "CPU", "--mode", "pynative", "--steps", "1"]
    grid, out = tmp_path / "a" / "grid.png", tmp_path / "b" / "x.npz"
    assert main([*sample, "-n", "5", "--classes", "owls", "0", "none", "1", "--npz", str(out), "--out", str(grid)]) == 0
    drawn = np.load(out)
    assert drawn["labels"].tolist() == [2, 0, 3, 1, 2] and drawn["class_names"].tolist() == ["cats", "dogs", "owls"]
    width, height = Image.open(grid).size
    assert height > 2 / 3 * width + 20  # of three columns and two rows, with captions
    assert main([*sample, "-n", "2", "--npz", str(out), "--out", str(grid)]) == 0
    assert np.load(out)["labels"].tolist() == [0, 1]
    assert main(["report", str(place / "run"), "--out", str(tmp_path / "c" / "x.html")]) == 0
    assert "; 3 classes: cats, dogs, owls;" in (tmp_path / "c" / "x.html").read_text()


@pytest.mark.parametrize("command", [["sample"], ["evaluate"], ["visualize", "reverse"], ["visualize", "nearest"]])
@pytest.mark.parametrize(("word", "near"), [("5", ""), ("cat", ", did you mean 'cats'?")])
def test_a_class_that_is_none_is_told_the_names(photos, monkeypatch, tmp_path, capsys, command, word, near):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--checkpoint", str(photos[0] / "run"), "--device", "CPU", "--classes", "dogs", word, "--out", "x/y"
                 + (".gif" if "reverse" in command else ".png")][:None if command != ["evaluate"] else -2]) == 2
    allowed = "cats (0), dogs (1), owls (2), or none (no class)"
    assert capsys.readouterr().err.strip().endswith(f"ddpm-ms: --classes is '{word}', allowed: {allowed}{near}")
    assert not list(tmp_path.iterdir())


def test_a_run_does_not_go_on_with_other_classes(photos, capsys):
    place, words = photos
    (place / "photos" / "dogs").rename(place / "photos" / "bats")
    try:
        assert main(words) == 2
    finally:
        (place / "photos" / "bats").rename(place / "photos" / "dogs")
    assert "data.class_names: ['cats', 'dogs', 'owls'] -> ['bats', 'cats', 'owls']" in capsys.readouterr().err


def test_a_class_by_name_comes_before_a_class_by_number():
    def asked(*words, count=3, **data):
        return asked_classes(SimpleNamespace(classes=words), SimpleNamespace(num_classes=count), Config(data=DataConfig(**data)))

    assert asked("2", "10", "0", "none", "1", class_names=["10", "2", "none"]) == [1, 0, 0, 2, 1]
    assert asked("none", "3", "2") == [3, 3, 2]  # of a run that was made before names were recorded
    assert asked("cat", "1", "2", class_names=["cat"]) == [0, 1, 2]
    with pytest.raises(InputError, match=r"--classes is '0', allowed with a network that is not class-conditional: nothing"):
        asked("0", count=None)


def test_an_unknown_weight_or_objective_names_the_known_ones(tmp_path, capsys):
    for override, message in (("diffusion.loss_weight=snr5", "snr, none, p2, min_snr, soft_min_snr, truncated_snr"),
                              ("diffusion.objective=score", "pred_noise, pred_x0, pred_v"),
                              ("training.timestep_sampling=x", "uniform, antithetic, stratified, log_normal, loss_second_moment"),
                              ("diffusion.betas=[0.1]", "there are 1 betas, allowed with timesteps=20")):
        assert main([*map(str, train_arguments(tmp_path / "r", override))]) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_interruption_is_one_line(monkeypatch, capsys, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddpm_ms.cli.data.load_config", interrupt)
    assert main(["data", "inspect", "c.yaml", "--out", str(tmp_path / "x.png")]) == 130
    assert capsys.readouterr().err == "ddpm-ms: interrupted\n"


def test_nearest_images_are_looked_for_among_those_that_were_trained_on(monkeypatch, tmp_path):
    class Found(Exception):
        pass

    def look(images, dataset, **_):
        raise Found(len(dataset))

    config = load_config(ROOT / "configs" / "digits.yaml", ["training.validation_images=97"])
    loaded = SimpleNamespace(rank=0), SimpleNamespace(pipeline=None, num_classes=10), SimpleNamespace(config=config)
    monkeypatch.setattr("ddpm_ms.cli.visualize.load", lambda _: loaded)
    monkeypatch.setattr("ddpm_ms.cli.visualize.draw", lambda *_: SimpleNamespace(images=np.zeros((2, 1, 8, 8), np.float32)))
    monkeypatch.setattr("ddpm_ms.evaluation.evaluate_nearest", look)
    with pytest.raises(Found, match=r"^1700$"):
        main(["visualize", "nearest", "--checkpoint", "none", "--out", str(tmp_path / "x.png")])


def test_help_names_every_command():
    done = cli("--help")
    assert done.returncode == 0 and all(name in done.stdout for name in ("train", "sample", "evaluate", "visualize"))


def test_importing_starts_nothing():
    code = ("import sys, ddpm_ms, ddpm_ms.config, ddpm_ms.runtime, ddpm_ms.cli, ddpm_ms.errors, ddpm_ms.rng; "
            "print('mindspore' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.strip() == "False", done.stderr


DIGITS, NO_RUN = ROOT / "configs" / "digits.yaml", ROOT / "configs"
REFUSED = {  # "OUT" stands for a path below a folder that is not there
    "train a recipe with a mistake": ["train", "--config", DIGITS, "--run-dir", "OUT/run", "model.dmi=3"],
    "train without its data": ["train", "--config", DIGITS, "--run-dir", "OUT/run", "data.name=image_folder", "data.root=none"],
    "train a batch that the data has not": ["train", "--config", DIGITS, "--run-dir", "OUT/run", *TINY,
                                            "training.train_batch_size=1798"],
    "train as one of several": ["train", "--config", DIGITS, "--run-dir", "OUT/run", "--ranks", 2],
    "rehearse a batch that ranks cannot share": ["train", "--config", DIGITS, "--run-dir", "OUT/run", *TINY, "--device", "CPU",
                                                 "--dry-run", "--ranks", 3],
    "distill no run": ["distill", "--teacher", NO_RUN, "--steps", 4, "--run-dir", "OUT/students"],
    "sample no run": ["sample", "--checkpoint", NO_RUN],
    "sample no run into files": ["sample", "--checkpoint", NO_RUN, "--out", "OUT/a/x.png", "--gif", "OUT/b/x.gif", "--npz",
                                 "OUT/c/x.npz", "--files", "OUT/d"],
    "sample with a mistake": ["sample", "--checkpoint", "RUN", "--steps", 99, "--out", "OUT/a/x.png", "--files", "OUT/d"],
    "sample a class that is none": ["sample", "--checkpoint", "RUN", "--classes", "horses", "--npz", "OUT/x.npz"],
    "redraw no image": ["sample", "--checkpoint", "RUN", "--init-image", "none.png", "--out", "OUT/x.png"],
    "evaluate no run": ["evaluate", "--checkpoint", NO_RUN],
    # What launch finds by a rehearsal is in test_distributed.py.
    "launch with no such master": ["launch", "--nodes", 2, "--master", "a..b:8118", "train", "--config", DIGITS,
                                   "--run-dir", "OUT/run"],
    "launch sampling of no run": ["launch", "--ranks", 2, "sample", "--checkpoint", NO_RUN],
    "launch evaluation of no run": ["launch", "--ranks", 2, "evaluate", "--checkpoint", NO_RUN],
    "benchmark nothing": ["benchmark", "--repeats", 0, "--operators", "OUT/profile"],
    "draw a step that is none": ["visualize", "forward", "--config", DIGITS, "--steps", 1000, "--out", "OUT/x.png"],
    "draw an image that is none": ["visualize", "forward", "--config", DIGITS, "--index", 1797, "--out", "OUT/x.png"],
    "draw no schedule": ["visualize", "schedules", "--config", DIGITS, "diffusion.loss_weight=x", "--out", "OUT/x.png"],
    "draw the losses of no run": ["visualize", "losses", NO_RUN, "--out", "OUT/x.png"],
    "animate no run": ["visualize", "reverse", "--checkpoint", NO_RUN],
    "animate no run into a file": ["visualize", "reverse", "--checkpoint", NO_RUN, "--out", "OUT/x.gif"],
    "look for copies of no run": ["visualize", "nearest", "--checkpoint", NO_RUN, "--out", "OUT/x.png"],
    "report of no run": ["report", NO_RUN],
    "report of no run into a file": ["report", NO_RUN, "--out", "OUT/x.html"],
    "inspect no recipe": ["data", "inspect", "none.yaml", "--out", "OUT/x.png"],
    "inspect a folder without images": ["data", "inspect", "."],
    "pack a folder without images": ["data", "pack", ".", "OUT/x.mindrecord"],
}


def everything_in(folder):
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_nothing_behind(name, photos, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = [str(word).replace("RUN", str(photos[0] / "run")).replace("OUT", str(tmp_path / "out")) for word in REFUSED[name]]
    before = everything_in(NO_RUN), everything_in(photos[0])
    assert main(words) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1].startswith("ddpm-ms: ")
    assert not list(tmp_path.iterdir()) and before == (everything_in(NO_RUN), everything_in(photos[0]))
