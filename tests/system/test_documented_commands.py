"""The commands that the READMEs show, run as they stand but for names and sizes."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_ms.cli import main

ROOT = Path(__file__).parents[2]
TINY = ["model.dim=8", "model.dim_mults=[1]", "model.attn_heads=1", "model.attn_dim_head=4", "diffusion.timesteps=50",
        "training.train_batch_size=4", "training.num_samples=4", "training.train_num_steps=2"]


def command_lines(document):
    """The lines of the document's shell blocks, without their comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]


def test_both_languages_show_the_same_commands():
    assert command_lines("README.md") == command_lines("README_CN.md")


@pytest.mark.parametrize("line", [line for line in command_lines("README.md") if line.startswith("bash ")])
def test_every_script_that_is_shown_is_there(line):
    words = shlex.split(line)
    assert (ROOT / words[1]).is_file()
    assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with what the commands name: pictures, a mask, the recipes, and a run RUN of labelled digits."""
    place = tmp_path_factory.mktemp("place")
    (place / "images").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(place / "images" / f"{number}.png")
    for name in ("a.png", "b.png", "mask.png"):
        shutil.copy(place / "images" / "0.png", place / name)
    (place / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--config", "configs/digits.yaml", "--run-dir", "RUN", "--device", "CPU", *TINY]) == 0
    return place


SHOWN = [line for line in command_lines("README.md") if line.startswith("ddpm-ms ")]


@pytest.mark.slow
@pytest.mark.parametrize("line", SHOWN)
def test_a_command_that_is_shown_runs(place, line, monkeypatch):
    monkeypatch.chdir(place)
    words = shlex.split(line.replace("/path/to/images", "images").replace("image_size=64", "image_size=8"))[1:]
    if words[0] == "train" or words[0] == "distill":
        words += [word for word in TINY if words[0] == "train" or word.startswith("training.")]
    if words[0] in ("train", "sample", "evaluate", "distill"):
        words += ["--device", "CPU"]
    assert main(words) == 0
