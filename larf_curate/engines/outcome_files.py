"""The files of a split dataset: rows by outcome and split, and beside each file where in the source its rows were."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from ..deciding.layout import SOURCE_ROWS
from ..deciding.source_rows import source_rows_schema, source_rows_table
from ..sources.parts import Ints, SourceParts
from ..sources.writing import TableWriter, write_file


class OutcomeFiles:
    """Writes rows under `kept/`, `removed/` and `unscorable/`, and their numbers under `source_rows/`.

    Files are whole when the context ends.

    Args:
        home: the directory of all these.
        schema: of the rows.
        parts: of the source.
        name: of the file with the rows of a split, below the directory of their outcome.
    """

    def __init__(self, home: Path, schema: pa.Schema, parts: SourceParts, name: Callable[[str], str]) -> None:
        self._home, self._schema, self._parts, self._name = home, schema, parts, name
        self._stack = ExitStack()
        self._writers: dict[str, tuple[TableWriter, TableWriter]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def write(self, outcome: str, split: str, rows: pa.Table, numbers: Ints) -> None:
        """Add rows of one outcome and split, with their numbers in the source."""
        rows_file, numbers_file = self._of(outcome, split)
        rows_file.write(rows)
        numbers_file.write(source_rows_table(numbers, self._parts))

    def write_empty(self, outcome: str) -> None:
        """Make files without rows, for their columns."""
        self._of(outcome, "")

    def _of(self, outcome: str, split: str) -> tuple[TableWriter, TableWriter]:
        name = f"{outcome}/{self._name(split)}"
        if name not in self._writers:
            rows, numbers = self._home / name, self._home / SOURCE_ROWS / name
            self._writers[name] = (
                self._stack.enter_context(write_file(rows, self._schema)),
                self._stack.enter_context(write_file(numbers, source_rows_schema(self._parts), counting=True)),
            )
        return self._writers[name]
