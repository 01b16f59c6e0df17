"""Rows as Arrow tables: what every reader gives and every writer takes."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from ..errors import DataError
from .json_values import array_of, is_json, rows_of
from .parts import SourceParts

ROWS_AT_ONCE = 4096
_NAMELESS = ".arrow"  # the files of `datasets`: people know the rows of a split, not what lies in which of these


@dataclass(frozen=True)
class DataFile:
    """A file of a dataset, or a slice of one.

    Attributes:
        path: where it is.
        kind: its ending without a compression's ending; it says how the file is read.
        rows: how many of its rows belong to the dataset, from row `first` on.
        marks: (row, byte, line) of some rows' beginnings, where a reader may start.
        field: the key of a JSON object under which its rows lie; empty where they lie under none.
        split: the split that its rows belong to, where splits are kept apart; else empty.
    """

    path: str
    kind: str
    rows: int
    first: int = 0
    marks: tuple[tuple[int, int, int], ...] = ()
    field: str = ""
    split: str = ""


Reader = Callable[[DataFile, pa.Schema, int, int], Iterator[pa.Table]]
"""Reads a file from one of its rows on, in tables of at most so many rows."""


@dataclass(frozen=True)
class Source:
    """Rows to read: their Arrow schema, and the files that hold them, in order.

    Types are the source's own. What JSON mixes in one column (a string here, a number there) is `arrow.json`; CSV
    fields are strings, exactly as written.
    """

    name: str
    schema: pa.Schema
    files: tuple[DataFile, ...]
    reader: Reader

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def first(self, rows: int) -> Source:
        """The same source, as if it ended after so many rows."""
        return replace(self, files=tuple(overlap(self.files, 0, rows)))

    @property
    def splits(self) -> tuple[tuple[str, int], ...]:
        """The splits that are kept apart, in order, with the number of rows of each (none is empty)."""
        counts: dict[str, int] = {}
        for file in self.files:
            if file.split and file.rows:
                counts[file.split] = counts.get(file.split, 0) + file.rows
        return tuple(counts.items())

    @property
    def parts(self) -> SourceParts:
        """The splits by which people find a row or, where they are not kept apart, the files if there are several."""
        if self.splits:
            names, rows = zip(*self.splits, strict=True)
            return SourceParts(names, rows, (0,) * len(names))
        files = [file for file in self.files if file.rows]
        if len(files) < 2 or any(file.kind == _NAMELESS for file in files):
            return SourceParts()
        home = os.path.commonpath([os.path.dirname(file.path) or "." for file in files])  # noqa: PTH120
        return SourceParts(
            tuple(os.path.relpath(file.path, home) for file in files),
            tuple(file.rows for file in files),
            tuple(file.first for file in files),
        )

    def tables(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
        """Rows `start` to `stop`, in tables of `size` rows but for the last, across the borders of files."""
        waiting: list[pa.Table] = []
        for table in self._pieces(size, start, self.rows if stop is None else stop):
            waiting.append(table)
            while (held := sum(map(len, waiting))) >= size:
                joined = pa.concat_tables(waiting) if len(waiting) > 1 else waiting[0]
                yield joined.slice(0, size)
                waiting = [joined.slice(size)] if held > size else []
        if waiting:
            yield pa.concat_tables(waiting)

    def _pieces(self, size: int, start: int, stop: int) -> Iterator[pa.Table]:
        for file in overlap(self.files, start, stop):
            wanted = file.rows
            for table in self.reader(file, self.schema, size, file.first):
                yield table.slice(0, wanted)
                wanted -= len(table)
                if wanted <= 0:
                    break


def slice_of_task(count: int, rank: int, tasks: int) -> tuple[int, int]:
    """First and end of one task's run of `count` things: neighbours, as even as can be."""
    return rank * count // tasks, (rank + 1) * count // tasks


def overlap(files: Iterable[DataFile], start: int, stop: int) -> Iterator[DataFile]:
    """The slices of files that hold the rows `start` to `stop` of them all."""
    place = 0
    for file in files:
        low, high = max(start - place, 0), min(stop - place, file.rows)
        place += file.rows
        if low < high:
            yield replace(file, first=file.first + low, rows=high - low)


def by_split(table: pa.Table, first_row: int, splits: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, pa.Table]]:
    """The rows of a table by the split that they belong to, each with the number of the first row in the source.

    >>> pieces = by_split(pa.table({"x": [3, 4, 5]}), 3, [("train", 5), ("test", 9)])
    >>> [(split, first, rows["x"].to_pylist()) for split, first, rows in pieces]
    [('train', 3, [3, 4]), ('test', 5, [5])]

    Args:
        table: rows that follow one another in the source.
        first_row: the number of the first of them, from 0.
        splits: see `Source.splits`; where there are none, all rows belong to "".
    """
    if not splits:
        yield "", first_row, table
        return
    begin = 0
    for split, rows in splits:
        low, high = max(first_row, begin), min(first_row + len(table), begin + rows)
        if low < high:
            yield split, low, table.slice(low - first_row, high - low)
        begin += rows


def require_splits(source: Source) -> tuple[tuple[str, int], ...]:
    """The splits of a source that keeps them apart; see `Source.splits`.

    Raises:
        DataError: it keeps none apart.
    """
    if not source.splits:
        raise DataError(f"{source.name} is read as one split: a threshold for each split is for `split all`")
    return source.splits


def schema_text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def files_json(files: Sequence[DataFile]) -> list[dict[str, Any]]:
    return [asdict(file) for file in files]


def files_from(listed: Iterable[dict[str, Any]]) -> tuple[DataFile, ...]:
    return tuple(DataFile(**{**file, "marks": tuple(map(tuple, file["marks"]))}) for file in listed)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly this schema, metadata included; a column that it lacks is null.

    Nothing is cast that has its type already: Arrow's cast breaks slices of structs with a field of type null.
    """
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    columns = [
        as_type(table[field.name], field.type)
        if field.name in table.column_names
        else array_of([None] * len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def as_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column as this type, which holds its values as they are."""
    if column.type == kind:
        return column
    if not pa.types.is_nested(kind) and not is_json(kind):
        return column.cast(kind)
    values = [row["x"] for row in rows_of(pa.table({"x": column}), ["x"])]
    return pa.chunked_array([array_of(values, kind)])


def empty_table(schema: pa.Schema) -> pa.Table:
    """No row of this schema, whatever types it has: Arrow's own refuses `arrow.json` inside lists."""
    return pa.table([array_of([], field.type) for field in schema], schema=schema)


def chunks_of(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
