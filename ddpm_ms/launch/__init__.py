"""Ranks started, watched and ended: MindSpore's msrun on one node or several, without importing MindSpore."""

from ddpm_ms.launch.job import Job, check_job
from ddpm_ms.launch.rehearsal import rehearse
from ddpm_ms.launch.stop import Stop
from ddpm_ms.launch.watch import run_ranks

__all__ = ["Job", "Stop", "check_job", "rehearse", "run_ranks"]
