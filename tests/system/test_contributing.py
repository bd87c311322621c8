"""What CONTRIBUTING.md shows is what works: its parts, made known in both ways, in its recipe and by its commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_ms import load_diffusion, parts
from ddpm_ms.cli import main
from ddpm_ms.config import load_config
from ddpm_ms.errors import InputError

ROOT = Path(__file__).parents[2]
TABLES = {"samplers": parts.SAMPLERS, "networks": parts.NETWORKS, "datasets": parts.DATASETS, "loss_weights": parts.LOSS_WEIGHTS,
          "metrics": parts.METRICS}
NAMES = {"samplers": "renoise", "networks": "conv_net", "datasets": "bars", "loss_weights": "debiased", "metrics": "contrast"}


def blocks(language):
    """The page's code blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)


def commands():
    return [shlex.split(line)[1:] for block in blocks("bash") for line in block.splitlines() if line.startswith("ddpm-ms ")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with the files of the page, which is the current one."""
    for block in [*blocks("python"), *blocks("yaml")]:
        (tmp_path / re.match(r"# (\S+)\n", block)[1]).write_text(block)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def registered(place, monkeypatch):
    """`place`, its parts registered in this process until the test ends."""
    for table in TABLES.values():
        monkeypatch.setattr(table, "_parts", dict(table._parts))
    monkeypatch.syspath_prepend(str(place))
    exec((place / "register.py").read_text(), {})
    yield place
    for path in place.glob("my_*.py"):
        sys.modules.pop(path.stem, None)


def check_results(place, printed):
    """What the three commands leave."""
    assert re.search(r"^contrast: \d\.\d{3} \(real images \d\.\d{3}\)$", printed, re.M)
    assert (place / "runs/bars/samples/sample.png").is_file()
    recorded = (place / "runs/bars/config.yaml").read_text()
    assert all(f": {NAMES[kind]}\n" in recorded for kind in ("samplers", "networks", "datasets", "loss_weights"))


def test_parts_that_are_registered_work_in_a_recipe_and_by_command(registered, capsys):
    for words in commands():
        assert main([*words, "--device", "CPU"]) == 0
    check_results(registered, capsys.readouterr().out)
    diffusion, checkpoint = load_diffusion("runs/bars")
    assert type(diffusion.model).__name__ == "ConvNet" and checkpoint.config.model.kernel == 5
    with pytest.raises(InputError, match=r"sampling\.eta is 0\.5, which heun does not take but ddim, renoise, allowed: null"):
        load_config("bars.yaml", ["sampling.sampler=heun", "sampling.eta=0.5"])
    assert main(["train", "--config", "bars.yaml", "--run-dir", "cached", "runtime.compile_cache=true"]) == 2
    assert "compile_cache is True with a network of your own" in capsys.readouterr().err


def test_parts_of_an_installed_package_work_without_an_import(place):
    install(place, "\n".join(blocks("toml")))
    printed = ""
    for words in commands():
        done = subprocess.run([sys.executable, "-m", "ddpm_ms", *words, "--device", "CPU"], capture_output=True, text=True,
                              timeout=300, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(ROOT)])})
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    check_results(place, printed)


def install(place, toml):
    """What pip leaves of a package with these entry points."""
    info = place / "my_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_parts\nVersion: 1.0\n")
    lines = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", toml).replace('"', "")
    (info / "entry_points.txt").write_text(lines)


def test_parts_that_nobody_made_known_are_refused_in_one_line(place):
    with pytest.raises(InputError, match=r"model.name is 'conv_net', allowed: unet, .*ddpm_ms.register_network adds one of"):
        load_config("bars.yaml", ["sampling.sampler=ddim", "data.name=array", "diffusion.loss_weight=snr"])
    with pytest.raises(InputError, match=r"sampling.sampler is 'renoise', allowed: ddpm, ddim, "):
        load_config("bars.yaml", ["data.name=array", "diffusion.loss_weight=snr"])


def test_the_page_names_every_kind_of_part_and_where_it_goes():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:ddpm_ms|tests)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for table in ("SAMPLERS", "NETWORKS", "DATASETS", "LOSS_WEIGHTS", "METRICS"):
        assert f"`{table}`" in text and isinstance(getattr(parts, table), parts.Registry)
