"""Adds what a guard model says of each answer to a scored file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ..errors import Unscorable
from ..rows.formats import resolve_format
from ..sources.files import open_source
from ..sources.json_values import rows_of
from ..sources.tables import ROWS_AT_ONCE
from ..sources.writing import write_file
from ..validation.guards import GuardJudge

GUARD_UNSAFE = "guard_unsafe"
"""Bool: whether the guard calls the last answer unsafe; null where it says nothing, or the row is no conversation."""


def add_guard_column(path: Path, guard: GuardJudge, format: str = "auto") -> int:  # noqa: A002 - the word users know
    """Rewrite a scored file with the column `guard_unsafe`: content that is itself unsafe, which no score looks for.

    Args:
        path: `.parquet`, `.jsonl` or `.csv`; an earlier column of this name is replaced.
        guard: the model.
        format: how rows become conversations.

    Returns:
        How many answers the guard calls unsafe.

    Raises:
        ModelError: the guard cannot be used.
        OutputError: the file cannot be written; it is left as it was.
    """
    source = open_source(str(path))
    kept = [field for field in source.schema if field.name != GUARD_UNSAFE]
    schema = pa.schema([*kept, pa.field(GUARD_UNSAFE, pa.bool_())], source.schema.metadata)
    row_format = resolve_format(format, source.schema.names)
    columns = row_format.columns(source.schema.names)
    unsafe_answers = 0
    with write_file(path, schema) as writer:
        for table in source.tables(ROWS_AT_ONCE):
            pairs: dict[int, tuple[str, str]] = {}
            for number, row in enumerate(rows_of(table, columns)):
                try:
                    conversation = row_format.convert(row)
                except Unscorable:
                    continue
                pairs[number] = (conversation.prompt, conversation.answer)
            said = guard.read([prompt for prompt, _ in pairs.values()], [answer for _, answer in pairs.values()])
            unsafe: list[bool | None] = [None] * len(table)
            for number, reading in zip(pairs, said, strict=True):
                unsafe[number] = reading.unsafe
            unsafe_answers += sum(verdict is True for verdict in unsafe)
            columns_out = [table[field.name] for field in kept]
            writer.write(pa.table([*columns_out, pa.array(unsafe, pa.bool_())], schema=schema))
    return unsafe_answers
