"""The two ends of a datatrove pipeline: a step that reads a dataset as documents, and one that writes their rows.

See `datatrove_rows` for how a document carries a row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.io import DataFolderLike, get_datafolder
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.typeshelper import StatHints

from ..rows.formats import FormatLike
from ..scoring.public_names import public_id
from ..sources.files import open_source
from ..sources.tables import ROWS_AT_ONCE, Source, slice_of_task
from .changed_texts import StepsBefore
from .datatrove_rows import ROW, documents_of, has_changed_text, table_of


class RowReader(PipelineStep):
    """Reads a dataset as documents that carry their whole rows. Each row is read by exactly one of the tasks.

    A document's id is the dataset's name, without directories, and the row's number. Every task reads consecutive rows.

    Args:
        source: an opened source, or an argument of `open_source`: a file, a pattern, a directory, a Hub id.
        format: how rows become the plain text that other steps see; see `row_text`.
    """

    type = "📖 - READER"
    name = "🧾 LARF rows"

    def __init__(self, source: Source | str, format: FormatLike = "auto") -> None:  # noqa: A002
        super().__init__()
        self.source = open_source(source) if isinstance(source, str) else source
        self.format = format

    def run(self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents of `data`, then this task's rows of the dataset as documents."""
        yield from data or ()
        first, stop = slice_of_task(self.source.rows, rank, world_size)
        for table in self.source.tables(ROWS_AT_ONCE, first, stop):
            for document in documents_of(table, public_id(self.source.name), first, None, self.format):
                self.stat_update(StatHints.total)
                yield document
            first += len(table)


class RowWriter(PipelineStep):
    """Writes the rows that documents carry to Parquet: the source's columns and types, and the larf columns.

    Until its task has ended, a file has a hidden name beside its own; it is then renamed, or deleted if the task
    failed. It can be the last step, or a filter's `exclusion_writer`.

    Args:
        output_folder: a local or remote directory, as for datatrove's own writers.
        schema: the columns to write: `scored_schema(open_source("data/*.jsonl").schema, scorer.spec)`; with the field
            `filter_reason` (string) for the reasons of an exclusion writer.
        output_filename: must contain `${rank}`, so that no two tasks write to the same file.
        batch_size: rows that are collected before they are written.

    Raises:
        ValueError: `output_filename` lacks `${rank}`, or `schema` has a column twice.
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
        if repeated := [name for name, count in Counter(schema.names).items() if count > 1]:
            raise ValueError(f"schema has the column {repeated[0]!r} twice: rename the one of the source")
        self.output_folder = get_datafolder(output_folder)
        self.schema = schema
        self.output_filename = output_filename
        self.batch_size = batch_size
        self._waiting: defaultdict[str, list[Document]] = defaultdict(list)
        self._told = False
        self._open: dict[str, tuple[IO[bytes], pq.ParquetWriter]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        failed = error[0] is not None
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
        """Add a document to the file of the task with this rank."""
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
        """Write the rows of the documents, and yield the documents unchanged."""
        before = StepsBefore.of(data)
        with self:
            for document in data:
                with self.track_time():
                    self.write(document, rank)
                    self._tell_of_change(document, before)
                yield document

    def _tell_of_change(self, document: Document, before: StepsBefore) -> None:
        if not has_changed_text(document):
            return
        if not self._told:
            self._told = True
            logger.warning(
                f"{before} has changed the text of document {document.id}, and perhaps of others: rows are written as "
                f"they were read. A step that is to change rows changes document.metadata[{ROW!r}]"
            )
        self.stat_update("changed_text")


def _hidden(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/.{file}.part" if folder else f".{file}.part"
