"""The command line: run, fit, layers, score, filter, audit, validate, report, push, demo, env."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from ..errors import LarfError, RecipeError
from ..progress import LOGGER
from . import about, audits, results, rows, runs, sample, scorers, validation
from .common_options import CONTEXT, with_common_options

_INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

app = typer.Typer(
    no_args_is_help=True,
    context_settings=CONTEXT,
    pretty_exceptions_enable=False,
    help="Find the rows of a fine-tuning dataset that would erode an aligned model's refusals, and remove them.",
)
app.command()(with_common_options(runs.run))
app.command()(with_common_options(scorers.fit))
app.command()(with_common_options(scorers.layers))
app.command()(with_common_options(rows.score))
app.command(name="filter")(with_common_options(rows.filter_))
app.command()(with_common_options(audits.audit))
app.command()(with_common_options(validation.validate))
app.command()(with_common_options(results.report))
app.command()(with_common_options(results.push))
app.command()(with_common_options(sample.demo))
app.command()(with_common_options(about.env))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    if version:
        from .. import __version__

        print(__version__)
        raise typer.Exit


def main() -> None:
    """The entry point. It exits with 0: done, 1: data or model cannot be used, 2: wrong usage, 130: interrupted."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked workers would warn about it
    level = LOGGER.level
    try:
        with _ended_like_ctrl_c():
            app(prog_name="larf-curate")
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:  # typer turns Ctrl-C into this, and says nothing
            _fail("interrupted; nothing was left half written", _INTERRUPTED)
        raise
    except LarfError as error:
        _fail(str(error), 2 if isinstance(error, RecipeError) else 1)
    except OSError as error:
        if error.errno not in _FULL:
            _fail_as_a_defect(error)
        _fail(f"{error.filename or 'standard output'} cannot be written: {error.strerror}", 1)
    except MemoryError:
        _fail("out of memory; try a smaller --batch-tokens", 1)
    except Exception as error:
        _fail_as_a_defect(error)
    finally:
        LOGGER.setLevel(level)  # of a process that goes on


class _WorkerInterrupt(KeyboardInterrupt, SystemExit):
    """Ctrl-C in a forked process. A pool's worker that has no task ends by it as by `sys.exit(1)`, without a traceback.

    A worker that has one records that it was interrupted.
    """

    def __init__(self) -> None:
        self.code = 1


class _Fork:
    """Whether a thread is in the middle of `os.fork`, and what an interrupt raises in this process."""

    under_way = False
    interrupt: type[KeyboardInterrupt] = KeyboardInterrupt


def _interrupt(number: int, _: object) -> None:
    if not _Fork.under_way:
        raise _Fork.interrupt
    # Python drops what is raised while it calls `at_fork` functions. Ctrl-C would be lost, and with it the call that
    # gives back the lock of `logging` or loguru, for which other threads would wait for ever.
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


def _guarded(fork: Callable[[], int]) -> Callable[[], int]:
    """`os.fork`, in the middle of which no interrupt is raised, and after which a new process can be ended at once.

    Until the new process has its own handlers it has ours, and Python forgets what these have been told before it. A
    pool that ends a worker in these milliseconds would wait for it for ever; so SIGTERM waits until they are over.

    A function of our own at `os.register_at_fork` could not tell: those that other packages register later are called
    before it and after it.
    """

    def guarded_fork() -> int:
        _Fork.under_way = True
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            return fork()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _Fork.under_way = False

    return guarded_fork


def _in_forked_process() -> None:
    """Ctrl-C ends a forked process without a traceback; SIGTERM, by which pools end their workers, at once.

    Python would handle SIGTERM when the main thread runs Python code next. That of a worker that waits for a lock may
    never do so, and the pool would wait for the worker.
    """
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is _interrupt:
        _Fork.interrupt = _WorkerInterrupt


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which systems and job queues send, leave things as Ctrl-C does: cleaned up, and with a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
    fork = getattr(os, "fork", None)  # Windows has none
    if fork is not None:
        os.fork = _guarded(fork)
    try:
        yield
    finally:
        if fork is not None:
            os.fork = fork
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail_as_a_defect(error: Exception) -> None:
    if os.environ.get("LARF_CURATE_DEBUG"):
        raise error
    _fail(f"{type(error).__name__}: {error} (a defect of larf-curate; LARF_CURATE_DEBUG=1 shows where)", 1)


def _fail(message: str, code: int) -> None:
    from ..inert import visible  # names of columns and files come from the user's data

    print(f"larf-curate: {visible(message, 4000)}", file=sys.stderr)
    sys.exit(code)
