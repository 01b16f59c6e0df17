"""Which files of the package some code runs through, in the order in which it first comes to each."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import larf_curate

_HOME = Path(larf_curate.__file__).parent


def files_visited(act: Callable[[], object]) -> list[str]:
    """Paths below the package, such as `rows/turns.py`. Calls in threads count, imports do not."""
    visited: dict[str, None] = {}

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        # Bodies of modules and classes run when they are imported; only functions have optimised locals.
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(str(_HOME)):
            visited.setdefault(str(Path(code.co_filename).relative_to(_HOME)))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(visited)
