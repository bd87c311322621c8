"""Where this user's caches live, what is in them, and how they are emptied."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

# Compiled graphs, a directory each. Then files: libraries of CPU operators; classifiers that judge, and statistics of images that
# are compared with, see `ddpm_ms.evaluation`.
GRAPHS, NATIVE, CLASSIFIERS, STATISTICS = "graphs", "native", "classifiers", "statistics"
KINDS = (GRAPHS, NATIVE, CLASSIFIERS, STATISTICS)


@dataclass(frozen=True)
class Held:
    """What the cache holds of one kind."""

    kind: str
    entries: int
    size: int  # bytes


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/ddpm_ms``, or ``~/.cache/ddpm_ms``; it need not be there yet."""
    return user_cache_path("ddpm_ms", appauthor=False)


def held() -> list[Held]:
    """What the caches hold, kind by kind."""
    found = []
    for kind in KINDS:
        entries = list(cache_dir().joinpath(kind).glob("*"))
        files = [path for entry in entries for path in (entry, *entry.rglob("*"))]
        found.append(Held(kind, len(entries), sum(path.lstat().st_size for path in files if path.is_file())))
    return found


def clear() -> None:
    """Delete the compiled graphs. Whoever is running goes on: each process has a copy of its own. The rest stays: MindSpore opens
    the libraries of operators by name again for every new graph, and what evaluation keeps is small and took minutes.

    Raises:
        OSError: something cannot be deleted.
    """
    if cache_dir().joinpath(GRAPHS).is_dir():
        shutil.rmtree(cache_dir() / GRAPHS)
