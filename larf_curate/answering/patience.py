"""Patience with an endpoint that says it is busy: all questions wait, and are asked again a few times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..errors import ModelError
from ..progress import say

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
LONGEST_WAIT = 120.0
"""Seconds; who asks for more than that is not waited for."""
_BUSY = (429, 502, 503, 504, 529)


class BusyError(ModelError):
    """An endpoint says that it cannot answer just now.

    Attributes:
        status: of HTTP.
        seconds: how long it asks to be left alone; 0 where it does not say.
    """

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"it is busy (HTTP status {status})")
        self.status, self.seconds = status, seconds


def is_busy(status: int) -> bool:
    """Whether the same question may be answered a little later.

    >>> [status for status in (200, 400, 401, 404, 429, 500, 503) if is_busy(status)]
    [429, 503]
    """
    return status in _BUSY


class Patience:
    """Asks again where an endpoint is busy. Questions of several threads wait together, and that is said once.

    Args:
        waits: seconds before each further try, where the endpoint asks for no more.
        longest: the most seconds that one is waited for.
    """

    def __init__(self, waits: tuple[float, ...] = WAITS, longest: float = LONGEST_WAIT) -> None:
        self._waits, self._longest = waits, longest
        self._lock = threading.Lock()
        self._until = 0.0
        self._given_up = threading.Event()

    def ask(self, question: Callable[[], str]) -> str:
        """The answer to a question, which raises `BusyError` where the endpoint is busy.

        Raises:
            ModelError: it stays busy, asks to wait for too long, or `give_up` was called meanwhile.
        """
        given_up = self._given_up
        for wait in (*self._waits, None):
            self._wait(given_up)
            try:
                return question()
            except BusyError as busy:
                if wait is None:
                    raise ModelError(f"{busy}, and still is after {len(self._waits) + 1} tries: try later") from busy
                if busy.seconds > self._longest:
                    asked = f"asks to be left alone for {busy.seconds:,.0f} seconds"
                    raise ModelError(f"{busy} and {asked}: try later") from busy
                self._hold(max(wait, busy.seconds), busy)
        raise AssertionError("the last try returns or raises")

    def give_up(self) -> None:
        """End the waits of all questions that are being asked: one of them has failed, or the user ends it."""
        with self._lock:
            given_up, self._given_up, self._until = self._given_up, threading.Event(), 0.0
        given_up.set()

    def _hold(self, seconds: float, busy: BusyError) -> None:
        now = time.monotonic()
        with self._lock:
            is_first = now >= self._until
            self._until = max(self._until, now + seconds)
        if is_first:
            say(f"the judge is busy (HTTP status {busy.status}): asking again in {seconds:g} s")

    def _wait(self, given_up: threading.Event) -> None:
        while (seconds := self._until - time.monotonic()) > 0:
            if given_up.wait(seconds):
                break
        if given_up.is_set():
            raise ModelError("given up")
