"""The recipes that come with the package: in a checkout, and in what `pip install` makes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_ms.cli import main
from ddpm_ms.config import load_config
from ddpm_ms.config.shipped import about, shipped
from ddpm_ms.errors import InputError

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))


def test_every_recipe_has_a_name_of_its_own_and_says_in_its_first_line_what_it_is(capsys):
    assert sorted(shipped().values()) == FILES and len({path.stem for path in FILES}) == len(FILES)
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped())
    for path in FILES:
        first = about(path)
        assert first.endswith((".", "?", "data.root=FOLDER", "docs/data.md.", "data.root=/path/to/images")), (path, first)


def test_a_recipe_is_found_by_name_and_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # data of one's own, say
    assert load_config("digits", ["training.seed=3"]).training.seed == 3
    assert load_config("s3_digits") == load_config(ROOT / "configs" / "seeds" / "s3_digits.yaml")
    (tmp_path / "mine.yaml").write_text("base: digits\nmodel: {dim: 8}")
    assert load_config("mine.yaml").data == load_config("digits").data
    (tmp_path / "cifar10").write_text("model: {dim: 16}")
    assert load_config("cifar10").data.name == "image_folder"


@pytest.mark.parametrize("name", ["digts", "digits.yaml", "configs/digits.yml"])
def test_a_name_that_is_none_is_told_the_nearest(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^config {name}: No such file or directory, did you mean 'digits'\\?$"):
        load_config(name)


def test_an_installed_package_carries_its_recipes(tmp_path):
    pytest.importorskip("setuptools")
    built, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", built],
                   cwd=ROOT, check=True, capture_output=True)
    assert {path.relative_to(built / "ddpm_ms" / "recipes") for path in built.rglob("*.yaml")} == {
        path.relative_to(ROOT / "configs") for path in FILES}
    code = ("from ddpm_ms.config.recipes import _read_tree\nfrom ddpm_ms.config.shipped import shipped\n"  # without a network
            "print(shipped()['s3_digits'], _read_tree(shipped()['s3_digits'])['diffusion']['timesteps'])")
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(built)})
    assert done.stdout.split() == [str(built / "ddpm_ms" / "recipes" / "seeds" / "s3_digits.yaml"), "800"], done.stderr
