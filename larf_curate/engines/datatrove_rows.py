"""Dataset rows through datatrove without damage: carried whole on the way in, restored on the way out.

A datatrove `Document` is a text with metadata, and its readers and writers know no more of a chat row than that. Here a
row rides in `metadata["larf_row"]`, under one key, so that a column named `rank` or `id` cannot take over a file name.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.io import DataFolderLike, get_datafolder
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints

from ..errors import RowFormatError, Unscorable
from ..rows.formats import FormatLike, resolve_format
from ..scoring.columns import is_larf_column
from ..sources.files import open_source
from ..sources.json_values import array_of, rows_of
from ..sources.tables import ROWS_AT_ONCE, Source, as_type, empty_table, share

ROW, SHARD = "larf_row", "larf_shard"


class CarriedRow(dict[str, Any]):
    """A row as a mapping, which any step may read and JSON writers can write; `record` is the same row in Arrow."""

    record: pa.RecordBatch | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """The row alone: its record is a view of a table, and would take all of that along."""
        return _unpacked, (dict(self), None if self.record is None else _packed(self.record))


def _carried(values: Mapping[str, Any], record: pa.RecordBatch | None) -> CarriedRow:
    row = CarriedRow(values)
    row.record = record
    return row


def _packed(record: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record.schema) as stream:
        stream.write_batch(record)
    return bytes(sink.getvalue().to_pybytes())


def _unpacked(values: Mapping[str, Any], packed: bytes | None) -> CarriedRow:
    return _carried(values, None if packed is None else next(iter(pa.ipc.open_stream(packed))))


def carry_row(_reader: object, data: dict[str, Any], _path: str, _id_in_file: int | str) -> dict[str, Any]:
    """The `adapter` for datatrove's own readers: `JsonlReader("data/", adapter=carry_row)`.

    Those readers have altered some rows before any adapter sees them (integers above 64 bits, NaN, lone surrogates, a
    column named `media`, Parquet's types beyond Python's); `RowReader` alters none.

    The text is the conversation in plain words, never empty, so that no reader drops the row and other filters have
    something to read. The id is a digest of the row's content: unlike a reader's own ids it does not change with the
    number of tasks; equal rows have equal ids.
    """
    content = json.dumps(data, sort_keys=True, default=str)
    identity = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()[:32]
    return {"text": row_text(data), "id": identity, "metadata": {ROW: CarriedRow(data)}}


def row_text(row: Mapping[str, Any], format: FormatLike = "auto") -> str:  # noqa: A002 - the word users know
    """The conversation in plain words; the row as JSON where it is none."""
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
    """Rows of a table as documents that carry them; the first is row `first` of the dataset `name`."""
    for place, values in enumerate(rows_of(table, table.column_names)):
        row = _carried(values, table.slice(place, 1).combine_chunks().to_batches()[0])
        part = {} if shard is None else {SHARD: shard}
        yield Document(row_text(row, format), f"{name}/{first + place}", metadata={ROW: row, **part})


def row_of(document: Document) -> Mapping[str, Any]:
    """The carried row; of a document that carries none, its metadata, text and id as columns."""
    carried: Mapping[str, Any] | None = document.metadata.get(ROW)
    return {"text": document.text, "id": document.id, **document.metadata} if carried is None else carried


def table_of(documents: Sequence[Document], schema: pa.Schema) -> pa.Table:
    """The rows that documents carry, and from their metadata the larf columns and those that rows lack.

    A row is written from its Arrow record, so that no value passes through Python; one that a step has altered since
    is written as altered. Rows out of datatrove's own readers are Python values already: its Parquet reader cuts
    `time64[ns]` to microseconds, and gives `arrow.json` as text.
    """
    pieces = [_piece(list(group), record, schema) for record, group in groupby(documents, key=_record_schema)]
    return pa.concat_tables(pieces) if pieces else empty_table(schema)


def _piece(documents: list[Document], record: pa.Schema | None, schema: pa.Schema) -> pa.Table:
    """Neighbours whose records are as they were, of one schema; or neighbours that go through Python."""
    found = [row_of(document) for document in documents]
    names = set(record.names) if record is not None else {name for row in found for name in row}
    rows = None if record is None else pa.Table.from_batches([row.record for row in found])  # type: ignore[attr-defined]
    columns: list[pa.Array | pa.ChunkedArray] = []
    for field in schema:
        added = is_larf_column(field.name) and any(field.name in document.metadata for document in documents)
        if added or field.name not in names:
            columns.append(pa.array([document.metadata.get(field.name) for document in documents], field.type))
        elif rows is not None:
            columns.append(as_type(rows[field.name], field.type))
        else:
            pairs = zip(documents, found, strict=True)
            values = [(row if field.name in row else document.metadata).get(field.name) for document, row in pairs]
            columns.append(array_of(values, field.type))
    return pa.table(columns, schema=schema)


def _record_schema(document: Document) -> pa.Schema | None:
    """Of the row's record, where the row still says what the record says."""
    row = document.metadata.get(ROW)
    record: pa.RecordBatch | None = getattr(row, "record", None)
    if record is None:
        return None
    before = rows_of(pa.Table.from_batches([record]), record.schema.names)[0]
    # As text, since True equals 1 and NaN does not equal itself.
    same = json.dumps(before, default=repr) == json.dumps(row, default=repr)
    return record.schema if same else None


class RowReader(PipelineStep):
    """Reads a dataset as documents that carry their rows whole, each row once, whatever the number of tasks.

    A row's id is the dataset's name and the row's number. Every task reads a run of neighbours.

    Args:
        source: from `open_source`, or what that takes: a file, a pattern, a directory, a Hub id.
        format: how rows become the plain text that other steps see; see `row_text`.
    """

    type = "📖 - READER"
    name = "🧾 LARF rows"

    def __init__(self, source: Source | str, format: FormatLike = "auto") -> None:  # noqa: A002
        super().__init__()
        self.source = open_source(source) if isinstance(source, str) else source
        self.format = format

    def run(self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        yield from data or ()
        first, stop = share(self.source.rows, rank, world_size)
        for table in self.source.tables(ROWS_AT_ONCE, first, stop):
            for document in documents_of(table, self.source.name, first, None, self.format):
                self.stat_update(StatHints.total)
                yield document
            first += len(table)


class RowWriter(PipelineStep):
    """Writes the rows that documents carry to Parquet: the source's columns and types, and the larf columns.

    A file appears under its name when the task has ended well; until then it lies beside it, under a hidden name, and
    goes if the task fails. Serves as a last step and as a filter's `exclusion_writer`.

    Args:
        output_folder: where to; anything that datatrove takes.
        schema: the columns to write: `scored_schema(open_source("data/*.jsonl").schema, scorer.spec)`; with the field
            `filter_reason` (string) for the reasons of an exclusion writer.
        output_filename: with `${rank}`, so that no two tasks write one file.
        batch_size: rows gathered before they are written.
    """

    type = "💽 - WRITER"
    name = "🧾 LARF rows"

    def __init__(
        self,
        output_folder: DataFolderLike,
        schema: pa.Schema,
        output_filename: str = "${rank}.parquet",
        batch_size: int = 1000,
    ) -> None:
        super().__init__()
        if "${rank}" not in output_filename:
            raise ValueError(f"output_filename needs ${{rank}}, or tasks overwrite each other: {output_filename!r}")
        if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
            raise ValueError(f"schema has the column {twice[0]!r} twice: rename the one of the source")
        self.output_folder = get_datafolder(output_folder)
        self.schema = schema
        self.output_filename = output_filename
        self.batch_size = batch_size
        self._waiting: defaultdict[str, list[Document]] = defaultdict(list)
        self._open: dict[str, tuple[IO[bytes], pq.ParquetWriter]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        failed = raised[0] is not None
        try:
            if not failed:
                for name in list(self._waiting):
                    self._flush(name)
        finally:
            failed = failed or any(self._waiting.values())
            for name, (file, writer) in self._open.items():
                try:
                    with file, writer:
                        pass
                except BaseException:
                    failed = True
                    raise
                finally:
                    if failed:
                        with suppress(OSError):
                            self.output_folder.rm(_hidden(name))
                    else:
                        self.output_folder.mv(_hidden(name), name)
            self._waiting.clear()
            self._open.clear()

    def write(self, document: Document, rank: int = 0, **_: Any) -> None:
        """Take one document; `rank` names the file."""
        name = self.output_filename.replace("${rank}", f"{rank:05d}")
        self._waiting[name].append(document)
        self.stat_update(StatHints.total)
        if len(self._waiting[name]) >= self.batch_size:
            self._flush(name)

    def _flush(self, name: str) -> None:
        if not self._waiting[name]:
            return
        table = table_of(self._waiting[name], self.schema)
        if name not in self._open:
            file = self.output_folder.open(_hidden(name), "wb")
            try:
                self._open[name] = (file, pq.ParquetWriter(file, self.schema))
            except BaseException:  # Parquet cannot hold every type
                file.close()
                self.output_folder.rm(_hidden(name))
                raise
        self._open[name][1].write_table(table)
        self._waiting[name] = []

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        with self:
            for document in data:
                with self.track_time():
                    self.write(document, rank)
                yield document


def _hidden(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/.{file}.part" if folder else f".{file}.part"
