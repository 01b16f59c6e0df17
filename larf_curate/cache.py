"""Where larf-curate keeps files between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$LARF_CURATE_CACHE`, else `larf_curate` under the user's cache directory."""
    if own := os.environ.get("LARF_CURATE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "larf_curate"
