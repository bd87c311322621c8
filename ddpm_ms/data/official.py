"""What the published data sets share: how to get one, where it is, and how it is told from others."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ddpm_ms.config import DataConfig
from ddpm_ms.errors import InputError

log = logging.getLogger("ddpm_ms")


def path_of(config: DataConfig) -> Path:
    """``data.root``, for a data set that cannot be without.

    Raises:
        InputError: it is not set.
    """
    if config.root is None:
        raise InputError(f"data.root is not set, allowed for {config.name}: a path (data.root=PATH)")
    return Path(config.root)


@dataclass(frozen=True)
class Published:
    """A data set that is downloaded by hand.

    Args:
        name: its ``data.name``.
        how_to_get: what to download, from where, and what ``data.root`` then is.
        installed: where a system's own package puts it.
    """

    name: str
    how_to_get: str
    installed: Path | None = None

    def root(self, config: DataConfig) -> Path:
        """The folder: ``data.root``, or where the system has the data set.

        Raises:
            InputError: neither is there.
        """
        if config.root is None:
            if self.installed is None or not self.installed.is_dir():
                raise InputError(f"data.root is not set, allowed for {self.name}: {self.how_to_get}")
            log.info("data.root is not set: using %s", self.installed)
            return self.installed
        if not Path(config.root).is_dir():
            raise InputError(f"data.root {config.root} does not exist or is no folder; {self.how_to_get}")
        return Path(config.root)

    def find(self, *candidates: Path) -> Path:
        """The first of ``candidates`` that exists.

        Raises:
            InputError: none does; it says how to get the data set.
        """
        for path in candidates:
            if path.exists():
                return path
        raise InputError(f"data {self.name}: {candidates[0]} does not exist; {self.how_to_get}")

    def warn_if_not(self, what: str, found: object, expected: object) -> None:
        """Say so when data of a published name is not the published data; small files of one's own are allowed."""
        if found != expected:
            log.warning("%s is not the published file of %s (%s, published: %s)", what, self.name, found, expected)
