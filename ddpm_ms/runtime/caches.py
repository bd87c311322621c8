"""Where this user's caches live."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/ddpm_ms``, or ``~/.cache/ddpm_ms``; it need not be there yet."""
    return user_cache_path("ddpm_ms", appauthor=False)
