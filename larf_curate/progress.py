"""Long work shows how far it is: a bar on a terminal or in a notebook, plain lines in a log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from .inert import visible

_PATIENCE = 1.0  # seconds before anything is shown
_LOG_EVERY = 30.0  # seconds between lines in a log
_LONGEST = 10_000  # characters of a line

Update = Callable[[int], None]

_shown: list[TextIO] = []


@contextlib.contextmanager
def shown_on(stream: TextIO) -> Iterator[None]:
    """Show progress there while standard error goes elsewhere."""
    _shown.append(stream)
    try:
        yield
    finally:
        _shown.pop()


LOGGER = logging.getLogger("larf_curate")
"""Everything that is said goes through this logger, at INFO; what only a search for a fault needs, at DEBUG.

At WARNING nothing is said and no bar is shown; `larf-curate -q` and `-v` set WARNING and DEBUG.
"""


class _Shown(logging.Handler):
    """Prints a record where progress is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        # A notebook shows standard error as if something had gone wrong.
        stream = sys.stdout if "ipykernel" in sys.modules and not _shown else _stream()
        print(self.format(record), file=stream, flush=True)


LOGGER.addHandler(_Shown())
LOGGER.setLevel(logging.INFO)
LOGGER.propagate = False  # a root logger with a handler of its own would print every line twice


def say(line: str) -> None:
    """One line to whoever watches, beside the bar if there is one; whatever comes from data in it is text."""
    LOGGER.info("%s", visible(line, _LONGEST, lines=True))


def detail(line: str) -> None:
    """One line for whoever looks for a fault: it is shown with `-v`, or where the logger's level is DEBUG."""
    LOGGER.debug("%s", visible(line, _LONGEST, lines=True))


def tell(line: str) -> None:
    """One line of a command's result, on standard output; whatever comes from data in it is text."""
    print(visible(line, _LONGEST, lines=True))


def suggest(line: str) -> None:
    """What a user may do next, on standard output after the result; nothing with `-q`."""
    if LOGGER.isEnabledFor(logging.INFO):
        tell(f"next: {line}")


def _stream() -> TextIO:
    return _shown[-1] if _shown else sys.stderr


def bars_wanted() -> bool:
    """Whether a bar may be drawn: on a terminal or in a notebook, unless the user has switched the Hub's bars off."""
    switched_off = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in ("1", "ON", "YES", "TRUE")
    return not switched_off and (_stream().isatty() or "ipykernel" in sys.modules)


@contextlib.contextmanager
def progress(
    total: int, label: str, *, unit: str = "row", show: bool = True, patience: float = _PATIENCE
) -> Iterator[Update]:
    """Yields a function to call with the number of rows (or other units) just done; shows rate and time left.

    Args:
        total: how many there are.
        label: what is done with them, in a word.
        unit: what is counted.
        show: False for silence.
        patience: seconds before a bar is shown.
    """
    if not show or not LOGGER.isEnabledFor(logging.INFO):
        yield lambda _: None
    elif bars_wanted():
        from tqdm.auto import tqdm

        with tqdm(
            total=total, desc=label, unit=unit, delay=patience, smoothing=0.05, file=_shown[-1] if _shown else None
        ) as bar:

            def update(count: int) -> None:
                bar.update(count)

            yield update
    else:
        yield _Log(total, label, unit).update


class _Log:
    def __init__(self, total: int, label: str, unit: str) -> None:
        self.total, self.label, self.unit, self.done = total, label, unit, 0
        self.started = self.last_line = time.monotonic()

    def update(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last_line >= _LOG_EVERY:
            self.last_line = now
            line = f"{self.label}: {self.done}/{self.total} {self.unit}s"
            if rate := self.done / (now - self.started):
                line += f", {rate:.1f} {self.unit}s/s, {_clock((self.total - self.done) / rate)} left"
            say(line)


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"


_hub_bars: list[bool] = []
"""For each `quiet` that lasts: whether the Hub's bars were on before it."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' loading bars and reports: cutting a model leaves weights unused, and that is meant."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    _hub_bars.append(not are_progress_bars_disabled())
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        _hub_bars.pop()
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def uploads_as_wanted() -> Iterator[None]:
    """With the Hub's bars of files on their way where bars are wanted, and without them in a log or with `-q`."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled() or (bars_wanted() and LOGGER.isEnabledFor(logging.INFO)):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def downloads_shown() -> Iterator[None]:
    """Within `quiet`: with the Hub's bars of files on their way, which transformers switches off beside its own."""
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    shown = bool(_hub_bars) and _hub_bars[-1] and bars_wanted()
    if shown:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            disable_progress_bars()
