"""A job from its start to its status."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from typing import Iterator

from ddpm_ms.launch.job import Job, environment_of, msrun_command
from ddpm_ms.launch.logs import LiveLog, last_lines, prepare_logs
from ddpm_ms.launch.members import Member, Members
from ddpm_ms.launch.stop import Stop

POLL_SECONDS = 0.1


def run_ranks(job: Job, stop: Stop) -> int:
    """Run the ranks of ``job`` to their end, the log of the first one on the terminal; no process is left.

    Returns:
        0 if every rank of this node returned 0, else the status of the first that did not (128 + signal), 137 if ``stop``
        killed them, 1 if msrun itself failed.
    """
    # Not in TMPDIR: the path of a socket has at most 108 bytes.
    with tempfile.TemporaryDirectory(prefix="ddpm_ms_", dir="/tmp") as folder, Members(f"{folder}/launcher") as members:
        command = msrun_command(job, members.address)
        prepare_logs(job)
        with _running(command, job) as msrun:
            failed = _watch(job, msrun, members, stop)
    return _status(job, members, stop, failed)


@contextlib.contextmanager
def _running(command: list[str], job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """msrun, in a session of its own: Ctrl-C reaches the launcher alone; msrun would kill the ranks."""
    with job.msrun_log.open("wb") as log:
        msrun = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment_of(job),
                                 start_new_session=True)
    try:
        yield msrun
    finally:  # without its ranks it would take seconds to end
        if msrun.poll() is None:
            os.killpg(msrun.pid, signal.SIGKILL)
            msrun.wait()


def _watch(job: Job, msrun: subprocess.Popen[bytes], members: Members, stop: Stop) -> Member | None:
    """Return when all members have ended: the first that failed, for which the others were ended, or None."""
    output = LiveLog(job.log_of(f"rank {job.first_rank}"))
    failed, over = None, False
    while not over and not (stop.signals and not members.all):  # before there is any rank, there is nothing to wait for
        msrun_ended = msrun.poll() is not None  # read before the news, which then hold all that its ranks have said
        members.receive(POLL_SECONDS)
        output.copy()
        output.remind()
        stop.pass_on(members)
        incomplete = msrun_ended and len(members.ranks) < job.ranks
        if not failed and not incomplete:
            failed = first_failure(job, members)
        # An msrun that somebody ended leaves ranks behind that may be saving: they are waited for, its scheduler is not.
        if failed or incomplete or (msrun_ended and all(rank.ended for rank in members.ranks)):
            members.send(signal.SIGKILL)
        over = len(members.ended) == len(members.all) and (msrun_ended or failed is not None or succeeded(job, members))
    output.copy(last=True)
    return failed


def first_failure(job: Job, members: Members) -> Member | None:
    """The member that failed before others failed because of it.

    The scheduler's failure counts on one node alone: where several nodes are tried on one machine, each starts a scheduler, and
    all but one find the port taken. Once every rank has done its work it counts for nothing.
    """
    if succeeded(job, members):
        return None
    failures = (member for member in members.ended if member.status != 0)
    return next((member for member in failures if member.is_rank or (member.is_scheduler and job.nodes == 1)), None)


def succeeded(job: Job, members: Members) -> bool:
    """Whether every rank of this node has returned 0."""
    return len([member for member in members.ended if member.is_rank and member.status == 0]) == job.ranks


def _status(job: Job, members: Members, stop: Stop, failed: Member | None) -> int:
    """The status of the job; says why, if it is not 0."""
    if succeeded(job, members):
        return 0
    if stop.killed:
        _say(f"all ranks were killed: {stop.killed}")
        return 128 + signal.SIGKILL
    if failed is None and stop.signals and not members.all:
        _say("stopped before any rank had started")
        return 128 + stop.signals[0]
    if failed is None:
        _say(f"msrun failed; its log: {job.msrun_log}", last_lines(job.msrun_log))
        return 1
    if stop.signals and failed.status == -signal.SIGTERM:
        _say(f"{failed.name} stopped as asked; it had nothing to save")
    else:
        log, shown = job.log_of(failed.name), job.log_of(f"rank {job.first_rank}")
        said = "" if last_lines(log, 1) == last_lines(shown, 1) else last_lines(log)  # of a mistake that every rank sees
        _say(f"{failed.name} failed with status {failed.exit_status}; its log: {log}", said)
    return failed.exit_status


def _say(*lines: str) -> None:
    for line in lines:
        if line:
            print(line, file=sys.stderr)
