"""Curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

from matplotlib.figure import Figure

QUARTERS = ("loss_q1", "loss_q2", "loss_q3", "loss_q4")


def save_loss_curve(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Loss against optimizer steps, whole and by quarter of t, from the rows of metrics.jsonl."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss", yscale="log")
    steps = [row["step"] for row in rows]
    for number, key in enumerate(QUARTERS, start=1):
        axes.plot(steps, [row.get(key) or float("nan") for row in rows], linewidth=0.8, alpha=0.6,
                  label=f"quarter {number} of t" + (" (least noise)" if number == 1 else ""))
    axes.plot(steps, [row["loss"] for row in rows], color="black", label="mean")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)


def save_benchmark(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Time of each kind of work relative to the peer's, from the rows of benchmark.json: 1 is as fast, below is faster."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(ylabel="time / peer's time")
    colours = {"train": "tab:blue", "eval": "tab:orange", "sample": "tab:green"}
    for place, row in enumerate(rows):
        axes.bar(place, row["ratio"], color=colours[row["kind"]])
        axes.annotate(f"{row['ratio']:.2f}", (place, row["ratio"]), ha="center", va="bottom", fontsize="small")
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(rows)), [f"{row['case']}\n{row['kind']}" for row in rows])
    figure.savefig(path, dpi=120)
