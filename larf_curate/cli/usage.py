"""What several commands share: arguments, and what counts as wrong usage."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from ..atomic import require_writable
from ..errors import DataError, LarfError, RowFormatError, ThresholdError
from ..json_fields import has_fields
from ..models.options import OPTIONS
from ..progress import say, suggest
from ..rows.formats import FORMATS, check_format
from ..rows.reading import Reading, check_join, parse_columns
from ..rows.score_columns import ColumnNames
from ..written import claim_file

if TYPE_CHECKING:
    from ..deciding.summary import Summary
    from ..scoring.weights import WeightRange

Model = Annotated[str, typer.Argument(help=OPTIONS["model"].about.help)]
Split = Annotated[str | None, typer.Option(help="Split of a dataset that has several; `all` keeps every split apart.")]
Format = Annotated[str, typer.Option(help=f"Row format: auto, or one of: {', '.join(FORMATS)}.")]
Config = Annotated[str | None, typer.Option(help="Configuration of a dataset that has several.")]
Field = Annotated[str | None, typer.Option(help="Key of a JSON object under which its rows lie.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--map", help="Names of your columns: query=prompt, or several, with commas.", metavar="THEIRS=OURS"),
]
Join = Annotated[
    str | None,
    typer.Option(
        help="Between a request and its input, or a template with {instruction} and {input}; else a line break."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else.")]
Weight = Annotated[
    str | None,
    typer.Option(
        help="Add larf_weight: 1 up to a lower score, 0 from an upper one, a straight line between.",
        metavar="LOWER,UPPER",
    ),
]
Prefix = Annotated[
    str,
    typer.Option(help="What the names of the score's columns begin with, so that several scores live in a dataset."),
]
RunDirectory = Annotated[Path, typer.Argument(help="Directory that `run` or `filter` has written.")]


STANDARD = "-"
"""In place of a file's name: standard input or output, as JSON lines."""


@contextlib.contextmanager
def rows_from(data: str) -> Iterator[str]:
    """The name of a dataset as it is typed; for `-`, that of a file that holds what came on standard input."""
    if data != STANDARD:
        yield data
        return
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "stdin.jsonl"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            yield str(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), "standard input")) from error


@contextlib.contextmanager
def rows_to(out: Path) -> Iterator[Path]:
    """Where rows are written; for `-`, a file that goes to standard output when all of it is written."""
    if str(out) != STANDARD:
        yield out
        return
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "stdout.jsonl"
        yield path
        with path.open("rb") as file:
            sys.stdout.flush()
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def reading_of(name: str, columns: list[str] | None, join: str | None) -> str:
    """The format that was asked for, with the names of columns and the join, as one text; see `Reading`."""
    with wrong_usage(RowFormatError, "--format"):
        check_format(name)
    with wrong_usage(RowFormatError):
        names = parse_columns(columns or ())
        return Reading(name, names, None if join is None else check_join(join)).to_text()


def weight_of(text: str | None) -> WeightRange | None:
    """The two scores of `--weight`; None if it was not given."""
    from ..scoring.weights import WeightRange

    with wrong_usage(ThresholdError, "--weight"):
        return None if text is None else WeightRange.from_text(text)


def names_of(prefix: str) -> ColumnNames:
    """The names of the columns with the prefix that was typed."""
    with wrong_usage(RowFormatError, "--prefix"):
        return ColumnNames(prefix)


def refuse_unscored(summary: Summary) -> None:
    """Say loudly that most rows have no score.

    Raises:
        DataError: none has one.
    """
    if summary.complaint and not summary.scored:
        raise DataError(summary.complaint)
    if summary.complaint:
        say(summary.complaint)


def require_figures(out: Path | None, field: str) -> None:
    """Find out before the long work, not after it, that figures and a picture beside them cannot be written.

    Args:
        out: the file of figures.
        field: one that earlier figures of this kind have.

    Raises:
        OutputError: nothing can be written there, or a file of somebody else lies there.
    """
    from ..publishing.drawing import is_our_picture

    require_json(out)
    if out is not None:
        require_writable(out)
        claim_file(out, lambda file: has_fields(file, (field,)))
        claim_file(out.with_suffix(".png"), is_our_picture)


def require_json(out: Path | None) -> None:
    """Make sure that the file of figures does not have the name of the picture that is written beside it."""
    if out is not None and out.suffix.lower() == ".png":
        raise typer.BadParameter("it is a JSON file, and the picture beside it ends in .png", param_hint="--out")


def tell_to_look(results: str | Path) -> None:
    """Name the command that shows what was removed into a directory of results."""
    suggest(f"larf-curate report {quote(str(results))} --html report.html, and look through what was removed")


@contextlib.contextmanager
def wrong_usage(kind: type[LarfError], option: str | None = None) -> Iterator[None]:
    """Errors of this kind come from what was typed, not from the data: the exit status is 2, not 1.

    Args:
        kind: the class of the errors.
        option: the option that was typed wrong, if it is known.
    """
    try:
        yield
    except kind as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def parse_blocks(text: str, option: str = "--layer") -> list[int]:
    """Blocks as they are typed: `12`, or `11,13,16`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a block number, nor several with commas", param_hint=option
        ) from None
