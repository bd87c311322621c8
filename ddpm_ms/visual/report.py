"""One HTML page about one run: everything is inside it, nothing is fetched, no script runs."""

from __future__ import annotations

import base64
import io
import os
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, Sequence

from PIL import Image

from ddpm_ms.errors import InputError
from ddpm_ms.visual import plots, runs

GRIDS = 8  # sample grids shown, evenly spaced over the run
MAX_IMAGE = 400_000  # bytes; a larger grid goes into the page as JPEG
LOG_LINES = 40

# The browser itself is told to fetch nothing and to run nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #fff; --ink: #1c2024; --quiet: #60686f; --line: #e2e4e6;
  --accent: #2b7bba; --mark: #fff1c9; --track: #e8eaec; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2024; --ink: #e6e8ea; --quiet: #9aa3ab;
  --line: #31373d; --accent: #62a8e0; --mark: #4a3f1a; --track: #2c3238; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 56px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 12px; }
p { margin: 0 0 10px; }
.note { margin: 10px 0 0; }
.quiet, figcaption, th { color: var(--quiet); }
.bar { height: 8px; border-radius: 4px; background: var(--track); margin: 18px 0; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
dl { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; margin: 0; }
@media (max-width: 860px) { dl { grid-template-columns: repeat(3, 1fr); } }
@media (max-width: 480px) { dl { grid-template-columns: repeat(2, 1fr); } }
dl div, figure, table, pre, details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
dl div { padding: 12px 14px; min-width: 0; }
dt { color: var(--quiet); font-size: 13px; }
dd { margin: 0; font-size: 17px; font-weight: 600; overflow-wrap: anywhere; }
dd small { display: block; font-size: 13px; font-weight: 400; color: var(--quiet); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--wide)), 1fr)); gap: 14px; }
figure { margin: 0; padding: 12px; min-width: 0; }
figure img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: 4px; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
figcaption { font-size: 13px; margin-top: 8px; }
.curves figcaption { margin: 0 0 6px; font-weight: 600; color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 14px; overflow: hidden; }
th, td { text-align: left; padding: 6px 12px; border-top: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
tr:first-child > * { border-top: 0; }
th { font-weight: 500; width: 34%; }
thead th { width: auto; }
td { font-variant-numeric: tabular-nums; }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 4px; }
details { padding: 10px 14px; margin-top: 12px; }
details table { border: 0; margin-bottom: 8px; }
summary { cursor: pointer; }
h3 { font-size: 14px; margin: 14px 0 4px; }
pre { margin: 0; padding: 12px 14px; font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code { font: 0.92em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
footer { margin-top: 36px; font-size: 13px; color: var(--quiet); }
"""


def save_report(run_dir: str | Path, config: dict, defaults: dict, path: str | Path) -> None:
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


def report_html(run_dir: Path, config: dict, defaults: dict) -> str:
    """The page as text; arguments and errors as for `save_report`."""
    rows = runs.read_metrics(run_dir)
    environment, log = runs.read_environment(run_dir), runs.read_log(run_dir)
    name = run_dir.resolve().name
    total = runs.total_steps(config["training"], log)
    total = None if total is None else max(total, rows[-1]["step"])  # may have been lowered since
    done = f"{rows[-1]['step']:,}{f' of {total:,}' if total else ''} steps"
    now = datetime.now().strftime("%Y-%m-%d %H:%M")
    body = [
        f"<header><h1>{escape(name)}</h1>",
        f'<p class="quiet">{_sentence(config, environment)}</p></header>',
        _bar(rows[-1]["step"], total),
        _summary(run_dir, rows, config, environment, log, total),
        "<h2>Curves</h2>", _curves(rows),
        "<h2>Samples over time</h2>", _samples(run_dir),
        "<h2>Reverse process</h2>", _reverse(run_dir),
        "<h2>What the recipe changes</h2>", _config(config, defaults),
        "<h2>Speed and environment</h2>", _environment(rows, environment),
        "<h2>Checkpoints</h2>", _checkpoints(run_dir),
        "<h2>End of the log</h2>", _log(log),
        f"<footer>Written {now} by <code>ddpm-ms report</code> from {escape(str(run_dir.resolve()))}</footer>",
    ]
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(name)}: {done}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(body) + "\n</main>\n</body>\n</html>\n")


def _sentence(config: dict, environment: dict) -> str:
    data, diffusion, size = config["data"], config["diffusion"], config["data"]["image_size"]
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    text = (f"{data['name']}, {height}x{width}, {data['channels']} channel{'s' if data['channels'] > 1 else ''}; "
            f"{diffusion['objective']}, {diffusion['beta_schedule'] if not diffusion['betas'] else 'own'} schedule, "
            f"T = {diffusion['timesteps']}")
    return escape(text + (f"; ddpm_ms {environment['ddpm_ms']}" if "ddpm_ms" in environment else ""))


def _bar(done: int, total: int | None) -> str:
    if not total:
        return ""
    return (f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}" '
            f'aria-label="steps done"><i style="width:{100 * done / total:.1f}%"></i></div>')


def _summary(run_dir: Path, rows: Sequence[dict], config: dict, environment: dict, log: Sequence[str],
             total: int | None) -> str:
    """The numbers that one looks for first."""
    last, training = rows[-1], config["training"]
    lowest = min(rows, key=lambda row: row["loss"])
    speed, parameters = _speed(rows), runs.num_parameters(run_dir)
    per_step = training["train_batch_size"] * training["gradient_accumulate_every"]
    to_go = total - last["step"] if total else 0
    left = f"about {_duration(to_go * per_step / speed)} to go" if speed and to_go else ""
    aim = f"of {total:,}{'' if to_go else ', finished'}" if total else f"of {training['train_num_epochs']} epochs"
    world = environment.get("world_size", 1)
    at_work = runs.seconds_at_work(log)
    numbers = (
        ("Steps", f"{last['step']:,}", aim),
        ("Last loss", f"{last['loss']:.4f}", f"lowest {lowest['loss']:.4f} at step {lowest['step']:,}"),
        ("Speed", f"{speed:,.1f}" if speed else "not known",
         f"images/s, {speed / per_step:.2f} steps/s" if speed else ""),
        ("Wall time", "not known" if at_work is None else _duration(at_work), left),
        ("Device", f"{environment.get('device', 'not known')}{f' x {world}' if world != 1 else ''}",
         f"{environment['cpus']} processors" if environment.get("device") == "CPU" and "cpus" in environment else ""),
        ("Parameters", "not known" if parameters is None else f"{parameters:,}", "" if parameters else "until a checkpoint"),
    )
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{escape(str(value))}<small>{escape(note)}</small></dd></div>"
                            for name, value, note in numbers) + "</dl>"


def _curves(rows: Sequence[dict]) -> str:
    shown = (("Loss", plots.loss_curves(rows), None, True),
             ("Learning rate", {"lr": plots.curve(rows, "lr")}, "linear", False),
             ("Gradient norm", {"grad_norm": plots.curve(rows, "grad_norm")}, None, True),
             ("Images per second", {"images_per_second": plots.curve(rows, "images_per_second")}, "linear", True))
    figures = [f'<figure role="img" aria-label="{title} over optimizer steps"><figcaption>{title}</figcaption>'
               f"{plots.curves_svg(curves, scale=scale, smoothed=smoothed)}</figure>" for title, curves, scale, smoothed in shown]
    return ('<div class="grid curves" style="--wide:420px">' + "".join(figures) + "</div>"
            '<p class="quiet note">Pale: as measured. Full: the mean over a window of 5 % of the rows.</p>')


def _samples(run_dir: Path) -> str:
    paths = sorted((run_dir / "samples").glob("step_*.png"))
    places = sorted({round(k * (len(paths) - 1) / (GRIDS - 1)) for k in range(GRIDS)}) if paths else []
    figures = [_picture(paths[k], f"step {int(paths[k].stem[5:]):,}" if paths[k].stem[5:].isdigit() else paths[k].stem)
               for k in places]
    if not paths:
        return '<p class="quiet">None yet: training.save_and_sample_every says when the first grid comes.</p>'
    note = f'<p class="quiet note">{len(places)} of {len(paths)} grids.</p>' if len(places) < len(paths) else ""
    return f'<div class="grid" style="--wide:300px">{"".join(figures)}</div>{note}'


def _reverse(run_dir: Path) -> str:
    path = run_dir / "reverse.gif"
    if not path.is_file():
        command = f"ddpm-ms sample --checkpoint {run_dir} --steps 100 --gif {path}"
        return f'<p class="quiet">Not drawn yet. To have it here: <code>{escape(command)}</code>, then the report again.</p>'
    return f'<div class="grid" style="--wide:300px">{_picture(path, "from noise to images")}</div>'


def _picture(path: Path, caption: str) -> str:
    """An image file inside the page; one that cannot be read, as while it is written, is named instead."""
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
        return f"<figure><figcaption>{escape(path.name)} cannot be read</figcaption></figure>"
    return (f'<figure><img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" width="{width}" height="{height}" '
            f'alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>')


def _config(config: dict, defaults: dict) -> str:
    """What differs from the defaults, and folded away all keys."""
    changed = [(f"{section}.{key}", value, defaults[section][key]) for section, keys in config.items()
               for key, value in keys.items() if value != defaults[section][key]]
    table = _table([(name, f"<mark>{_value(value)}</mark>", _value(default)) for name, value, default in changed],
                   ("key", "this run", "default"))
    whole = "".join(
        f"<h3>{escape(section)}</h3>" + _table([(key, _value(value) if value == defaults[section][key]
                                                 else f"<mark>{_value(value)}</mark>") for key, value in keys.items()])
        for section, keys in config.items())
    return ((table if changed else "<p>Nothing: every key has its default.</p>")
            + f"<details><summary>The whole configuration</summary>{whole}</details>")


def _environment(rows: Sequence[dict], environment: dict) -> str:
    speed, compiling = _speed(rows), rows[-1].get("compile_seconds")
    facts = [("images per second, median", f"{speed:,.1f}" if speed else "not known"),
             ("compilation of the last start", _duration(compiling) if compiling else "not known"),
             ("steps skipped for an overflow", str(rows[-1].get("skipped_steps", "not known")))]
    return _table([(name, escape(value)) for name, value in facts]
                  + [(str(name), _value(value)) for name, value in environment.items()])


def _checkpoints(run_dir: Path) -> str:
    found = runs.checkpoints(run_dir)
    if not found:
        return '<p class="quiet">None yet: training.save_and_sample_every says when the first comes.</p>'
    return _table([(c.name, f"{c.size / 2**20:.1f} MiB", c.written.strftime("%Y-%m-%d %H:%M:%S")) for c in found],
                  ("checkpoint", "size", "written"))


def _log(log: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(log[-LOG_LINES:]))}</pre>" if log else '<p class="quiet">There is no log.txt.</p>'


def _table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...] = ()) -> str:
    """Rows of (name as text, cells as HTML)."""
    top = f"<thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr></thead>" if head else ""
    lines = (f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, *cells in rows)
    return f'<div class="scroll"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>'


def _value(value: Any) -> str:
    """A value of the configuration as YAML writes it, short, as HTML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_value(item) for item in value[:12])
        return f"[{shown}{f', ... {len(value)} in all' if len(value) > 12 else ''}]"
    return escape(f"{value:g}" if isinstance(value, float) else str(value))


def _speed(rows: Sequence[dict]) -> float | None:
    """The median of the intervals' speeds."""
    _, speeds = plots.curve(rows, "images_per_second")
    return sorted(speeds)[len(speeds) // 2] if len(speeds) else None


def _duration(seconds: float) -> str:
    """``"12.3 s"``, ``"4 min 05 s"`` or ``"2 h 03 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
