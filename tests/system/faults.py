"""Faults done on purpose to runs of the command line, and what became of them: docs/faults.md is made of it.

    python -m tests.system.faults docs/faults.md

Every campaign returns (what was done, how often, what must come of it) and raises AssertionError if anything else does.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
RECIPE = f"""
base: {ROOT}/configs/digits.yaml
model: {{dim: 8, dim_mults: [1], attn_heads: 1, attn_dim_head: 4, dropout: 0.1, self_condition: true}}
diffusion: {{timesteps: 50}}
training: {{train_batch_size: 4, gradient_accumulate_every: 2, train_num_steps: 200, save_and_sample_every: 5, log_every: 20,
  num_samples: 0}}
"""
KILLS = 20


class Bench:
    """A folder with the recipe, and the run that nobody disturbed, as what every other one must end like."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(RECIPE)
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
        assert self.run("undisturbed").wait() == 0
        self.expected = self.weights("undisturbed")

    def run(self, name: str, *overrides: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "ddpm_ms", "train", "--config", self.recipe, "--device", "CPU",
                   "--run-dir", self.folder / name, *overrides]
        with open(self.folder / f"{name}.log", "a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, cwd=self.folder)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def checkpoints(self, name: str) -> list[Path]:
        return sorted((self.folder / name / "checkpoints").glob("step_*"))

    def weights(self, name: str) -> dict[str, dict[str, np.ndarray]]:
        last = self.checkpoints(name)[-1]
        assert last.name == "step_00000200", f"{name} ended at {last.name}"
        return {path.name: load_file(path) for path in last.glob("*.safetensors")}

    def assert_ends_alike(self, name: str) -> None:
        process = self.run(name)
        assert process.wait() == 0, self.log(name)[-2000:]
        ours = self.weights(name)
        for file, arrays in self.expected.items():
            for key, array in arrays.items():
                assert np.array_equal(ours[file][key], array), f"{name}: {file} {key} differs"

    def wait_for_progress(self, process: subprocess.Popen, name: str, beyond: int) -> None:
        """Until a checkpoint after step ``beyond`` is there."""
        deadline = time.monotonic() + 300
        while not self.checkpoints(name) or int(self.checkpoints(name)[-1].name[5:]) <= beyond:
            assert process.poll() is None and time.monotonic() < deadline, self.log(name)[-2000:]
            time.sleep(0.002)


def sigkill(bench: Bench) -> tuple[str, int, str]:
    """Half of the moments are random, half are inside a save."""
    step, inside = 0, 0
    for number in range(KILLS):
        process = bench.run("sigkill")
        bench.wait_for_progress(process, "sigkill", step)
        if number % 2:
            time.sleep(random.uniform(0, 0.1))
        else:
            partial = bench.folder / "sigkill" / "checkpoints"
            while process.poll() is None and not list(partial.glob(".partial_*")):
                pass
            time.sleep(random.uniform(0, 0.01))
        process.kill()
        process.wait()
        inside += bool(list((bench.folder / "sigkill" / "checkpoints").glob(".partial_*")))
        step = int(bench.checkpoints("sigkill")[-1].name[5:])
        if step >= 195:
            break
    bench.assert_ends_alike("sigkill")
    return f"SIGKILL at a random moment, {inside} of them inside a save", number + 1, (
        "every restart resumed; the end weights, averages and optimizer state equal the undisturbed run's bit for bit")


def sigterm(bench: Bench) -> tuple[str, int, str]:
    step = 0
    for name in ("SIGTERM", "SIGINT", "SIGTERM"):
        process = bench.run("sigterm")
        bench.wait_for_progress(process, "sigterm", step)
        process.send_signal(getattr(signal, name))
        assert process.wait(60) == 0 and "resume with the same command" in bench.log("sigterm")
        step = int(bench.checkpoints("sigterm")[-1].name[5:])
    bench.assert_ends_alike("sigterm")
    return "SIGTERM or SIGINT", 3, "the step finished, its checkpoint was written, status 0; resumed, the same end bit for bit"


def two_signals(bench: Bench) -> tuple[str, int, str]:
    process = bench.run("twice")
    bench.wait_for_progress(process, "twice", 0)
    os.kill(process.pid, signal.SIGSTOP)  # so that both are there before a step can end
    process.send_signal(signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    while "asked to stop" not in bench.log("twice") and process.poll() is None:
        time.sleep(0.001)
    process.wait(60)
    bench.assert_ends_alike("twice")
    return "SIGTERM, SIGSTOP and SIGCONT together", 1, "as after one SIGTERM"


def full_disk(bench: Bench) -> tuple[str, int, str]:
    """A tmpfs that holds three checkpoints, in a user namespace where this user may mount it."""
    bytes_each = sum(p.stat().st_size for p in bench.checkpoints("undisturbed")[-1].iterdir())
    mount = bench.folder / "small"
    mount.mkdir()
    size = int(bytes_each * 3.6)
    script = (f"mount -t tmpfs -o size={size} tmpfs {mount} && {sys.executable} -m ddpm_ms train --config {bench.recipe} "
              f"--device CPU --run-dir {mount}/run training.keep_last=9; status=$?; ls -A {mount}/run/checkpoints; "
              f"cp -r {mount}/run {bench.folder}/roomy; exit $status")
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, env=bench.environment)
    assert done.returncode == 1, done.stderr[-2000:]
    failures = done.stderr.count("trying again at the next")
    assert failures == 2 and "Make room and resume with the same command" in done.stderr, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and ".partial" not in done.stdout
    bench.assert_ends_alike("roomy")
    return "disk full while saving", failures + 1, (
        "twice reported and tried again at the next checkpoint, the third in a row ends the run with status 1; the last good "
        "checkpoint stayed; with room it resumed to the same end bit for bit")


def read_only(bench: Bench) -> tuple[str, int, str]:
    """The checkpoints are a file system of their own, which becomes read-only in mid-training."""
    mount = bench.folder / "locked"
    mount.mkdir()
    checkpoints = f"{mount}/run/checkpoints"
    train = f"{sys.executable} -m ddpm_ms train --config {bench.recipe} --device CPU --run-dir {mount}/run"
    script = (f"mount -t tmpfs tmpfs {mount} && mkdir -p {checkpoints} && mount -t tmpfs tmpfs {checkpoints} && "
              f"({train} & train=$!; until [ -d {checkpoints}/step_00000010 ]; do sleep 0.05; done; "
              f"until mount -o remount,ro {checkpoints} 2>/dev/null; do sleep 0.01; done; "
              f"wait $train; status=$?; cp -r {mount}/run {bench.folder}/writable; exit $status)")
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, env=bench.environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.stderr.count("(Read-only file system)") == 3, done.stderr[-2000:]
    bench.assert_ends_alike("writable")
    return "file system made read-only", 3, "as with a full disk; its copy elsewhere resumed to the same end bit for bit"


def damage(bench: Bench) -> tuple[str, int, str]:
    """Every file of the newest checkpoint, flipped, cut, emptied or gone."""
    tried = 0
    pristine = bench.folder / "undisturbed"
    for file in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"):
        for harm in ("flip", "truncate", "empty", "remove"):
            shutil.rmtree(bench.folder / "damaged", ignore_errors=True)
            shutil.copytree(pristine, bench.folder / "damaged")
            target = bench.checkpoints("damaged")[-1] / file
            data = bytearray(target.read_bytes())
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            if harm == "remove":
                target.unlink()
            else:
                target.write_bytes({"flip": data, "truncate": data[:len(data) // 2], "empty": b""}[harm])
            tried += 1
            (bench.folder / "damaged.log").unlink(missing_ok=True)
            bench.assert_ends_alike("damaged")
            assert "using the one before" in bench.log("damaged"), bench.log("damaged")
    return "bit flipped, file cut, emptied or removed in the newest checkpoint", tried, (
        "found by checksum and named; the checkpoint before was used, to the same end bit for bit")


def diverged(bench: Bench) -> tuple[str, int, str]:
    process = bench.run("diverged", "training.train_lr=1e30", "training.max_grad_norm=0", "training.lr_warmup_steps=0",
                        "training.save_and_sample_every=1000")
    assert process.wait() == 1
    line = bench.log("diverged").strip().splitlines()[-1]
    assert re.search(r"step \d+: the gradient is not finite .* images \d+", line), line
    assert not bench.checkpoints("diverged")
    return "loss not finite", 1, "status 1; the line names the step, the loss scale, the last finite loss and the images"


def broken_image(bench: Bench) -> tuple[str, int, str]:
    images = bench.folder / "images"
    images.mkdir()
    for number in range(40):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)).save(images / f"{number:02d}.png")
    data = ["data.name=image_folder", f"data.root={images}", "model.num_classes=null", "training.train_num_steps=100000",
            "training.save_and_sample_every=50"]
    for policy, status in (("refuse", 2), ("skip", None)):
        name = f"image_{policy}"
        (images / "07.png").write_bytes((images / "08.png").read_bytes())
        process = bench.run(name, *data, f"data.on_error={policy}")
        bench.wait_for_progress(process, name, 0)
        (images / "07.png").write_bytes(b"broken")
        if policy == "refuse":
            assert process.wait(60) == status and "07.png cannot be read" in bench.log(name)
            saved = json.loads((bench.checkpoints(name)[-1] / "state.json").read_text())["step"]
            assert saved % 50, "the steps since the last checkpoint were saved too"
        else:
            bench.wait_for_progress(process, name, int(bench.checkpoints(name)[-1].name[5:]) + 100)
            process.terminate()
            assert process.wait(60) == 0 and "07.png" in bench.log(name)
    return "image broken in mid-training, both data policies", 2, (
        "refuse: a checkpoint, then one line with the file's name and status 2; skip: named once, another image in its place")


def rank_killed(bench: Bench) -> tuple[str, int, str]:
    log = bench.folder / "ranks.txt"
    with log.open("w") as file:
        job = subprocess.Popen(["bash", ROOT / "scripts" / "run_distribute_train.sh", "CPU", "2", bench.recipe, "--run-dir",
                                bench.folder / "ranks", "training.train_num_steps=1000000", "training.lr_schedule=constant"],
                               stdout=file, stderr=file, env=bench.environment, start_new_session=True)
    deadline = time.monotonic() + 300
    while "step 20/" not in log.read_text():
        assert job.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    command = ["pgrep", "-f", f"^[^ ]+ -m ddpm_ms train.*{bench.folder}/ranks"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.split()
    victim = next(pid for pid in found if {"RANK_ID=1", "MS_ROLE=MS_WORKER"} <= set(
        Path(f"/proc/{pid}/environ").read_text().split("\0")))
    os.kill(int(victim), signal.SIGKILL)
    began = time.monotonic()
    assert job.wait(60) == 137 and "rank 1 failed with status 137" in log.read_text()
    return "one of two ranks killed", 1, f"the job ended {time.monotonic() - began:.0f} s later with its status and log named"


CAMPAIGNS = (sigkill, sigterm, two_signals, full_disk, read_only, damage, diverged, broken_image, rank_killed)


def main(document: str) -> None:
    """Run every campaign and write the table."""
    with tempfile.TemporaryDirectory(prefix="ddpm_ms_faults_") as folder:
        bench = Bench(Path(folder))
        rows = []
        for campaign in CAMPAIGNS:
            rows.append("| {} | {} | {} |".format(*campaign(bench)))
            print(rows[-1], flush=True)
    text = Path(document).read_text(encoding="utf-8") if Path(document).is_file() else ""
    head = text.split("| fault |")[0]
    Path(document).write_text(head + "\n".join(["| fault | times | what became of it |", "| --- | --- | --- |", *rows]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
