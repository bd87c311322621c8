"""Train small recipes with one choice changed, several seeds each, and say which choice draws better.

    python scripts/ablate.py train DATA VARIANT SEED   one run, to OUT/DATA/VARIANT/SEED.json
    python scripts/ablate.py table                     of all that were run

`scripts/ablate.sh` does all of it. A run that is there is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
IMAGES, BATCH = 512, 256
# Name: (recipe, what is changed in it for every variant). fashion14 is Fashion-MNIST with every 2x2 pixels averaged.
DATA = {
    "digits": ("digits_unconditional.yaml", []),
    "fashion14": ("fashion_mnist_cpu.yaml", ["data.name=npz", "data.image_size=14", "model.dim_mults=[1, 2]"]),
    "fashion_mnist": ("fashion_mnist_cpu.yaml", []),
}
LR = {"digits": 1e-3, "fashion14": 5e-4, "fashion_mnist": 5e-4}
# Group: {variant: overrides}. "{lr2}" is twice the recipe's learning rate. "defaults" is what the package does unasked.
VARIANTS = {
    "defaults": {"defaults": []},
}


def overrides_of(data: str, variant: str) -> list[str]:
    """What ``variant`` changes in the recipe of ``data``."""
    texts = next(group[variant] for group in VARIANTS.values() if variant in group)
    return [text.format(lr2=2 * LR[data], lr4=4 * LR[data], half=LR[data] / 2) for text in texts]


def train(data: str, variant: str, seed: int, out: Path) -> None:
    """One run: train, draw `IMAGES` with the optimizer's weights and with the averaged ones, judge, write the row."""
    row_file = out / data / variant / f"{seed}.json"
    if row_file.exists():
        return
    core = own_core(out)  # noqa: F841  held until this process ends
    from ddpm_ms.cli import main
    from ddpm_ms.cli.evaluate import classifier_judge
    from ddpm_ms.training import load_diffusion

    recipe, changes = DATA[data]
    run = row_file.with_suffix("")
    roots = {"fashion14": out / "fashion14.npz", "fashion_mnist": os.environ.get("FASHION_MNIST")}
    changes = [*changes, *([f"data.root={roots[data]}"] if data in roots else []), "training.num_samples=0",
               "training.save_and_sample_every=100000", f"training.seed={seed}"]
    began = time.perf_counter()
    status = main(["train", "--config", str(ROOT / "configs" / recipe), "--run-dir", str(run), *changes,
                   *overrides_of(data, variant)])
    seconds = time.perf_counter() - began
    if status:
        sys.exit(status)
    row = {"seconds": round(seconds)}
    for name, averaged in (("raw", False), ("averaged", True)):
        diffusion, checkpoint = load_diffusion(run, ema=averaged)
        images = np.concatenate([diffusion.sample(BATCH, first_index=first, seed=1, sampler="ddim", steps=50)
                                 for first in range(0, IMAGES, BATCH)])
        report = classifier_judge(checkpoint.config.data).report(images)
        row[name] = {"recognised": report.confident, "distance": report.distance}
        row["real"] = {"recognised": report.real_confident, "distance": report.real_distance}
    partial = row_file.with_suffix(".partial")
    partial.write_text(json.dumps(row))
    partial.rename(row_file)
    shutil.rmtree(run)
    print(data, variant, seed, json.dumps(row), flush=True)


def own_core(out: Path):
    """Keep this process to one core that no other run has; returns the lock."""
    for core in sorted(os.sched_getaffinity(0)):
        lock = (out / f".core_{core}").open("w")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.sched_setaffinity(0, {core})
            return lock
    return None


def table(out: Path) -> None:
    """Print a Markdown table per data set: mean over the seeds, and half the range."""
    for data in DATA:
        rows = {name: [json.loads(path.read_text()) for path in sorted((out / data / name).glob("*.json"))]
                for group in VARIANTS.values() for name in group}
        rows = {name: found for name, found in rows.items() if found}
        if not rows:
            continue
        real = next(iter(rows.values()))[0]["real"]
        print(f"### {data}\n\nReal images: {real['recognised']:.0%} recognised, distance {real['distance']:.2f}.\n")
        print("| | seeds | raw: recognised | distance | averaged: recognised | distance |\n| --- | --- | --- | --- | --- | --- |")
        for name, found in rows.items():
            cells = [_spread([row[kind][what] for row in found], style) for kind in ("raw", "averaged")
                     for what, style in (("recognised", "{:.0%}"), ("distance", "{:.2f}"))]
            print(f"| {name} | {len(found)} | {' | '.join(cells)} |")
        print()


def _spread(values: list[float], style: str) -> str:
    middle = style.format(float(np.mean(values)))
    return middle if len(values) == 1 else f"{middle} ± {style.format((max(values) - min(values)) / 2)}"


def prepare(fashion: Path, out: Path) -> None:
    """Write fashion14's images."""
    from ddpm_ms.data.idx import load_mnist

    dataset = load_mnist(fashion, "fashion_mnist")
    images = dataset.load(range(len(dataset))).reshape(-1, 14, 2, 14, 2).mean((2, 4))
    np.savez(out / "fashion14.npz", images=images, labels=dataset.labels)


def jobs(names: list[str], seeds: int) -> None:
    """Print "DATA VARIANT SEED" of every run, first seeds first."""
    for seed in range(seeds):
        for group in VARIANTS.values():
            for variant in group:
                for data in names:
                    print(data, variant, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ablate"))
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train")
    one.add_argument("data", choices=DATA)
    one.add_argument("variant")
    one.add_argument("seed", type=int)
    first = commands.add_parser("prepare")
    first.add_argument("fashion", type=Path)
    work = commands.add_parser("jobs")
    work.add_argument("data", nargs="+", choices=DATA)
    work.add_argument("--seeds", type=int, default=3)
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "train":
        train(arguments.data, arguments.variant, arguments.seed, arguments.out)
    elif arguments.command == "prepare":
        prepare(arguments.fashion, arguments.out)
    elif arguments.command == "jobs":
        jobs(arguments.data, arguments.seeds)
    else:
        table(arguments.out)


if __name__ == "__main__":
    main()
