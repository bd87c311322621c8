"""Files that the user names in the environment."""

from __future__ import annotations

import os

INCEPTION = "DDPM_MS_INCEPTION"  # the weights of the network in whose features FID is measured


def inception_file() -> str | None:
    """What `INCEPTION` names, if anything."""
    return os.environ.get(INCEPTION) or None
