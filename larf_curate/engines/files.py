"""Datasets as files: whatever holds rows is read as Arrow tables, with its own types and bytes."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, one_line
from .json_rows import json_source
from .tables import Source, chunks_of
from .text import CSV, JSON, kind_of, open_text

_READABLE = f"{', '.join((*JSON, *CSV))} (also .gz), .parquet, a saved dataset directory, or a Hub id"


def open_source(name: str, split: str | None = None) -> Source:
    """A file, a directory of files or a saved dataset, or a dataset on the Hub.

    Args:
        name: path, or `owner/name` on the Hub.
        split: of a dataset that has several; `train` if it has one of that name.

    Raises:
        DataError: it is not there, not readable, or holds no rows.
    """
    path = Path(name).expanduser()
    with _reading(name):
        if path.is_dir():
            source = _directory(path, split)
        elif path.is_file():
            source = _files([path])
            _refuse_split(name, split)
        elif name.startswith(("/", ".", "~")) or name.count("/") > 1 or kind_of(path):
            raise DataError(f"{name} does not exist")
        else:
            source = _hub(name, split)

    def tables(size: int) -> Iterator[pa.Table]:
        with _reading(name):
            yield from source.tables(size)

    return replace(source, tables=tables)


def _refuse_split(name: str, split: str | None) -> None:
    if split is not None:
        raise DataError(f"{name} has no splits, so there is no {split!r}; leave --split out")


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"{name} cannot be read: {one_line(error)}") from error


def _files(paths: Sequence[Path]) -> Source:
    kinds = {kind_of(path) for path in paths}
    if len(kinds) != 1 or "" in kinds:
        raise DataError(
            f"{paths[0].parent if len(paths) > 1 else paths[0]} is not one kind of data; known: {_READABLE}"
        )
    kind = kinds.pop()
    empty = next((path for path in paths if path.stat().st_size == 0), None)
    if empty is not None:
        raise DataError(f"{empty} is empty")
    name = str(paths[0] if len(paths) == 1 else paths[0].parent)
    if kind == ".parquet":
        return _parquet(name, paths)
    return _csv(name, paths) if kind in CSV else json_source(name, paths)


def _directory(path: Path, split: str | None) -> Source:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        try:
            found = load_from_disk(str(path))
        except Exception as error:  # whatever its JSON and Arrow parsers raise
            raise DataError(f"{path} is a saved dataset that cannot be read: {one_line(error)}") from error
        return _dataset(str(path), found, split)
    files = sorted(file for file in path.iterdir() if file.is_file() and kind_of(file) and file.name[0] not in "._")
    if files and len({kind_of(file) for file in files}) > 1:
        files = [file for file in files if kind_of(file) == ".parquet"]  # data beside its own summary.json
    _refuse_split(str(path), split)
    if not files:
        raise DataError(f"{path} holds no data files; known: {_READABLE}")
    return _files(files)


def _parquet(name: str, paths: Sequence[Path]) -> Source:
    schemas = [pq.read_schema(path) for path in paths]
    for path, schema in zip(paths, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise DataError(f"{path} has other columns or types than {paths[0]}: {schema.names} / {schemas[0].names}")

    def tables(size: int) -> Iterator[pa.Table]:
        for path in paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=size):
                    yield pa.Table.from_batches([batch], batch.schema).replace_schema_metadata(schemas[0].metadata)

    return Source(name, schemas[0], sum(pq.read_metadata(path).num_rows for path in paths), tables)


def _csv(name: str, paths: Sequence[Path]) -> Source:
    """Every field as the string it is: `007` stays `007`, and `NA` is a name as good as any."""
    import csv

    def lines(path: Path) -> Iterator[tuple[int, list[str]]]:
        csv.field_size_limit(2**31 - 1)
        with open_text(path) as file:
            reader = csv.reader(file, delimiter="\t" if kind_of(path) == ".tsv" else ",", strict=True)
            try:
                for fields in reader:
                    if fields:
                        yield reader.line_num, fields
            except csv.Error as error:
                raise DataError(f"{path}, line {reader.line_num}: broken CSV ({error})") from error

    header = next(lines(paths[0]), (0, []))[1]
    if not header or len(set(header)) != len(header):
        raise DataError(f"{paths[0]} has no header line, or one that names a column twice: {', '.join(header)}")
    schema = pa.schema([(column, pa.string()) for column in header])

    def records() -> Iterator[list[str]]:
        for path in paths:
            read = lines(path)
            if next(read)[1] != header:
                raise DataError(f"{path} has other columns than {paths[0]}")
            for number, fields in read:
                if len(fields) != len(header):
                    raise DataError(f"{path}, line {number}: {len(fields)} fields where the header has {len(header)}")
                yield fields

    def tables(size: int) -> Iterator[pa.Table]:
        for chunk in chunks_of(records(), size):
            yield pa.table(dict(zip(header, map(list, zip(*chunk, strict=True)), strict=True)), schema)

    count = sum(1 for _ in records())
    if not count:
        raise DataError(f"{name} holds no rows, only a header")
    return Source(name, schema, count, tables)


def _hub(name: str, split: str | None) -> Source:
    from datasets import load_dataset

    try:
        found = load_dataset(name, split=split)
    except Exception as error:  # its loaders raise whatever the format's parser raises
        raise DataError(
            f"{name} is neither a file nor a directory here, nor a dataset on the Hub that this token may read "
            f"({one_line(error)})"
        ) from error
    return _dataset(name, found, split)


def _dataset(name: str, found: Any, split: str | None) -> Source:
    if isinstance(found, dict):
        wanted = split or ("train" if "train" in found else next(iter(found)) if len(found) == 1 else None)
        if wanted not in found:
            raise DataError(f"{name} has the splits {', '.join(found)}; say which one with --split")
        found = found[wanted]
    elif split is not None and str(found.split) != split:
        raise DataError(f"{name} is one split, {found.split}; there is no {split!r}")
    arrow = found.with_format("arrow")
    return Source(name, found.features.arrow_schema, len(found), lambda size: arrow.iter(batch_size=size))
