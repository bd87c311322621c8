"""Several ranks on one machine, started by the scripts as a user starts them: the numbers are those of one process."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ddpm_ms.launch.job import free_port
from ddpm_ms.visual.runs import read_measurements, read_metrics

ROOT = Path(__file__).parents[2]
TRAIN_ALONE, TRAIN, SAMPLE, EVALUATE = (
    ROOT / "scripts" / f"run_{name}.sh" for name in ("standalone_train", "distribute_train", "sample", "eval"))
RECIPE = f"""
base: {ROOT}/configs/digits.yaml
runtime: {{compile_cache: false}}
model: {{dim: 8, dim_mults: [1], attn_heads: 1, attn_dim_head: 4, dropout: 0.1}}
diffusion: {{timesteps: 50}}
training: {{train_batch_size: 8, train_num_steps: 20, save_and_sample_every: 10, log_every: 5, num_samples: 6}}
sampling: {{steps: 5}}
evaluation: {{every: 10, images: 16, metric: [fid, kid, recall], features: digits}}
"""


def bash(script, *arguments, **options):
    return subprocess.Popen(["bash", str(script), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True, **options)


def finish(process, timeout=500):
    output, _ = process.communicate(timeout=timeout)
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with a space in its name, with the recipe and the run of one process."""
    folder = tmp_path_factory.mktemp("with a space")
    (folder / "recipe.yaml").write_text(RECIPE)
    output = finish(bash(TRAIN_ALONE, "CPU", folder / "recipe.yaml", "--run-dir", folder / "alone"))
    assert "is finished: 20 of 20 steps" in output
    return folder


def weights(run, name="model"):
    arrays = load_file(run / "checkpoints" / "step_00000020" / f"{name}.safetensors")
    return np.concatenate([arrays[key].astype(np.float64).ravel() for key in sorted(arrays)])


def assert_same_run(run, alone):
    for name in ("model", "ema", "optimizer"):
        ours, theirs = weights(run, name), weights(alone, name)
        assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs), name
    losses = [[row["loss"] for row in read_metrics(path)] for path in (run, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    measured = [[[row[name] for name in ("step", "fid", "kid", "recall")] for row in read_measurements(path)]
                for path in (run, alone)]
    assert [row[0] for row in measured[0]] == [10, 20]
    np.testing.assert_allclose(*measured, rtol=1e-2, atol=1e-4)  # some pixels are rounded otherwise
    grids = [np.asarray(Image.open(path / "samples" / "step_00000020.png")).astype(int) for path in (run, alone)]
    assert np.abs(grids[0] - grids[1]).max() <= 1


def train(folder, ranks, run, *arguments):
    output = finish(bash(TRAIN, "CPU", ranks, folder / "recipe.yaml", "--run-dir", folder / run, *arguments))
    assert "is finished" in output, output
    assert len(list((folder / run / "logs").glob("worker_*.log"))) == ranks
    return output


def test_two_ranks_compute_what_one_process_computes(folder):
    output = train(folder, 2, "two")
    assert_same_run(folder / "two", folder / "alone")
    assert output.count("step 20/20  loss") == output.count("step 20/20  fid") == 1  # rank 0's log, live, and no other


@pytest.mark.slow
def test_four_ranks_compute_what_one_process_computes(folder):
    train(folder, 4, "four")
    assert_same_run(folder / "four", folder / "alone")


@pytest.mark.slow
def test_a_run_of_two_ranks_resumes_alone_and_the_other_way_round(folder):
    train(folder, 2, "moved", "training.train_num_steps=10", "training.lr_schedule=constant")
    finish(bash(TRAIN_ALONE, "CPU", folder / "recipe.yaml", "--run-dir", folder / "moved", "training.train_num_steps=15",
                "training.lr_schedule=constant"))
    output = train(folder, 2, "moved", "training.lr_schedule=constant")
    assert "at step 15" in output
    finish(bash(TRAIN_ALONE, "CPU", folder / "recipe.yaml", "--run-dir", folder / "stayed", "training.lr_schedule=constant"))
    ours, theirs = weights(folder / "moved"), weights(folder / "stayed")
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


@pytest.mark.slow
def test_two_nodes_are_one_job(folder):
    port = free_port()
    nodes = [bash(TRAIN, "CPU", 1, folder / "recipe.yaml", "--run-dir", folder / "nodes" if k == 0 else folder / "elsewhere",
                  "--nodes", 2, "--node-rank", k, "--master", f"127.0.0.1:{port}") for k in range(2)]
    outputs = [finish(node) for node in nodes]
    # On one machine the address of node 0 is local to both, so each msrun starts a scheduler, and one finds its port taken.
    assert 0 in [node.returncode for node in nodes], outputs
    for output in outputs:
        assert "is finished: 20 of 20 steps" in output and not re.search(r"rank \d+ failed", output), outputs
    assert_same_run(folder / "nodes", folder / "alone")
    # Only rank 0 writes the run: no shared file system is needed.
    assert [p.name for p in (folder / "elsewhere").iterdir()] == ["logs"]


@pytest.mark.slow
def test_samples_are_the_same_on_two_ranks(folder):
    for ranks in (1, 2):
        process = bash(SAMPLE, "CPU", ranks, folder / "alone", "-n", 5, "--batch-size", 2, "--npz", folder / f"{ranks}.npz",
                       "--out", folder / f"{ranks}.png")
        output = finish(process)
        assert process.returncode == 0, output
    one, two = (np.load(folder / f"{ranks}.npz")["images"].astype(int) for ranks in (1, 2))
    assert one.shape == two.shape == (5, 8, 8, 1) and np.abs(one - two).max() <= 1


@pytest.mark.slow
def test_numbers_of_a_comparison_are_the_same_on_two_ranks(folder):
    def scores(ranks):
        process = bash(EVALUATE, "CPU", ranks, folder / "alone", "--metric", "fid", "kid", "is", "recall", "--features", "digits",
                       "-n", 40, "--batch-size", 8)
        output = finish(process)
        assert process.returncode == 0, output
        row = json.loads((folder / "alone" / "evaluations.jsonl").read_text().splitlines()[-1])
        return [number for score in row["scores"].values() for number in score.values() if number is not None]

    two = scores(2)
    assert scores(1) == pytest.approx(two, rel=1e-9)  # of the images that two ranks have drawn
    shutil.rmtree(folder / "alone" / "evaluations")
    assert scores(1) == pytest.approx(two, rel=1e-2)  # some pixels of those that one process draws are rounded otherwise


def start_and_wait(folder, run):
    """A job of two ranks that would take hours, once it is training; and its workers' process numbers by rank."""
    log = open(folder / f"{run}.txt", "w+")  # noqa: SIM115
    process = subprocess.Popen(["bash", TRAIN, "CPU", "2", folder / "recipe.yaml", "--run-dir", folder / run,
                                "training.train_num_steps=1000000", "training.lr_schedule=constant", "training.num_samples=0"],
                               stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 400
    while "step 10/" not in Path(log.name).read_text():
        assert process.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
        time.sleep(0.2)
    return process, Path(log.name)


def workers(run):
    """Process number of each rank, and of the scheduler, of the job that writes ``run``."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_text()
            variables = (directory / "environ").read_text().split("\0")
        except OSError:
            continue
        if str(run) in command and "rank.py" not in command:  # which stands beside each of them
            role = next((v for v in variables if v.startswith("MS_ROLE=")), "")
            rank = next((v.removeprefix("RANK_ID=") for v in variables if v.startswith("RANK_ID=")), "?")
            if role == "MS_ROLE=MS_WORKER":
                found[rank] = int(directory.name)
            elif role:
                found[role] = int(directory.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_the_script_stops_every_rank_after_a_checkpoint(folder, name):
    run = name.removeprefix("SIG")  # of which the log speaks
    process, log = start_and_wait(folder, run)
    os.kill(process.pid, getattr(signal, name))
    assert process.wait(timeout=60) == 0
    step = int(re.search(r"stopped at step (\d+) of", log.read_text()).group(1))
    assert "SIG" not in log.read_text()  # the launcher passes one signal on as another
    assert json.loads((folder / run / "events.jsonl").read_text().splitlines()[-1])["by"] == "a signal to the job"
    newest = max((folder / run / "checkpoints").iterdir())
    assert newest.name == f"step_{step:08d}" and not workers(folder / run)


@pytest.mark.slow
def test_a_second_signal_kills_and_leaves_no_half_checkpoint(folder):
    process, _ = start_and_wait(folder, "twice")
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.7)  # sooner it would be the same request
    process.wait(timeout=60)
    assert not workers(folder / "twice")
    assert all((path / "state.json").is_file() for path in (folder / "twice" / "checkpoints").glob("step_*"))


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_within_a_minute_and_is_named(folder):
    process, log = start_and_wait(folder, "dies")
    os.kill(workers(folder / "dies")["1"], signal.SIGKILL)
    assert process.wait(timeout=60) == 128 + signal.SIGKILL
    assert "rank 1 failed with status 137; its log: " in log.read_text() and "worker_1.log" in log.read_text()
    assert not workers(folder / "dies")


def test_a_mistake_is_found_before_any_rank_is_started(folder):
    process = bash(TRAIN, "CPU", 2, folder / "recipe.yaml", "--run-dir", folder / "none", "model.dmi=3")
    output = finish(process)
    assert process.returncode == 2 and "unknown key 'model.dmi', did you mean 'model.dim'?" in output
    assert not (folder / "none").exists()


def test_a_batch_that_the_ranks_cannot_share_is_refused_before_any_is_started(folder):
    process = bash(TRAIN, "CPU", 2, folder / "recipe.yaml", "--run-dir", folder / "odd", "training.train_batch_size=7")
    output = finish(process)
    message = "ddpm-ms: training.train_batch_size is 7, allowed on 2 devices, which share it: multiples of 2\n"
    assert process.returncode == 2 and output.endswith(message) and output.count("train_batch_size") == 1
    assert not (folder / "odd").exists()


@pytest.mark.slow
def test_a_mistake_that_only_the_ranks_can_see_is_theirs_and_said_once(folder):
    process = bash(TRAIN, "CPU", 2, folder / "recipe.yaml", "--run-dir", folder / "odd", "training.train_batch_size=1798")
    output = finish(process)
    assert process.returncode == 2 and output.count("allowed: at most the 1797 of the data set") == 1
    assert re.search(r"rank [01] failed with status 2", output)


@pytest.mark.parametrize(("arguments", "message"), [
    (["NPU", 2, "CONFIG"], "run_distribute_train.sh: DEVICE is 'NPU', allowed: auto, Ascend, GPU, CPU"),
    (["CPU", "two", "CONFIG"], "run_distribute_train.sh: NUM_DEVICES is 'two', allowed: a number from 1"),
    (["CPU", 2, "none.yaml"], "run_distribute_train.sh: CONFIG is 'none.yaml', allowed: a YAML file, or the name of a recipe "
     "that ships"),
    (["CPU", 2, "CONFIG", "--nodes"], "run_distribute_train.sh: --nodes has no value"),
    (["CPU", 2, "CONFIG", "--nodes", 2], "ddpm-ms: --master is '', allowed with several nodes: HOST:PORT"),
    (["CPU", 2, "CONFIG", "--nodes", 2, "--node-rank", 2], "ddpm-ms: --node-rank is 2, allowed: 0 to 1"),
    (["Ascend", 4, "CONFIG"], "ddpm-ms: --ranks is 4, allowed with the visible devices 0,1: at most 2"),
    (["CPU", 2, "CONFIG", "--rank-table", "none.json"], "ddpm-ms: --rank-table is 'none.json', allowed: a file"),
])
def test_a_wrong_argument_of_the_launcher_is_one_line(folder, arguments, message):
    arguments = [folder / "recipe.yaml" if a == "CONFIG" else a for a in arguments]
    process = bash(TRAIN, *arguments, env={**os.environ, "ASCEND_RT_VISIBLE_DEVICES": "0,1"})
    output = finish(process)
    assert process.returncode == 2 and output.strip() == message


def test_a_device_that_is_not_there_is_refused_before_any_rank_is_started(folder):
    for script, *arguments in ((TRAIN, folder / "recipe.yaml", f"--run-dir={folder / 'none'}"), (SAMPLE, folder / "alone")):
        process = bash(script, "Ascend", 2, *arguments)
        output = finish(process)
        assert process.returncode == 2 and "Ascend cannot start" in output and "CANN" in output
    assert not (folder / "none").exists() and not (folder / "alone" / "sample_logs").exists()
