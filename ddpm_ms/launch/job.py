"""What one node contributes to a job: how many ranks, of which command, and how msrun is asked to start them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

from ddpm_ms.errors import InputError, check_range, shown

VISIBLE_DEVICES = {"Ascend": "ASCEND_RT_VISIBLE_DEVICES", "GPU": "CUDA_VISIBLE_DEVICES"}
RANK_PROGRAM = Path(__file__).with_name("rank.py")


@dataclass(frozen=True)
class Job:
    """The ranks that one node starts."""

    command: Sequence[str]  # what every rank runs
    logs: Path  # the directory of worker_RANK.log, scheduler.log and msrun.log
    device: str = "auto"
    ranks: int = 1  # on this node; every node starts as many
    nodes: int = 1
    node_rank: int = 0
    master: str | None = None  # HOST:PORT of node 0; None on one node: a free port
    rank_table: str | None = None

    @property
    def first_rank(self) -> int:
        """The lowest rank of this node."""
        return self.node_rank * self.ranks

    def log_of(self, name: str) -> Path:
        """The log of "rank 3" or "scheduler", where msrun writes it."""
        return self.logs / f"{name.replace('rank ', 'worker_')}.log"

    @property
    def msrun_log(self) -> Path:
        """What msrun itself says; nodes may share the directory."""
        return self.logs / (f"msrun_{self.node_rank}.log" if self.node_rank else "msrun.log")


def check_job(job: Job, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `InputError` unless ``job`` can be started with the devices that ``environment`` leaves visible."""
    check_range("--ranks", job.ranks, 1)
    check_range("--nodes", job.nodes, 1)
    check_range("--node-rank", job.node_rank, 0, job.nodes - 1)
    visible = environment.get(VISIBLE_DEVICES.get(job.device, ""), "")
    if visible and job.ranks > len(visible.split(",")):
        raise InputError(f"--ranks is {job.ranks}, allowed with the visible devices {visible}: at most {len(visible.split(','))}")
    if job.nodes > 1 and not job.master:
        raise InputError("--master is '', allowed with several nodes: HOST:PORT")
    if job.master:
        _check_master(job.master)
    if job.rank_table and not Path(job.rank_table).is_file():
        raise InputError(f"--rank-table is {shown(job.rank_table)}, allowed: a file")
    find_msrun()


def _check_master(master: str) -> None:
    """Raise `InputError` unless it is HOST:PORT of a host whose name this machine knows."""
    if not re.fullmatch(r".+:\d{1,5}", master):
        raise InputError(f"--master is {shown(master)}, allowed: HOST:PORT")
    host, port = master.rsplit(":", 1)
    check_range("the port of --master", int(port), 1, 65535)
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or error
        raise InputError(f"--master is {shown(master)}, allowed: HOST:PORT of a host whose name this machine can resolve "
                         f"({problem})") from None


def msrun_command(job: Job, address: str) -> list[str]:
    """The arguments that start the ranks of ``job``, each below a `RANK_PROGRAM` that reports to ``address``."""
    host, port = (job.master or f"127.0.0.1:{free_port()}").rsplit(":", 1)
    table = [f"--rank_table_file={job.rank_table}"] if job.rank_table else []
    return [find_msrun(), f"--worker_num={job.ranks * job.nodes}", f"--local_worker_num={job.ranks}",
            f"--node_rank={job.node_rank}", f"--master_addr={host}", f"--master_port={port}", f"--log_dir={job.logs}",
            "--join=True", "--tail_worker_log=-2",  # no rank's: it would start a `tail -f` for each
            # msrun takes no path of an interpreter; environment_of puts this one's directory first.
            *table, "python3", str(RANK_PROGRAM), address, *job.command]


def find_msrun() -> str:
    """The msrun on PATH, or else beside this Python, whose environment may not be active."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    found = shutil.which("msrun", path=path)
    if found is None:
        raise InputError("msrun is neither on PATH nor beside this Python: it comes with MindSpore (pip install mindspore)")
    return found


def environment_of(job: Job, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``given``, with this Python first on PATH, and on CPUs the cores shared among the ranks."""
    environment = dict(given)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), given.get("PATH", os.defpath)])
    if job.device == "CPU" and not given.get("OMP_NUM_THREADS"):
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // job.ranks))
    return environment


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
