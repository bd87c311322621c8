"""The fault campaigns, each of which docs/faults.md reports."""

import subprocess

import pytest

from tests.system import faults

NEEDS_MOUNT = {"full_disk", "read_only"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return faults.Bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("campaign", faults.CAMPAIGNS, ids=lambda campaign: campaign.__name__)
def test_a_fault_loses_nothing_but_the_steps_since_the_last_checkpoint(bench, campaign):
    if campaign.__name__ in NEEDS_MOUNT:
        allowed = subprocess.run(["unshare", "-rm", "bash", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True)
        if allowed.returncode:
            pytest.skip("this user may not mount a tmpfs in a namespace")
    campaign(bench)
