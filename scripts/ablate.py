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
LENGTHS = (500, 1500, 5000)  # where the one run of the variant "lengths" is judged
# What is confirmed on the larger images, the most telling first: what the sift on digits, or the field, gives a chance there.
FINALISTS = ("reference", "muon", "muon_lr_double", "lr_double", "lr_double_stratified", "lr_double_betas_0.999",
             "lr_double_cosine", "lr_fourfold_cosine", "weight_none", "objective_noise", "ema_decay_0.995_every_10",
             "objective_x0", "zero_init", "lr_fourfold_warmup", "weight_soft_min_snr_1", "lr_double_soft_min_snr_1",
             "weight_min_snr", "self_condition", "lengths")
# Name: (recipe, what is changed in it for every variant). fashion14 is Fashion-MNIST with every 2x2 pixels averaged: nearly as
# cheap as digits, but far from learned by heart, and large enough to prefer what the full size does.
DATA = {
    "digits": ("digits_unconditional.yaml", ["training.train_num_steps=600"]),
    "fashion14": ("fashion_mnist_cpu.yaml", ["data.name=npz", "data.image_size=14", "model.dim_mults=[1, 2]",
                                             "training.train_num_steps=1000", "training.train_lr=5e-4"]),
    "fashion_mnist": ("fashion_mnist_cpu.yaml", ["training.train_lr=5e-4"]),
}
# What every variant starts from. Written out, so that the rows stay comparable when a default changes.
REFERENCE = ["diffusion.objective=pred_v", "diffusion.beta_schedule=cosine", "diffusion.loss_weight=snr",
             "training.timestep_sampling=uniform", "training.optimizer=adam", "training.lr_schedule=constant",
             "training.lr_warmup_steps=0", "training.adam_betas=[0.9, 0.99]", "training.ema_decay=null",
             "training.ema_sigma_rel=0.1"]


def variants(lr: float, steps: int) -> dict[str, list[str]]:
    """Name to overrides: what differs from `REFERENCE` in a recipe of ``lr`` and ``steps``. Networks of another width get about
    equal time: the column of seconds says how nearly."""
    return {
        "reference": [],
        "weight_none": ["diffusion.loss_weight=none"],
        "weight_min_snr": ["diffusion.loss_weight=min_snr"],
        "weight_soft_min_snr": ["diffusion.loss_weight=soft_min_snr"],
        "weight_soft_min_snr_1": ["diffusion.loss_weight=soft_min_snr", "diffusion.min_snr_gamma=1"],
        "weight_p2_half": ["diffusion.loss_weight=p2", "diffusion.p2_loss_weight_gamma=0.5"],
        "weight_p2": ["diffusion.loss_weight=p2"],
        "objective_noise": ["diffusion.objective=pred_noise"],
        "objective_x0": ["diffusion.objective=pred_x0"],
        "t_antithetic": ["training.timestep_sampling=antithetic"],
        "t_stratified": ["training.timestep_sampling=stratified"],
        "t_log_normal": ["training.timestep_sampling=log_normal", "diffusion.loss_weight=none"],
        "lr_half": [f"training.train_lr={lr / 2}"],
        "lr_double": [f"training.train_lr={lr * 2}"],
        "lr_cosine": ["training.lr_schedule=cosine"],
        "lr_double_cosine": [f"training.train_lr={lr * 2}", "training.lr_schedule=cosine", "training.lr_warmup_steps=50"],
        "lr_double_soft_min_snr_1": [f"training.train_lr={lr * 2}", "diffusion.loss_weight=soft_min_snr",
                                     "diffusion.min_snr_gamma=1"],
        "lr_double_stratified": [f"training.train_lr={lr * 2}", "training.timestep_sampling=stratified"],
        "lr_double_betas_0.999": [f"training.train_lr={lr * 2}", "training.adam_betas=[0.9, 0.999]"],
        "lr_fourfold_cosine": [f"training.train_lr={lr * 4}", "training.lr_schedule=cosine", "training.lr_warmup_steps=50"],
        "lr_fourfold_warmup": [f"training.train_lr={lr * 4}", "training.lr_warmup_steps=100"],
        "immiscible": ["diffusion.immiscible=true"],
        "schedule_sigmoid": ["diffusion.beta_schedule=sigmoid"],
        "betas_0.999": ["training.adam_betas=[0.9, 0.999]"],
        "muon": ["training.optimizer=muon"],
        "muon_lr_double": ["training.optimizer=muon", f"training.train_lr={lr * 2}"],
        "zero_init": [],
        "ema_sigma_0.05": ["training.ema_sigma_rel=0.05"],
        "ema_sigma_0.2": ["training.ema_sigma_rel=0.2"],
        "ema_decay_0.995_every_10": ["training.ema_decay=0.995"],
        "self_condition": ["model.self_condition=true"],
        "lengths": [f"training.train_num_steps={LENGTHS[-1]}"],
        "dim_24": ["model.dim=24", f"training.train_num_steps={steps * 3 // 2}"],
        "dim_48": ["model.dim=48", f"training.train_num_steps={steps // 2}"],
    }


def train(data: str, variant: str, seed: int, out: Path) -> None:
    """One run: train, draw `IMAGES` with the optimizer's weights and with the averaged ones, judge, write the row; of the run
    "lengths" a row for each length."""
    final = row_file(out, data, variant, seed)
    if final.exists():
        return
    core = own_core(out)  # noqa: F841  held until this process ends
    from ddpm_ms.cli import main
    from ddpm_ms.config import load_config

    recipe, changes = DATA[data]
    recipe, run = ROOT / "configs" / recipe, final.with_suffix("")
    roots = {"fashion14": out / "fashion14.npz", "fashion_mnist": os.environ.get("FASHION_MNIST")}
    changes = [*REFERENCE, *changes, *([f"data.root={roots[data]}"] if data in roots else [])]
    plain = load_config(recipe, changes).training
    if variant == "zero_init":
        begin_residuals_with_zero()
    began = time.process_time()  # of all threads: other work on the machine hardly changes it
    status = main(["train", "--config", str(recipe), "--run-dir", str(run), *changes, f"training.seed={seed}",
                   "training.num_samples=0", "training.save_and_sample_every=500", "training.keep_last=99",
                   *variants(plain.train_lr, plain.train_num_steps)[variant]])
    seconds = time.process_time() - began
    if status:
        sys.exit(status)
    if variant == "lengths":
        for length in LENGTHS:
            write(row_file(out, data, f"steps_{length}", seed), {"seconds": seconds * length / LENGTHS[-1],
                                                                 **judge(run / "checkpoints" / f"step_{length:08d}")})
        write(final, {"seconds": seconds})
    else:
        write(final, {"seconds": seconds, **judge(run)})
    shutil.rmtree(run)


def row_file(out: Path, data: str, variant: str, seed: int) -> Path:
    return out / data / variant / f"{seed}.json"


def judge(path: Path) -> dict:
    """What the classifier says of samples from a run or a checkpoint."""
    from ddpm_ms.checkpoints import load_diffusion
    from ddpm_ms.evaluation import classifier_judge

    row = {}
    for name, averaged in (("raw", False), ("averaged", True)):
        diffusion, checkpoint = load_diffusion(path, ema=averaged)
        images = np.concatenate([diffusion.sample(BATCH, first_index=first, seed=1, sampler="ddim", steps=50)
                                 for first in range(0, IMAGES, BATCH)])
        report = classifier_judge(checkpoint.config.data).report(images)
        row[name] = {"recognised": report.confident, "distance": report.distance}
        row["real"] = {"recognised": report.real_confident, "distance": report.real_distance}
    return row


def write(path: Path, row: dict) -> None:
    """Write a row, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(row))
    partial.rename(path)
    print(path, json.dumps(row), flush=True)


def begin_residuals_with_zero() -> None:
    """Let every network that is made from here on begin as DDPM's and ADM's do: the last convolution, and what each residual
    branch ends with, at zero. Most branches here end with a norm, so it is the norm's gain that is zero."""
    import mindspore as ms

    from ddpm_ms import models

    create = models.create_model

    def create_with_zeros(*given):
        network = create(*given)
        parameters = dict(network.parameters_and_names())
        for name, parameter in parameters.items():
            norm = name.endswith((".block2.norm.g", ".out_norm.g"))
            bare = name.endswith(".to_out.weight") and name.replace("to_out.weight", "out_norm.g") not in parameters
            if norm or bare or name == "final_conv.weight":
                parameter.set_data(ms.ops.zeros_like(parameter))
        return network

    models.create_model = create_with_zeros


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
        names = [*variants(0, 0), *(f"steps_{length}" for length in LENGTHS)]
        names.remove("lengths")
        rows = {name: [json.loads(path.read_text()) for path in sorted((out / data / name).glob("*.json"))] for name in names}
        rows = {name: found for name, found in rows.items() if found}
        if not rows:
            continue
        real = next(iter(rows.values()))[0]["real"]
        print(f"### {data}\n\n{IMAGES} images of each. As many real ones: {real['recognised']:.0%} recognised, distance "
              f"{real['distance']:.2f}.\n")
        print("| | seeds | CPU seconds | raw: recognised | distance | averaged: recognised | distance |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, found in rows.items():
            cells = [spread([row["seconds"] for row in found], "{:.0f}")]
            cells += [spread([row[kind][what] for row in found], style) for kind in ("raw", "averaged")
                      for what, style in (("recognised", "{:.0%}"), ("distance", "{:.2f}"))]
            print(f"| `{name}` | {len(found)} | {' | '.join(cells)} |")
        print()


def spread(values: list[float], style: str) -> str:
    """The mean, and with several values half the range."""
    middle = style.format(float(np.mean(values)))
    return middle if len(values) == 1 else f"{middle} ± {style.format((max(values) - min(values)) / 2)}"


def prepare(fashion: Path, out: Path) -> None:
    """Write fashion14's images."""
    from ddpm_ms.config import DataConfig
    from ddpm_ms.data.idx import fashion_mnist

    dataset = fashion_mnist(DataConfig(name="fashion_mnist", root=str(fashion)))
    images = dataset.load(range(len(dataset))).reshape(-1, 14, 2, 14, 2).mean((2, 4))
    np.savez(out / "fashion14.npz", images=images, labels=dataset.labels)


def jobs(names: list[str], seeds: int) -> None:
    """Print "DATA VARIANT SEED" of every run, first seeds first: every variant on digits, `FINALISTS` elsewhere."""
    for seed in range(seeds):
        for data in names:
            for variant in variants(0, 0) if data == "digits" else FINALISTS:
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
