"""What several commands share: arguments, and what counts as wrong usage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..errors import LarfError
from ..models.options import OPTIONS
from ..rows.formats import FORMATS

Model = Annotated[str, typer.Argument(help=OPTIONS["model"].about.help)]
Split = Annotated[str | None, typer.Option(help="Split of a dataset that has several.")]
Format = Annotated[str, typer.Option(help=f"Row format: auto, or one of: {', '.join(FORMATS)}.")]
RunDirectory = Annotated[Path, typer.Argument(help="Directory that `run` or `filter` has written.")]


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
