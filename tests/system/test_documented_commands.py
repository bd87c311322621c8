"""The commands that the READMEs and the guides show, run as they stand but for names and sizes."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_ms.cli import main

ROOT = Path(__file__).parents[2]
TINY = ["model.dim=8", "model.dim_mults=[1]", "model.attn_heads=1", "model.attn_dim_head=4", "diffusion.timesteps=50",
        "training.train_batch_size=4", "training.num_samples=4", "training.train_num_steps=2"]
# The same for the network of DDPM.
OF_DDPM = [*(word for word in TINY if not word.startswith("model.attn_")), "model.num_res_blocks=1",
           "model.attention_levels=false", "model.norm_groups=8"]

GUIDES = ("README.md", "docs/training.md", "docs/sampling.md", "docs/clusters.md")


def command_lines(document):
    """The lines of the document's shell blocks, without their comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]


def test_both_languages_show_the_same_commands():
    assert command_lines("README.md") == command_lines("README_CN.md")


def test_every_script_and_recipe_that_is_shown_is_there():
    words = {word for document in GUIDES for line in command_lines(document) for word in shlex.split(line)}
    named = {word for word in words if word.startswith(("scripts/", "configs/"))}
    assert len(named) > 5 and all((ROOT / word).is_file() for word in named)


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
    np.save(place / "32x32.npy", np.random.default_rng(0).integers(0, 255, (8, 32, 32), np.uint8))
    (place / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--config", "configs/digits.yaml", "--run-dir", "RUN", "--device", "CPU", *TINY]) == 0
    return place


LINES = list(dict.fromkeys(line for document in GUIDES for line in command_lines(document) if line))
SHOWN = [line for line in LINES if line.startswith("ddpm-ms ") and not line.startswith("ddpm-ms launch")]
# Lines of the shell blocks that are not run here, and why.
ELSEWHERE = {
    "bash scripts/quickstart.sh": "installs from nothing and trains for minutes",
    "bash scripts/run_tests.sh": "runs this very test",
    "source .venv/bin/activate": "is what has been done here",
    "ddpm-ms launch": "is what the scripts call",
    "--nodes 2": "two nodes on one machine are joined in test_distributed.py",
    "sbatch": "needs Slurm",
}
SCRIPTS = [line for line in LINES if line not in SHOWN and not any(k in line for k in ELSEWHERE)]


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


@pytest.mark.slow
def test_the_scripts_that_are_shown_run_with_a_cpu_in_place_of_what_they_name(place):
    assert len(SCRIPTS) == 5
    for line in SCRIPTS:  # one after the other: the last samples what the first has trained
        line = re.sub(r"\b(Ascend|GPU)\b", "CPU", line).replace(" 8 ", " 2 ").replace(" 4 ", " 2 ").replace("50000", "4")
        words = [str(ROOT / word) if word.startswith("scripts/") else word for word in shlex.split(line)]
        if "_train.sh" in words[1]:
            words = [word for word in words if not word.startswith("data.root")]
            words += [*(OF_DDPM if "cifar10" in line else TINY), "data.name=digits", "data.image_size=8", "data.channels=1"]
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
    assert np.load(place / "samples.npz")["images"].shape == (4, 8, 8, 1)


@pytest.mark.slow
def test_the_python_that_is_shown_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    code, = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    for shown, small in (("dim=64, dim_mults=(1, 2, 4, 8)", "dim=8, dim_mults=(1,)"), ("image_size=128", "image_size=8"),
                         ("path/to/images", "images"), ("batch_size=16", "batch_size=4"), ("100_000", "2"), ("50", "2"),
                         ("runs/mine", "runs/python"), ("timesteps=1000", "timesteps=20")):
        assert shown in code
        code = code.replace(shown, small)
    found = {}
    exec(code, found)
    assert found["images"].shape == (16, 3, 8, 8)
