"""`ddpm-ms report`: one page about one run."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ddpm_ms.cli.options import check_output
from ddpm_ms.config import load_recorded

log = logging.getLogger("ddpm_ms")


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``report``."""
    command = commands.add_parser("report", help="write one HTML page about a run, which works offline")
    command.add_argument("run_dir", metavar="RUN", help="a run directory; it may still be training")
    command.add_argument("--out", metavar="HTML", help="the page (default: report.html in the run)")
    command.set_defaults(run=report)


def report(arguments: argparse.Namespace) -> None:
    """Write the page about a run."""
    from ddpm_ms import visual

    visual.rows_or_none(arguments.run_dir)  # a run that is none is refused before anything is made
    config, defaults = load_recorded(Path(arguments.run_dir, "config.yaml"))
    out = Path(arguments.out or Path(arguments.run_dir, "report.html"))
    check_output("--out", out, (".html", ".htm"))
    out.parent.mkdir(parents=True, exist_ok=True)
    visual.save_report(arguments.run_dir, config, defaults, out)
    log.info("%s: %.1f MB", out, out.stat().st_size / 1e6)
