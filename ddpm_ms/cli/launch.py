"""`ddpm-ms launch`: one command on several devices, of one node or of several."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Mapping

from ddpm_ms import runtime as rt
from ddpm_ms.cli.options import parsed, run_directory
from ddpm_ms.cli.train import run_directory_of
from ddpm_ms.errors import InputError, check_choice, check_range
from ddpm_ms.launch import Job, Stop, check_job, rehearse, run_ranks
from ddpm_ms.launch.rehearsal import device_trial

COMMANDS = ("train", "distill", "sample", "evaluate")
STOP_SECONDS = 600


def add(commands: argparse._SubParsersAction) -> None:
    """Add ``launch``."""
    command = commands.add_parser(
        "launch", usage="ddpm-ms launch [options] COMMAND ...",
        help="run train, distill, sample or evaluate on several devices, of one node or several",
        description="Run COMMAND on several devices, through MindSpore's msrun. The recipe is checked and the device tried "
                    "first. Logs go to RUN/logs, CHECKPOINT/sample_logs or CHECKPOINT/evaluate_logs; the first rank's is shown. "
                    "Ctrl-C or SIGTERM: every rank finishes its step, rank 0 saves, status 0; a second one kills. If a rank "
                    "fails, the others are ended and the status is its.")
    command.add_argument("--device", choices=("auto", *rt.DEVICES), help="that of COMMAND")
    command.add_argument("--ranks", type=int, default=1, metavar="N", help="processes on this node, one per device (default: 1)")
    command.add_argument("--nodes", type=int, default=1, metavar="N", help="start the same on each of them, with (default: 1)")
    command.add_argument("--node-rank", type=int, default=0, metavar="K", help="its number, 0 to N-1, and (default: 0)")
    command.add_argument("--master", metavar="HOST:PORT", help="the address of node 0 (default on one node: a free port)")
    command.add_argument("--rank-table", metavar="FILE", help="for clusters that still use one")
    command.add_argument("--stop-timeout", type=float, default=STOP_SECONDS, metavar="SECONDS",
                         help=f"kill what has not ended so long after a signal (default: {STOP_SECONDS})")
    command.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND ...",
                         help=f"{', '.join(COMMANDS[:-1])} or {COMMANDS[-1]}, with its options")
    command.set_defaults(run=functools.partial(launch, commands.choices))


def launch(parsers: Mapping[str, argparse.ArgumentParser], arguments: argparse.Namespace) -> int:
    """Check, try, start and watch; returns the status of the job."""
    name, *words = arguments.command or [""]
    check_choice("COMMAND", name, COMMANDS)
    check_range("--stop-timeout", arguments.stop_timeout, 0)
    if arguments.device:
        words = ["--device", arguments.device, *words]
    given = parsed(parsers[name], words)
    if name == "train" and given.ranks != 1:
        raise InputError(f"--ranks {given.ranks} stands behind train, allowed: ddpm-ms launch --ranks {given.ranks} train ...")
    command = [sys.executable, "-m", "ddpm_ms", name, *words]
    job = Job(command, log_directory(name, given), given.device or "auto", arguments.ranks, arguments.nodes, arguments.node_rank,
              arguments.master, arguments.rank_table)
    check_job(job)
    with Stop(arguments.stop_timeout) as stop:
        status = 0
        if name == "train":
            status = rehearse([*command, "--dry-run", "--ranks", str(arguments.ranks * arguments.nodes)], stop)
        elif job.device != "CPU":
            status = rehearse(device_trial(job.device), stop)
        return status or run_ranks(job, stop)


def log_directory(name: str, given: argparse.Namespace) -> Path:
    """Where the logs of the ranks go: beside what the command writes."""
    if name == "train":
        return run_directory_of(given) / "logs"
    if name == "distill":
        if given.run_dir is None:
            raise InputError("distill without --run-dir, allowed with launch: with it (logs go there, too)")
        return Path(given.run_dir, "logs")
    if given.checkpoint is None:
        raise InputError(f"{name} without --checkpoint, allowed with launch: with it (logs go there, too)")
    run_directory(given.checkpoint)  # a checkpoint that is none is refused
    return Path(given.checkpoint, f"{name}_logs")
