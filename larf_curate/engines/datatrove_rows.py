"""Dataset rows carried through datatrove unchanged: stored whole in documents, and restored from them.

A datatrove `Document` is a text with metadata; datatrove knows nothing of chat rows. Here the whole row is stored in
`metadata["larf_row"]`. If its columns were metadata keys themselves, a column named `rank` or `id` could change the
name of an output file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
from datatrove.data import Document

from ..errors import RowFormatError, Unscorable
from ..rows.formats import FormatLike, resolve_format
from ..rows.score_columns import prefix_of, score_columns
from ..sources.json_values import array_of, rows_of
from ..sources.tables import as_type, empty_table

ROW, SHARD = "larf_row", "larf_shard"
"""Keys of a document's metadata: the carried row, and the name of the shard it comes from."""


class CarriedRow(dict[str, Any]):
    """A row as a dictionary of Python values, which any step can read and JSON writers can write.

    Attributes:
        record: the same row as an Arrow record batch of one row, with its exact types; None where there is none.
        text: the text of the document that carried it first; None if that is not known.
    """

    record: pa.RecordBatch | None = None
    text: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the one row: its record is a view of a table, and pickling that would copy the whole table."""
        return _unpacked, (dict(self), None if self.record is None else _packed(self.record), self.text)


def _carried(values: Mapping[str, Any], record: pa.RecordBatch | None, text: str | None) -> CarriedRow:
    row = CarriedRow(values)
    row.record, row.text = record, text
    return row


def _packed(record: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record.schema) as stream:
        stream.write_batch(record)
    return bytes(sink.getvalue().to_pybytes())


def _unpacked(values: Mapping[str, Any], packed: bytes | None, text: str | None) -> CarriedRow:
    return _carried(values, None if packed is None else next(iter(pa.ipc.open_stream(packed))), text)


def carry_row(_reader: object, data: dict[str, Any], _path: str, _id_in_file: int | str) -> dict[str, Any]:
    """The `adapter` for datatrove's own readers: `JsonlReader("data/", adapter=carry_row)`.

    datatrove's readers change some values before an adapter sees them: integers above 64 bits, NaN, lone surrogates, a
    column named `media`, and Parquet types that Python has no equal of. `RowReader` changes no value.

    The document's text is the conversation as plain text. It is never empty, since readers drop documents without text.
    The document's id is a hash of the row's content. Unlike the ids of datatrove's readers it does not depend on the
    number of tasks, and equal rows have equal ids.
    """
    content = json.dumps(data, sort_keys=True, default=str)
    identity = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()[:32]
    text = row_text(data)
    return {"text": text, "id": identity, "metadata": {ROW: _carried(data, None, text)}}


def row_text(row: Mapping[str, Any], format: FormatLike = "auto") -> str:  # noqa: A002 - the word users know
    """The conversation as plain text; for a row that holds none, the row as JSON."""
    try:
        conversation = resolve_format(format, row).convert(row)
        text = f"{conversation.prompt}\n\n{conversation.answer}".strip()
    except (RowFormatError, Unscorable):
        text = ""
    return text or json.dumps(row, default=str, ensure_ascii=False)


def documents_of(
    table: pa.Table,
    name: str,
    first: int,
    shard: str | None,
    format: FormatLike,  # noqa: A002 - the word users know
) -> Iterator[Document]:
    """The rows of a table as documents.

    Args:
        table: consecutive rows of a dataset.
        name: the name of the dataset; a document's id is this name and the number of its row.
        first: the number of the table's first row in the dataset.
        shard: the shard that the rows belong to, if any.
        format: how rows become plain text; see `row_text`.
    """
    shard_entry = {} if shard is None else {SHARD: shard}
    for index, values in enumerate(rows_of(table, table.column_names)):
        text = row_text(values, format)
        row = _carried(values, table.slice(index, 1).combine_chunks().to_batches()[0], text)
        yield Document(text, f"{name}/{first + index}", metadata={ROW: row, **shard_entry})


def row_of(document: Document) -> Mapping[str, Any]:
    """The row that a document carries; for a document without one, its text, id and metadata as columns."""
    carried: Mapping[str, Any] | None = document.metadata.get(ROW)
    return {"text": document.text, "id": document.id, **document.metadata} if carried is None else carried


def has_changed_text(document: Document) -> bool:
    """Whether the text of a document is no longer the one that it had when it began to carry its row.

    Steps that change a row change `metadata["larf_row"]`; datatrove's own steps know only the text. A row that was read
    from a file in between has lost its text: it is then compared with `row_text`.
    """
    row = document.metadata.get(ROW)
    if not isinstance(row, Mapping):
        return False
    before: str | None = getattr(row, "text", None)
    text: str = document.text
    return text != (row_text(row) if before is None else before)


def table_of(documents: Sequence[Document], schema: pa.Schema) -> pa.Table:
    """The rows that documents carry, as a table of this schema.

    What scoring has added, and columns that the rows do not have, are taken from the documents' metadata. All others
    are taken from the rows' Arrow records, which keep every value exactly. If a step has changed a row's Python values,
    those are written instead. Rows from datatrove's own readers have no Arrow record, and its Parquet reader loses some
    types: it cuts `time64[ns]` to microseconds, and reads `arrow.json` as text.

    Raises:
        RowFormatError: the documents are scored under a prefix that the schema has no columns of.
    """
    tables = [
        _table_of_group(list(group), record_schema, schema)
        for record_schema, group in groupby(documents, key=_unchanged_record_schema)
    ]
    return pa.concat_tables(tables) if tables else empty_table(schema)


def _table_of_group(documents: list[Document], record_schema: pa.Schema | None, schema: pa.Schema) -> pa.Table:
    """Consecutive documents with unchanged records of one schema; with None, documents whose Python values count."""
    rows = [row_of(document) for document in documents]
    names = set(record_schema.names) if record_schema is not None else {name for row in rows for name in row}
    records = None if record_schema is None else pa.Table.from_batches([row.record for row in rows])  # type: ignore[attr-defined]
    scored = score_columns({name for document in documents for name in document.metadata})
    _require_columns_of(scored, schema, names)
    columns: list[pa.Array | pa.ChunkedArray] = []
    for field in schema:
        if field.name in scored or field.name not in names:
            columns.append(pa.array([document.metadata.get(field.name) for document in documents], field.type))
        elif records is not None:
            columns.append(as_type(records[field.name], field.type))
        else:
            pairs = zip(documents, rows, strict=True)
            values = [(row if field.name in row else document.metadata).get(field.name) for document, row in pairs]
            columns.append(array_of(values, field.type))
    return pa.table(columns, schema=schema)


def _require_columns_of(scored: frozenset[str], schema: pa.Schema, row_columns: set[str]) -> None:
    """Make sure that a schema for scores of one prefix does not lose those that documents have under another.

    Args:
        scored: what scoring has added to the documents.
        schema: of the rows that are to be written.
        row_columns: what the documents' rows have.

    Raises:
        RowFormatError: it has columns for scores that no document has, and none for those that they have.
    """
    lost = {prefix_of(name) for name in scored} - {prefix_of(name) for name in schema.names}
    empty = sorted(score_columns(schema.names) - scored - row_columns)
    if lost and empty:
        raise RowFormatError(
            f"the schema has {empty[0]!r}, and documents have other scores ({', '.join(sorted(scored))}): "
            "call scored_schema with the prefix of their scorer, prefix=scorer.prefix"
        )


def _unchanged_record_schema(document: Document) -> pa.Schema | None:
    """The schema of the row's Arrow record; None without a record, or if a step has changed the row's values since."""
    row = document.metadata.get(ROW)
    record: pa.RecordBatch | None = getattr(row, "record", None)
    if record is None:
        return None
    values_read = rows_of(pa.Table.from_batches([record]), record.schema.names)[0]
    # Compared as text, since True equals 1 and NaN does not equal itself.
    unchanged = json.dumps(values_read, default=repr) == json.dumps(row, default=repr)
    return record.schema if unchanged else None
