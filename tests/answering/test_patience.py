"""Questions to a busy endpoint wait together, and no longer than they have to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from larf_curate.answering.patience import BusyError, Patience
from larf_curate.errors import ModelError
from larf_curate.hub import seconds_of


def asked_and_waiting(pool: ThreadPoolExecutor, patience: Patience, question: Callable[[], str]) -> Future[str]:
    """Ask in another thread; return when the endpoint has been busy and is waited for."""
    asked = pool.submit(patience.ask, question)
    while patience._until == 0:
        time.sleep(0.001)
    return asked


def test_questions_of_several_threads_wait_together_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    patience, asked_at, refused = Patience((0.3,)), [], []
    together = threading.Barrier(4)

    def question() -> str:
        asked_at.append(time.monotonic())
        if len(refused) < 4:
            together.wait(5)
            refused.append(True)
            raise BusyError(429, 0)
        return "yes"

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: patience.ask(question), range(4))) == ["yes"] * 4
    assert min(asked_at[4:]) - max(asked_at[:4]) >= 0.25
    assert caplog.text.count("the judge is busy (HTTP status 429): asking again in 0.3 s") == 1


def test_a_question_begun_while_others_wait_waits_too() -> None:
    patience, waits = Patience((0.3,)), iter([True])

    def busy_once() -> str:
        if next(waits, False):
            raise BusyError(503, 0)
        return "first"

    with ThreadPoolExecutor(1) as pool:
        first = asked_and_waiting(pool, patience, busy_once)
        began = time.monotonic()
        assert patience.ask(lambda: "second") == "second"
        assert time.monotonic() - began >= 0.2
        assert first.result() == "first"


def test_the_longest_wait_that_was_asked_for_counts_for_all() -> None:
    patience, asked_at, both_asked = Patience((0.01,)), list[float](), threading.Barrier(2)

    def question(seconds: float) -> str:
        asked_at.append(time.monotonic())
        if len(asked_at) > 2:
            return "yes"
        both_asked.wait(5)
        while not seconds and patience._until == 0:  # the longer wait is known first
            time.sleep(0.001)
        raise BusyError(429, seconds)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda seconds: patience.ask(lambda: question(seconds)), (0.4, 0.0))) == ["yes"] * 2
    assert min(asked_at[2:]) - max(asked_at[:2]) >= 0.3


def test_who_gives_up_waits_no_longer_and_may_ask_again() -> None:
    patience, is_busy = Patience((60.0,)), [True]

    def question() -> str:
        if is_busy[0]:
            raise BusyError(429, 0)
        return "yes"

    with ThreadPoolExecutor(1) as pool:
        asked = asked_and_waiting(pool, patience, question)
        patience.give_up()
        with pytest.raises(ModelError):
            asked.result(5)
    is_busy[0] = False
    began = time.monotonic()
    assert patience.ask(question) == "yes"
    assert time.monotonic() - began < 20, "not after the minute that others were told to wait"


def test_a_date_to_wait_for_is_that_many_seconds_from_now() -> None:
    from email.utils import formatdate

    assert 25 < seconds_of(formatdate(time.time() + 30, usegmt=True)) <= 30
