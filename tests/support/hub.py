"""The one Hub that the tests of this process talk to: on loopback, so that no test reaches the real one.

The Hub's clients read where their Hub is when they are imported. So it is served as long as the tests run, and the
`hub` fixture empties it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from . import loopback_hub
from .loopback_hub import Hub, Repo

GOOD_TOKEN = "hf_good"  # what the loopback Hub lets in, as the user "acme"

_serving = contextlib.ExitStack()


class PromptHandler(loopback_hub.BaseHTTPRequestHandler):
    """It sends the body of an answer at once, where TCP would wait 40 ms for the headers to be acknowledged."""

    disable_nagle_algorithm = True


def serve_for_tests(home: Path) -> Hub:
    """Serve a Hub until this process ends; the clients of this process and its children use it.

    They keep their files in `home`.
    """
    assert "huggingface_hub" not in sys.modules, "it has read its settings already"
    hub: Hub = _serving.enter_context(loopback_hub.serve())
    atexit.register(_stop_serving, os.getpid())
    for name in [name for name in os.environ if name.startswith("HF_")]:
        del os.environ[name]
    os.environ.update(settings(hub, home))
    return hub


def _stop_serving(process: int) -> None:
    """While its thread still runs: later, when Python has ended daemon threads, it would be waited for for ever.

    Nothing is to be stopped in a fork of the process, which has no such thread.
    """
    if os.getpid() == process:
        _serving.close()


def settings(hub: Hub, home: Path) -> dict[str, str]:
    """The environment of a client: which Hub, where it keeps what it downloads."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def empty(hub: Hub) -> None:
    """As it was served: without repositories, and failing nowhere."""
    from huggingface_hub import HfFileSystem

    vars(hub).update({name: value for name, value in vars(Hub()).items() if name != "endpoint"})
    HfFileSystem.clear_instance_cache()  # it remembers what directories held


class NumberedRepo(Repo):
    """Its commits are its own, as in reality: clients look up in their caches what they know by its commit."""

    numbers = itertools.count()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.number = next(self.numbers)

    def head(self, branch: str) -> str:
        return hashlib.sha1(f"{self.number} {super().head(branch)}".encode()).hexdigest()


loopback_hub.Repo = NumberedRepo
loopback_hub.BaseHTTPRequestHandler = PromptHandler
