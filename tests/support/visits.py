"""Which files of the package some code runs through, in the order in which it first comes to each."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import larf_curate

_HOME = Path(larf_curate.__file__).parent


def files_visited(act: Callable[[], object]) -> list[str]:
    """Paths below the package, such as `rows/turns.py`. Calls in threads count, imports do not."""
    visited: dict[str, None] = {}
    seen: dict[int, CodeType] = {}  # by identity: to compare code takes long, and there are millions of calls
    home = str(_HOME)

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event != "call" or id(code) in seen:
            return
        seen[id(code)] = code
        # Bodies of modules and classes run when they are imported; only functions have optimised locals.
        if code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(home):
            visited.setdefault(str(Path(code.co_filename).relative_to(_HOME)))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(visited)
