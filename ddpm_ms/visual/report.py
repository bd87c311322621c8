"""One HTML page about one run: everything is inside it, nothing is fetched, no script runs."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Sequence

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ddpm_ms.errors import InputError
from ddpm_ms.progress import duration
from ddpm_ms.visual import plots, runs

GRIDS = 8  # sample grids shown, evenly spaced over the run
MAX_IMAGE = 400_000  # bytes; a larger grid goes into the page as JPEG
EVENTS, LOG_LINES = 40, 40  # how many of the last are shown


@dataclass(frozen=True)
class Picture:
    """An image file as it stands in the page; without ``data`` if it cannot be read, as while it is written."""

    name: str
    caption: str
    kind: str = ""  # "png", "jpeg" or "gif"
    data: str = ""  # base64
    width: int = 0
    height: int = 0


def save_report(run_dir: str | Path, config: dict[str, Any], defaults: dict[str, Any], path: str | Path) -> None:
    """Write the page about a run: complete or not at all.

    Args:
        run_dir: what `ddpm-ms train` left.
        config: the run's configuration, section to key to value.
        defaults: the same of a configuration that states nothing.
        path: of the page.

    Raises:
        InputError: the run has logged nothing yet, or the page cannot be written.
    """
    page, path = report_html(Path(run_dir), config, defaults), Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8", errors="replace")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"report {path} cannot be written: {error.strerror}") from None


def report_html(run_dir: Path, config: dict[str, Any], defaults: dict[str, Any]) -> str:
    """The page as text; arguments and errors as for `save_report`."""
    rows, events = runs.rows_or_none(run_dir), runs.read_events(run_dir)
    environment, size = runs.read_environment(run_dir), config["data"]["image_size"]
    converted = None if rows else runs.conversion(events)
    done, total = (rows or events)[-1]["step"], None if converted else runs.total_steps(config["training"], events)
    total = None if total is None else max(total, done)  # may have been lowered since
    cards = _converted_cards(converted) if converted else _cards(
        config["training"], rows, environment, total, runs.seconds_at_work(events, rows), runs.num_parameters(run_dir))
    grids = sorted((run_dir / "samples").glob("step_*.png"))
    reverse = run_dir / "reverse.gif"
    return _template().render(
        name=run_dir.resolve().name, run_dir=run_dir, source=run_dir.resolve(), now=datetime.now().strftime("%Y-%m-%d %H:%M"),
        done=done, total=total, data=config["data"], diffusion=config["diffusion"], environment=environment,
        size=size if isinstance(size, (list, tuple)) else (size, size),
        cards=cards, curves=(_curves(rows) if rows else []) + _measured(runs.read_measurements(run_dir)),
        grids=_evenly_spaced(grids), all_grids=len(grids),
        reverse=_picture(reverse, "from noise to images") if reverse.is_file() else None,
        evaluations=runs.read_evaluations(run_dir)[-EVENTS:],
        config=config, defaults=defaults, changed=_changed(config, defaults), facts=_facts(rows, events),
        checkpoints=runs.checkpoints(run_dir), events=[_shown_event(event) for event in events[-EVENTS:]], all_events=len(events),
        log=runs.read_log(run_dir)[-LOG_LINES:])


def _template() -> Any:
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)
    pages.filters["yaml"] = _yaml
    return pages.get_template("report.html")


def _cards(training: dict[str, Any], rows: Sequence[dict[str, Any]], environment: dict[str, Any], total: int | None,
           seconds: float | None, parameters: int | None) -> list[tuple[str, str, str]]:
    """The numbers that one looks for first: (name, value, note)."""
    last, lowest, speed = rows[-1], min(rows, key=lambda row: row["loss"]), _speed(rows)
    per_step = training["train_batch_size"] * training["gradient_accumulate_every"]
    to_go = total - last["step"] if total else 0
    aim = f"of {total:,}{'' if to_go else ', finished'}" if total else f"of {training['train_num_epochs']} epochs"
    world = environment.get("world_size", 1)
    return [
        ("Steps", f"{last['step']:,}", aim),
        ("Last loss", f"{last['loss']:.4f}", f"lowest {lowest['loss']:.4f} at step {lowest['step']:,}"),
        ("Speed", f"{speed:,.1f}" if speed else "not known",
         f"images/s, {speed / per_step:.2f} steps/s" if speed else ""),
        ("Wall time", "not known" if seconds is None else duration(seconds),
         f"about {duration(to_go * per_step / speed)} to go" if speed and to_go else ""),
        ("Device", f"{environment.get('device', 'not known')}{f' x {world}' if world != 1 else ''}",
         f"{environment['cpus']} processors" if environment.get("device") == "CPU" and "cpus" in environment else ""),
        ("Parameters", "not known" if parameters is None else f"{parameters:,}", "" if parameters else "until a checkpoint"),
    ]


def _converted_cards(event: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The same of weights that another project trained."""
    return [("Trained by", str(event.get("project", "not known")), str(event.get("source", ""))),
            ("Steps", f"{event['step']:,}" if event["step"] else "not known", "elsewhere"),
            ("Parameters", f"{event.get('parameters', 'not known')}", "")]


def _curves(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(title, SVG) of each plot."""
    shown = (("Loss", plots.loss_curves(rows), None, True),
             ("Learning rate", {"lr": plots.curve(rows, "lr")}, "linear", False),
             ("Gradient norm", {"grad_norm": plots.curve(rows, "grad_norm")}, None, True),
             ("Images per second", {"images_per_second": plots.curve(_timed(rows), "images_per_second")}, "linear", True))
    return [(title, plots.curves_svg(curves, scale=scale, smoothed=smoothed)) for title, curves, scale, smoothed in shown]


def _measured(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(title, SVG) of each metric that training measured, as the last was measured."""
    rows = [row for row in rows if row["evaluated"] == rows[-1]["evaluated"]]
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "time", "evaluated"))
    found = {name: plots.curve(rows, name) for name in names}
    return [(f"{name} of {rows[-1]['evaluated']}", plots.curves_svg({name: curve}, smoothed=False))
            for name, curve in found.items() if len(curve[0])]


def _evenly_spaced(paths: Sequence[Path]) -> list[Picture]:
    """At most `GRIDS` of the sample grids, the first and the last among them."""
    places = sorted({round(k * (len(paths) - 1) / (GRIDS - 1)) for k in range(GRIDS)}) if paths else []
    return [_picture(paths[k], f"step {int(paths[k].stem[5:]):,}" if paths[k].stem[5:].isdigit() else paths[k].stem)
            for k in places]


def _picture(path: Path, caption: str) -> Picture:
    try:
        data, kind = path.read_bytes(), path.suffix[1:]
        with Image.open(io.BytesIO(data), formats=("PNG", "GIF")) as image:
            image.load()
            width, height = image.size
            if kind == "png" and len(data) > MAX_IMAGE:
                file, kind = io.BytesIO(), "jpeg"
                image.convert("RGB").save(file, "JPEG", quality=90)
                data = file.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Picture(path.name, caption)
    return Picture(path.name, caption, kind, base64.b64encode(data).decode(), width, height)


def _changed(config: dict[str, Any], defaults: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value, default) of every key that differs from its default."""
    return [(f"{section}.{key}", value, defaults[section][key]) for section, keys in config.items()
            for key, value in keys.items() if key in defaults[section] and value != defaults[section][key]]


def _facts(rows: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    if not rows:
        return []
    speed, compiling = _speed(rows), rows[-1].get("compile_seconds")
    phases = [(f"training.train_lr since step {phase.step:,}", f"{phase.new:g}, before {phase.old:g}")
              for phase in runs.phases(events)]
    return [*phases, ("images per second, median", f"{speed:,.1f}" if speed else "not known"),
            ("compilation of the last start", duration(compiling) if compiling else "not known"),
            ("steps skipped for an overflow", str(rows[-1].get("skipped_steps", "not known")))]


def _shown_event(event: dict[str, Any]) -> dict[str, Any]:
    """An event as the page shows it: what is its own as words."""
    what = [f"{name.replace('_', ' ')}: {_yaml(value)}" for name, value in event.items()
            if name not in ("event", "time", "step", "world")]
    world = event.get("world", 1)
    return {"event": event["event"].replace("_", " "), "step": event["step"],
            "when": datetime.fromtimestamp(event["time"]).strftime("%Y-%m-%d %H:%M:%S"),
            "what": "; ".join(what + ([f"ranks: {world}"] if world != 1 else []))}


def _yaml(value: Any) -> str:
    """A value of the configuration as YAML writes it, short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_yaml(item) for item in value[:12])
        return f"[{shown}{f', ... {len(value)} in all' if len(value) > 12 else ''}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _timed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose speed is known: of the others it is null, or 0 in a run of an older version."""
    return [row for row in rows if row.get("images_per_second")]


def _speed(rows: Sequence[dict[str, Any]]) -> float | None:
    """The median of the intervals' speeds."""
    _, speeds = plots.curve(_timed(rows), "images_per_second")
    return sorted(speeds)[len(speeds) // 2] if len(speeds) else None
