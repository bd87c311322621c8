"""The compile cache with MindSpore's own graphs: a run ends with the same bits whether they were compiled or found."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm_ms import runtime
from ddpm_ms.checkpoints import load_diffusion
from ddpm_ms.visual import to_uint8

ROOT = Path(__file__).parents[2]
TINY = ["model.dim=8", "model.dim_mults=[1]", "diffusion.timesteps=200", "training.train_batch_size=4", "training.log_every=1",
        "training.train_num_steps=3", "training.lr_schedule=constant", "training.validation_images=0"]


@pytest.mark.slow
def test_a_run_ends_with_the_same_bits_with_and_without_the_cache_damaged_or_shared(tmp_path):
    cache = tmp_path / "cache" / "ddpm_ms"
    cache.mkdir(parents=True)
    if (runtime.cache_dir() / "native").is_dir():
        (cache / "native").symlink_to(runtime.cache_dir() / "native")  # compiled once

    def begin(name, *overrides):
        return subprocess.Popen([sys.executable, "-m", "ddpm_ms", "train", "--config", "s4_digits", "--run-dir", tmp_path / name,
                                 *TINY, *overrides], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")})

    def end(process):
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors
        return errors

    assert "compiling (once per start)" in end(begin("without", "runtime.compile_cache=false"))
    both = [begin("one"), begin("other")]
    assert all("compiling (kept for the next start)" in end(process) for process in both)
    entry, = (cache / "graphs").iterdir()
    assert "taking compiled graphs from the cache" in end(begin("found"))
    graph = next(entry.rglob("*.mindir"))
    graph.chmod(0o600)
    graph.write_bytes(graph.read_bytes()[:-100])
    assert "are damaged (a file was altered): compiling them again" in end(begin("damaged"))
    assert "taking compiled graphs from the cache" in end(begin("again", "training.log_every=3"))
    for file in ("model", "ema", "optimizer"):
        bits = {(tmp_path / name / "checkpoints" / "step_00000003" / f"{file}.safetensors").read_bytes()
                for name in ("without", "one", "other", "found", "damaged", "again")}
        assert len(bits) == 1, file


@pytest.mark.slow
def test_samples_are_the_same_whether_the_graph_was_compiled_or_found_and_are_those_of_the_weights(tmp_path, saved_run):
    run = saved_run(tmp_path / "run", ["model.dim=8", "model.dim_mults=[1]", "data.name=digits", "data.image_size=8",
                                       "data.channels=1", "diffusion.timesteps=20", "sampling.sampler=ddim", "sampling.steps=3"])

    def images(*options):
        subprocess.run([sys.executable, "-m", "ddpm_ms", "sample", "--checkpoint", run, "-n", "4", "--device", "CPU", "--npz",
                        tmp_path / "x.npz", *options], cwd=ROOT, check=True, stderr=subprocess.DEVNULL,
                       env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")})
        with np.load(tmp_path / "x.npz") as file:
            return file["images"].tolist()

    assert images() == images()
    assert len(list((tmp_path / "cache" / "ddpm_ms" / "graphs").iterdir())) == 1
    for averaged in (True, False):
        drawn = load_diffusion(run, ema=averaged)[0].sample(4, sampler="ddim", steps=3, seed=0)  # compiled here
        assert images(*[] if averaged else ["--raw"]) == to_uint8(drawn).transpose(0, 2, 3, 1).tolist()
    assert len(list((tmp_path / "cache" / "ddpm_ms" / "graphs").iterdir())) == 1
