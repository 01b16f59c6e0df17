"""Long work says how far it is, in a form that suits where it is read."""

from __future__ import annotations

import io
import sys

import pytest

from larf_curate import progress as module
from larf_curate.progress import progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(module.time, "monotonic", found.monotonic)
    return found


def work(clock: Clock, total: int, steps: int, seconds: float, **options: bool) -> None:
    with progress(total, "scoring", **options) as update:
        for _ in range(steps):
            clock.now += seconds
            update(10)


def test_a_log_gets_plain_lines_with_rate_and_time_left(clock, capsys):
    work(clock, total=1000, steps=5, seconds=20)
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 20/1000 rows, 0.5 rows/s, 00:32:40 left",
        "scoring: 40/1000 rows, 0.5 rows/s, 00:32:00 left",
    ]


def test_work_of_days_says_days(clock, capsys):
    """10 rows a minute, 57,600 to go: four days, not midnight."""
    work(clock, total=57_610, steps=1, seconds=60)
    left = capsys.readouterr().err.split("rows/s, ")[1]
    assert left.startswith(("96:00:00", "4 days")), left


def test_short_work_says_nothing(clock, capsys):
    work(clock, total=100, steps=10, seconds=2.9)
    assert capsys.readouterr().err == ""


def test_hidden_work_says_nothing(clock, capsys):
    work(clock, total=100, steps=10, seconds=100, show=False)
    assert capsys.readouterr().err == ""


def test_rows_that_take_no_time_divide_by_nothing(clock, capsys):
    with progress(100, "scoring") as update:
        clock.now += 40
        update(0)
        update(50)
    assert capsys.readouterr().err == "scoring: 0/100 rows\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    with progress(40, "scoring", patience=0) as update:
        update(10)
        update(30)
    last = out.getvalue().split("\r")[-1]
    assert "scoring: 100%" in last
    assert "40/40" in last
    assert "row/s" in last


def test_a_terminal_gets_no_bar_for_short_work(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    with progress(40, "scoring") as update:
        update(40)
    assert out.getvalue().strip() == ""


def test_bars_of_downloads_are_there_while_weights_are_read_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    assert not are_progress_bars_disabled()
    with module.quiet(), module.downloads_shown():
        assert are_progress_bars_disabled(), "a bar in a log"
    monkeypatch.setattr("sys.stderr", Terminal())
    with module.quiet():
        assert are_progress_bars_disabled()
        with module.downloads_shown():
            assert not are_progress_bars_disabled()
            assert not logging.is_progress_bar_enabled()
        assert are_progress_bars_disabled()
    assert not are_progress_bars_disabled()


def test_bars_of_downloads_that_a_user_has_switched_off_stay_off() -> None:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disable_progress_bars()
    try:
        with module.quiet(), module.downloads_shown():
            assert are_progress_bars_disabled()
    finally:
        enable_progress_bars()


@pytest.mark.parametrize("value", ["1", "on", "TRUE"])
def test_a_terminal_gets_lines_where_the_bars_of_the_hub_are_switched_off(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", value)
    work(clock, total=1000, steps=5, seconds=20)
    assert screen.getvalue().splitlines()[0] == "scoring: 20/1000 rows, 0.5 rows/s, 00:32:40 left"
    assert "\r" not in screen.getvalue()
