"""Train this package and denoising-diffusion-pytorch on the same images, at once, a core each, and judge what both draw.

    python scripts/quality_vs_torch.py train DATA SEED --peer-python PYTHON [--root FOLDER]
    python scripts/quality_vs_torch.py judge DATA SEED
    python scripts/quality_vs_torch.py table

`scripts/quality_vs_torch.sh` does all of it. What is there is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil  # which MindSpore depends on
from ablate import spread

ROOT = Path(__file__).parents[1]
RECIPES = {"digits": "digits_unconditional.yaml", "fashion_mnist": "fashion_mnist_cpu.yaml"}
# The peer's. On Fashion-MNIST it is half of the recipe's: raw weights drew worse with more (ours, at 8x8 pixels, one seed:
# docs/quality.md). No other rate was tried on the peer.
PEER_RATES = {"digits": 1e-3, "fashion_mnist": 5e-4}
STEPS, BATCH = 1500, 256  # of training; images per network evaluation
LONGEST = 1_000_000  # steps, of a run that is to be stopped
ROWS = {  # who: (which weights, how they were come by)
    "peer, raw": ("peer", "raw"), "peer, averaged": ("peer", "averaged"),
    "ours, raw": ("equal steps", "raw"), "ours, averaged": ("equal steps", "averaged"),
    "ours, raw, equal time": ("equal time", "raw"), "ours, averaged, equal time": ("equal time", "averaged"),
}


class Side:
    """A process that is kept to one core."""

    def __init__(self, command: list, log: Path, core: int) -> None:
        # Here MindSpore has been imported, which would limit what is started to one thread in any case.
        self.process = psutil.Popen(["taskset", "-c", str(core), *map(str, command)], stdout=log.open("w"),
                                    stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """How long it has had the core; other work on the machine hardly changes it. Of one that has ended: as last asked."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seconds = sum(self.process.cpu_times()[:2])
        return self._seconds

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def pause(self, wanted: bool) -> None:
        """Keep it from running, or let it run on."""
        with contextlib.suppress(psutil.NoSuchProcess):
            (self.process.suspend if wanted else self.process.resume)()

    def end(self) -> None:
        """Ask it to stop, and wait until it has."""
        if self.runs:
            self.pause(False)
            self.process.terminate()
            self.process.wait()


def train(data: str, seed: int, out: Path, peer_python: str, root: str | None) -> None:
    """Train the peer for `STEPS`, and this package until it has had as many steps, and as much of a core's time."""
    folder = out / data / str(seed)
    if (folder / "times.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # half a comparison
    folder.mkdir(parents=True)
    config, overrides = recipe(data, root)
    images(config, out / data)
    c, m = config.training, config.model
    work = [m.dim, ",".join(map(str, m.dim_mults)), c.train_batch_size, PEER_RATES[data], STEPS, seed]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("one core, needed: one for each side")
    peer = Side([peer_python, ROOT / "scripts" / "quality_peer.py", out / data / "images.npz", folder / "peer.npz", *work],
                folder / "peer.log", cores[0])
    ours = Side([sys.executable, "-m", "ddpm_ms", "train", "--config", ROOT / "configs" / RECIPES[data], "--run-dir",
                 folder / "ours", *overrides, f"training.seed={seed}", f"training.train_num_steps={LONGEST}",
                 "training.num_samples=0", f"training.save_and_sample_every={STEPS}", "training.keep_last=99"],
                folder / "ours.log", cores[1])
    times = {}
    try:
        while peer.runs or "equal steps" not in times or ours.seconds < peer.seconds:
            if not ours.runs:
                sys.exit(f"training failed: {folder / 'ours.log'}")
            if peer.process.poll():
                sys.exit(f"the peer failed: {folder / 'peer.log'}")
            time.sleep(0.5)
            times["peer"] = peer.seconds
            ours.pause(peer.runs and ours.seconds > peer.seconds)  # where other work slowed the peer more
            if at_step(folder):
                times.setdefault("equal steps", ours.seconds)
        times["equal time"] = ours.seconds
    finally:
        for side in (peer, ours):
            side.end()
    (folder / "times.json").write_text(json.dumps(times))


def at_step(folder: Path) -> bool:
    return (folder / "ours" / "checkpoints" / f"step_{STEPS:08d}").is_dir()


def recipe(data: str, root: str | None):
    """(the recipe of ``data``, the overrides that make it so)."""
    from ddpm_ms.config import load_config

    overrides = [f"data.root={root}"] if root and data != "digits" else []
    return load_config(ROOT / "configs" / RECIPES[data], overrides), overrides


def images(config, folder: Path) -> None:
    """The training images for the peer: uint8 (N, C, H, W)."""
    from ddpm_ms.data import create_dataset

    path = folder / "images.npz"
    if not path.exists():
        dataset = create_dataset(config.data)
        np.savez(path, images=np.round(dataset.load(range(len(dataset))) * 255).astype(np.uint8))


def judge(data: str, seed: int, out: Path, count: int) -> None:
    """Draw ``count`` images with the same sampler from every set of weights, and write what the classifier says of them."""
    folder = out / data / str(seed)
    from ddpm_ms import visual
    from ddpm_ms.evaluation import classifier_judge

    judged = None
    for name, weights in ROWS.items():
        path = row_file(folder, name, count)
        if path.exists():
            continue
        diffusion, config, step = load(folder, *weights)
        drawn = np.concatenate([diffusion.sample(BATCH, first_index=first, seed=1, sampler="ddim", steps=50)
                                for first in range(0, count, BATCH)])[:count]
        judged = judged or classifier_judge(config.data)
        report = judged.report(drawn)
        visual.save_grid(drawn[:64], path.with_suffix(".png"))
        row = {"step": step, "recognised": report.confident, "distance": report.distance,
               "real": [report.real_confident, report.real_distance, report.real]}
        path.write_text(json.dumps(row))
        print(data, seed, name, json.dumps(row), flush=True)


def row_file(folder: Path, name: str, count: int) -> Path:
    return folder / f"{name.replace(', ', '_').replace(' ', '_')}_{count}.json"


def load(folder: Path, which: str, kind: str):
    """(diffusion, recipe, step) of one row. The peer's weights are drawn from by this package's sampler: with the same weights
    both draw the same images (tests/golden)."""
    import mindspore as ms

    from ddpm_ms.checkpoints import checkpoint, load_diffusion
    from ddpm_ms.interop import unet_from_lucidrains

    run = folder / "ours"
    newest = checkpoint.in_run(run)[0]
    path = newest if which == "equal time" else newest.with_name(f"step_{STEPS:08d}")
    diffusion, found = load_diffusion(path, ema=kind == "averaged")
    if which != "peer":
        return diffusion, found.config, found.step
    with np.load(folder / "peer.npz") as arrays:
        theirs = unet_from_lucidrains({name.split("/", 1)[1]: arrays[name] for name in arrays if name.startswith(kind)})
    for name, parameter in diffusion.model.parameters_and_names():
        parameter.set_data(ms.Tensor(theirs.pop(name).reshape(parameter.shape)))
    if theirs:
        sys.exit(f"the peer's network has more than ours: {', '.join(theirs)}")
    return diffusion, found.config, STEPS


def table(out: Path, count: int) -> None:
    """Print a Markdown table per data set: mean over the seeds, and half the range."""
    for data in RECIPES:
        folders = [path.parent for path in sorted((out / data).glob("*/times.json"))]
        times = [json.loads((folder / "times.json").read_text()) for folder in folders]
        files = {name: [row_file(folder, name, count) for folder in folders] for name in ROWS}
        rows = {name: [json.loads(path.read_text()) for path in paths if path.exists()] for name, paths in files.items()}
        if not any(rows.values()):
            continue
        recognised, real_distance, real = np.mean([row["real"] for row in rows["peer, raw"]], 0)
        print(f"### {data}\n\n{count} images of each, {len(folders)} seed(s). {real:.0f} real images: {recognised:.0%} "
              f"recognised, distance {real_distance:.2f}.\n")
        print("| | steps | seconds of a core | recognised | distance |\n| --- | --- | --- | --- | --- |")
        for name, found in rows.items():
            cells = [spread([time[ROWS[name][0]] for time in times], "{:.0f}")]
            cells += [spread([row[what] for row in found], style)
                      for what, style in (("recognised", "{:.0%}"), ("distance", "{:.2f}"))]
            print(f"| {name} | {spread([row['step'] for row in found], '{:.0f}')} | {' | '.join(cells)} |")
        mean = {name: {what: np.mean([row[what] for row in found]) for what in ("recognised", "distance")}
                for name, found in rows.items()}
        nearest = min(mean[name]["distance"] for name in ROWS if name.startswith("peer"))
        surest = max(mean[name]["recognised"] for name in ROWS if name.startswith("peer"))
        for name in ("ours, averaged", "ours, averaged, equal time"):
            print(f"\n{name}: {mean[name]['distance'] / nearest:.2f} of the peer's best distance, "
                  f"{mean[name]['recognised'] / surest:.2f} times its best share")
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--images", type=int, default=2048)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("train", "judge"):
        command = commands.add_parser(name)
        command.add_argument("data", choices=RECIPES)
        command.add_argument("seed", type=int)
        if name == "train":
            command.add_argument("--peer-python", required=True)
            command.add_argument("--root")
    commands.add_parser("table")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    if arguments.command == "train":
        train(arguments.data, arguments.seed, arguments.out, arguments.peer_python, arguments.root)
    elif arguments.command == "judge":
        judge(arguments.data, arguments.seed, arguments.out, arguments.images)
    else:
        table(arguments.out, arguments.images)


if __name__ == "__main__":
    main()
