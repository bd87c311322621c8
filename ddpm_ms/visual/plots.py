"""Curves. Figures are made without pyplot, so that no state of matplotlib outlives a call.

matplotlib is imported where it draws: half a second that commands without curves need not wait.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

QUARTERS = ("loss_q1", "loss_q2", "loss_q3", "loss_q4")
# Of middle brightness, so that they show on white and on black; told apart by colour-blind readers too.
COLOURS = ("#2b7bba", "#d9730d", "#1f9e72", "#c4518f", "#8a6fd1", "#a08a1c", "#c8433a", "#5f7f8c")
STYLES = ("-", "--", ":", "-.")
DECADE = 10  # values that span more than this are drawn on a logarithmic axis
POINTS = 2000  # as many points of a curve as a picture can show
_INK = "#010203"  # in an SVG: the colour of the text around it


def save_loss_curve(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Loss against optimizer steps, whole and by quarter of t, from the rows of metrics.jsonl."""
    figure = _figure(8, 4.5)
    _curves(figure.add_subplot(xlabel="optimizer step", ylabel="loss"), loss_curves(rows))
    _save(figure, path, 120)


def save_losses(runs: Mapping[str, Sequence[dict[str, Any]]], path: str | Path) -> None:
    """The losses of several runs, name to rows of metrics.jsonl: smoothed, with what was measured pale behind."""
    figure = _figure(8, 4.5)
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss")
    _curves(axes, {name: curve(rows, "loss") for name, rows in runs.items()})
    _save(figure, path, 120)


def save_schedules(schedules: Mapping[str, tuple[np.ndarray, np.ndarray]], weights: Mapping[str, np.ndarray], path: str | Path,
                   *, recipe: str, weight: str, objective: str) -> None:
    """Four plots over t: beta, alphas_cumprod and the signal-to-noise ratio of several schedules, and the weights of the loss.

    Args:
        schedules: name to (betas, alphas_cumprod), each (T,).
        weights: name to the weight of every step, (T,), on the recipe's schedule.
        path: of the PNG.
        recipe, weight: the names in ``schedules`` and ``weights`` that the recipe uses; they are drawn bold.
        objective: whose error the weights multiply.
    """
    figure = _figure(11, 7)
    (beta, signal), (snr, weighed) = figure.subplots(2, 2)
    steps = np.arange(len(next(iter(weights.values()))))
    with np.errstate(divide="ignore"):  # beta 1 leaves no signal, and no place on a logarithmic axis
        plots = ((beta, "beta", "log", {name: betas for name, (betas, _) in schedules.items()}, recipe),
                 (signal, "alphas_cumprod (share of signal)", "linear", {n: left for n, (_, left) in schedules.items()}, recipe),
                 (snr, "signal-to-noise ratio", "log", {n: left / (1 - left) for n, (_, left) in schedules.items()}, recipe),
                 (weighed, f"weight of the loss of {objective}, {recipe}", "log", weights, weight))
    for axes, title, scale, lines, bold in plots:
        axes.set(title=title, xlabel="t", yscale=scale)
        for number, (name, values) in enumerate(lines.items()):
            own = name == bold
            axes.plot(steps, _positive(values) if scale == "log" else values, STYLES[number % 4 if not own else 0],
                      color=COLOURS[number % len(COLOURS)], linewidth=2.8 if own else 1.3, zorder=1 if own else 2,
                      label=f"{name} (the recipe's)" if own else name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    _save(figure, path, 110)


def save_benchmark(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Time of each kind of work relative to the peer's, from the rows of benchmark.json: 1 is as fast, below is faster."""
    figure = _figure(8, 4)
    axes = figure.add_subplot(ylabel="time / peer's time")
    colours = {"train": "tab:blue", "eval": "tab:orange", "sample": "tab:green"}
    for place, row in enumerate(rows):
        axes.bar(place, row["ratio"], color=colours[row["kind"]])
        axes.annotate(f"{row['ratio']:.2f}", (place, row["ratio"]), ha="center", va="bottom", fontsize="small")
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(rows)), [f"{row['case']}\n{row['kind']}" for row in rows])
    _save(figure, path, 120)


def save_growth(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Time per image and peak memory against what grows, of this package and of PyTorch, from the rows of growth.json."""
    figure = _figure(9, 6)
    kinds = list(dict.fromkeys(row["grows"] for row in rows))
    for column, grows in enumerate(kinds):
        time, memory = (figure.add_subplot(2, len(kinds), place + column + 1, xlabel=grows, xscale="log", yscale=scale)
                        for place, scale in ((0, "log"), (len(kinds), "linear")))
        time.set_ylabel("seconds per image")
        memory.set_ylabel("peak memory, MiB")
        for who, name, colour in (("ours", "ddpm_ms", "tab:blue"), ("eager", "PyTorch", "tab:orange")):
            for kind, style in (("train", "-"), ("eval", "--")):
                found = [row for row in rows if row["grows"] == grows and row["kind"] == kind]
                sizes = [row["to"] for row in found]
                time.plot(sizes, [row[f"{who}_s"] / row["batch"] for row in found], style, marker="o", color=colour,
                          label=f"{name}, {kind}")
            memory.plot(sizes, [row[f"{who}_peak_mib"] for row in found], marker="o", color=colour, label=name)
        memory.set_ylim(bottom=0)
        for axes in (time, memory):
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.legend(fontsize="small")
    _save(figure, path, 120)


def curves_svg(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, scale: str | None = None, smoothed: bool = True) -> str:
    """Curves over optimizer steps, name to (steps, values), as an ``<svg>`` element whose text has the colour of the page.

    ``scale`` is "linear" (from 0), "log", or None: what the values ask for.
    """
    figure = _figure(5.2, 3.2)
    axes = figure.add_subplot(xlabel="optimizer step")
    legend = _curves(axes, curves, scale, smoothed)
    axes.tick_params(which="both", colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(_INK)
    legend.set(visible=len(curves) > 1, frame_on=False)
    for text in legend.get_texts():
        text.set_color(_INK)
    file = io.StringIO()
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg"):], flags=re.S)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # names of groups, the same in every figure of a page
    return svg.replace(_INK, "currentColor")


def loss_curves(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The mean loss and, where there is any, that of each quarter of t, of whole epochs, and of held-out images: name to
    (steps, values)."""
    names = {f"quarter {number} of t" + (" (least noise)" if number == 1 else ""): key
             for number, key in enumerate(QUARTERS, start=1)}
    names.update({"whole epochs": "epoch_loss", "held-out images": "validation_loss"})
    curves = {name: curve(rows, key) for name, key in names.items()}
    return {"mean": curve(rows, "loss"), **{name: found for name, found in curves.items() if len(found[0])}}


def curve(rows: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the rows that have a finite value of ``key``."""
    pairs = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float)) and np.isfinite(row[key])]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    return steps, values


def smooth(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Mean over a centred window of ``share`` of all values, (N,); near the ends the window narrows on both sides, so that a
    straight line stays what it is."""
    place = np.arange(len(values))
    half = np.minimum(int(len(values) * share / 2 + 0.5), np.minimum(place, place[::-1]))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[place + half + 1] - sums[place - half]) / (2 * half + 1)


def _curves(axes: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], scale: str | None = None,
            smoothed: bool = True) -> Legend:
    """Draw each (steps, values), measured pale and smoothed full, with a legend below, which is returned; logarithmic where that
    tells more."""
    lines = []
    for number, (steps, values) in enumerate(curves.values()):
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
        shown = smooth(values) if smoothed else values
        thin = np.unique(np.linspace(0, max(len(steps) - 1, 0), min(len(steps), POINTS)).round().astype(int))
        if (shown != values).any():
            axes.plot(steps[thin], values[thin], color=colour, linewidth=0.8, alpha=0.35)
        alone: dict[str, Any] = {"marker": "o"} if len(steps) == 1 else {}
        lines += axes.plot(steps[thin], shown[thin], style, color=colour, linewidth=1.8, **alone)
    everything = np.concatenate([values for _, values in curves.values()])
    if scale is None and everything.size and everything.min() > 0 and everything.max() / everything.min() > DECADE:
        scale = "log"
    axes.set_yscale(scale or "linear")
    if scale == "linear":
        axes.set_ylim(bottom=0)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(alpha=0.3)
    legend = axes.legend(lines, [str(number) for number in range(len(lines))], fontsize="small", ncols=min(len(lines), 3),
                         loc="upper center", bbox_to_anchor=(0.5, -0.16))
    # matplotlib would take "$" for mathematics and leave out names that begin with "_".
    for text, name in zip(legend.get_texts(), curves):
        text.set_parse_math(False)
        text.set_text(name)
    return legend


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _figure(width: float, height: float) -> Figure:
    """An empty one, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | Path, dpi: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
