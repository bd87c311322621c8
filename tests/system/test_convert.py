"""A file of another project becomes a run, and every command takes it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_ms.cli import main

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "golden" / "lucidrains_trainer.pt"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The run that the command line makes of what denoising-diffusion-pytorch's Trainer saved."""
    run = tmp_path_factory.mktemp("converted") / "new" / "run"
    done = subprocess.run([sys.executable, "-m", "ddpm_ms", "convert", SOURCE, run, "--raw", "data.image_size=8"],
                          capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return run, done.stderr


def test_convert_tells_what_it_took_for_granted_and_what_it_made(converted):
    run, told = converted
    assert re.search(rf"{run} holds the weights of {SOURCE}: \d+ tensors of denoising-diffusion-pytorch\n", told)
    assert "model.sinusoidal_pos_emb_theta is taken as 10000" in told
    assert {path.name for path in run.iterdir()} == {"config.yaml", "environment.json", "events.jsonl", "checkpoints"}


def test_it_is_sampled_and_reported(converted, tmp_path, without_graphs):
    run, _ = converted
    assert main(["sample", "--checkpoint", str(run), "--steps", "2", "--num-images", "2", "--mode", "pynative", "--out",
                 str(tmp_path / "samples.png")]) == 0
    assert (tmp_path / "samples.png").is_file()
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Trained by" in page and "denoising-diffusion-pytorch" in page and "<h2>Curves</h2>" not in page


def test_a_run_begins_with_it_but_it_is_not_trained_in_place(converted, tmp_path, capfd, without_graphs):
    run, _ = converted
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((run / "config.yaml").read_text())
    changes = ["--mode", "pynative", "--device", "CPU", "data.name=digits", "training.train_batch_size=4",
               "training.num_samples=0", "training.train_num_steps=1"]
    assert main(["train", "--config", str(recipe), "--run-dir", str(run), *changes]) == 2
    assert re.search("weights that were converted, and no state of an optimizer, allowed: another --run-dir, with init=.*run\n",
                     capfd.readouterr().err)
    assert main(["train", "--config", str(recipe), "--run-dir", str(tmp_path / "on"), *changes, f"init={run}"]) == 0
    events = [json.loads(line) for line in (tmp_path / "on" / "events.jsonl").read_text().splitlines()]
    begun, = (event for event in events if event["event"] == "initialised")
    assert begun["checkpoint"].startswith(str(run))


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capfd):
    run = tmp_path / "run"
    for arguments, message in (
            ([tmp_path / "none", run], "source .*none does not exist, allowed: a folder of diffusers, or a file of"),
            ([SOURCE, run], "does not say data.image_size, allowed"),
            ([SOURCE, tmp_path, "data.image_size=8"], "exists, allowed: a new"),
            ([SOURCE, run, "--raw", "data.image_size=8", "model.dim=8"], r"does not fit the network: .* is .* here and .* there"),
            ([SOURCE, run, "--config", "nowhere.yaml", "data.image_size=8"], "config nowhere.yaml: No such file")):
        assert main(["convert", *map(str, arguments)]) == 2
        error = capfd.readouterr().err
        assert re.search(message, error) and error.count("ddpm-ms: ") == 1 and error.rstrip().count("\n") <= 2, error
    assert not list(tmp_path.iterdir())


def test_overrides_are_read_behind_options_and_strays_are_not(tmp_path, capfd):
    with pytest.raises(SystemExit):
        main(["convert", str(SOURCE), str(tmp_path / "run"), "--raw", "data.image_size=8", "--nonsense=1"])
    assert "unrecognized arguments" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["report", "run", "stray=1"])
