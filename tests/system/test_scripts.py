"""The shell scripts: what can be checked without installing everything again."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted(Path(__file__).parents[2].joinpath("scripts").glob("*.sh"))
STARTED = [s for s in SCRIPTS if s.name != "environment.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_a_script_parses(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0


@pytest.mark.parametrize("script", STARTED, ids=lambda s: s.name)
def test_a_script_is_strict_and_explains_itself(script):
    assert "set -euo pipefail" in script.read_text()
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout


@pytest.mark.parametrize("script", STARTED, ids=lambda s: s.name)
def test_without_a_fitting_python_it_says_what_to_install(script, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "cat", "cksum", "cut"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    (tools / "python3").write_text("#!/usr/bin/bash\nexit 1\n")  # a Python that is too old answers like this
    (tools / "python3").chmod(0o755)
    done = subprocess.run(["/usr/bin/bash", script], capture_output=True, text=True, cwd=tmp_path,
                          env={"PATH": str(tools), "VENV": str(tmp_path / "venv"), "HOME": os.environ.get("HOME", "/")})
    assert done.returncode == 2 and "No Python 3.9 to 3.12" in done.stderr
    assert not (tmp_path / "venv").exists()
