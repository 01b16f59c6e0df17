"""Where rows of a split dataset were in their source, as the files below `source_rows/` say it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ..sources.parts import Ints, SourceParts, row_of_part

ROW, PART, ROW_OF_PART = "row", "part", "row_of_part"


@dataclass(frozen=True)
class SourceRow:
    """Where a row was in its source.

    Attributes:
        row: its number, from 0.
        place: where a person finds it if the source has several splits or files (`17 of test`); empty if not.
    """

    row: int
    place: str = ""


def source_rows_schema(parts: SourceParts) -> pa.Schema:
    """The number of each row in the source; of a source in parts also the part, and the number in that."""
    fields = [pa.field(ROW, pa.int64())]
    if parts:
        fields += [pa.field(PART, pa.string()), pa.field(ROW_OF_PART, pa.int64())]
    return pa.schema(fields)


def source_rows_table(numbers: Ints, parts: SourceParts) -> pa.Table:
    """Rows by their numbers in the source [n], as a table of `source_rows_schema`."""
    columns = [pa.array(numbers)]
    if parts:
        part, row = parts.locate(numbers)
        columns += [pa.array(parts.names).take(pa.array(part)), pa.array(row)]
    return pa.table(columns, schema=source_rows_schema(parts))


def source_row(fields: dict[str, object]) -> SourceRow:
    """One row of such a table, out of the columns that it has.

    >>> source_row({"row": 20, "part": "test", "row_of_part": 17})
    SourceRow(row=20, place='17 of test')
    """
    row, part, row_of = fields[ROW], fields.get(PART), fields.get(ROW_OF_PART)
    if not isinstance(row, int):
        raise TypeError(f"a row has no number in its source, but {row!r}")
    return SourceRow(row, row_of_part(row_of, str(part)) if isinstance(row_of, int) else "")
