"""Datasets as files: whatever holds rows is read as Arrow tables, with its own types and bytes."""

from __future__ import annotations

import contextlib
import csv
import glob
import itertools
import zlib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, one_line
from .json_rows import read_json, scan_json
from .tables import DataFile, Source, chunks_of, conform, overlap
from .text_files import CSV, JSON, kind_of, open_text

SAMPLE = "demo"
_READABLE = f"{', '.join((*JSON, *CSV))} (also .gz), .parquet, a saved dataset directory, or a Hub id"


def open_source(name: str, split: str | None = None, revision: str | None = None) -> Source:
    """A file, files by a pattern, a directory of files or a saved dataset, or a dataset on the Hub.

    Args:
        name: path, pattern (`data/*.jsonl`), `owner/name` on the Hub, or `demo` for the packaged sample rows.
        split: of a dataset that has several, also a slice (`train[:1000]`); `train` if it has one of that name.
        revision: branch, tag or commit on the Hub.

    Raises:
        DataError: it is not there, not readable, or holds no rows.
    """
    path = Path(name).expanduser()
    if name == SAMPLE and not path.exists():
        path = Path(str(resources.files("larf_curate") / "data" / "sample_rows.jsonl"))
    with _reading(name):
        if path.is_dir():
            return _directory(path, split)
        if path.is_file():
            _refuse_split(name, split)
            return _files([path])
        if glob.has_magic(name):
            found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())  # noqa: PTH207
            if not found:
                raise DataError(f"no file matches {name}")
            _refuse_split(name, split)
            return _files(found)
        if name.startswith(("/", ".", "~")) or name.count("/") > 1 or kind_of(path):
            raise DataError(f"{name} does not exist")
        return _hub(name, split, revision)


def _refuse_split(name: str, split: str | None) -> None:
    if split is not None:
        raise DataError(f"{name} has no splits, so there is no {split!r}; leave --split out")


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"{name} cannot be read: {one_line(error)}") from error


def read_file(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    """Rows of one file from `start` on, in tables of at most `size` rows of this schema.

    Raises:
        DataError: it cannot be read, or not any more.
    """
    readers = {".parquet": _read_parquet, ".arrow": _read_arrow, **dict.fromkeys(JSON, read_json)}
    with _reading(file.path):
        yield from readers.get(file.kind, _read_csv)(file, schema, size, start)


def _files(paths: Sequence[Path]) -> Source:
    kinds = {kind_of(path) for path in paths}
    name = str(paths[0] if len(paths) == 1 else paths[0].parent)
    if len(kinds) != 1 or "" in kinds:
        raise DataError(f"{name} is not one kind of data; known: {_READABLE}")
    kind = kinds.pop()
    empty = next((path for path in paths if path.stat().st_size == 0), None)
    if empty is not None:
        raise DataError(f"{empty} is empty")
    scan = _scan_parquet if kind == ".parquet" else scan_json if kind in JSON else _scan_csv
    schema, files = scan(paths)
    source = Source(name, schema, files, read_file)
    if not source.rows and kind != ".parquet":
        raise DataError(f"{name} holds no rows" + (", only a header" if kind in CSV else ""))
    return source


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


def _scan_parquet(paths: Sequence[Path]) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    schemas = []
    files = []
    for path in paths:
        with _reading(str(path)):
            schemas.append(pq.read_schema(path))
            files.append(DataFile(str(path), ".parquet", pq.read_metadata(path).num_rows))
    for path, schema in zip(paths, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise DataError(f"{path} has other columns or types than {paths[0]}: {schema.names} / {schemas[0].names}")
    return schemas[0], tuple(files)


def _read_parquet(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    with pq.ParquetFile(file.path) as opened:
        groups = list(range(opened.num_row_groups))
        while groups and start >= (rows := opened.metadata.row_group(groups[0]).num_rows):
            start -= rows
            groups.pop(0)
        for batch in opened.iter_batches(batch_size=size, row_groups=groups) if groups else ():
            if start < len(batch):
                table = pa.Table.from_batches([batch.slice(start)], batch.schema)
                yield table.replace_schema_metadata(schema.metadata)
            start = max(0, start - len(batch))


def _scan_csv(paths: Sequence[Path]) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    header = next(_lines(paths[0]), (0, []))[1]
    if not header or len(set(header)) != len(header):
        raise DataError(f"{paths[0]} has no header line, or one that names a column twice: {', '.join(header)}")
    files = []
    for path in paths:
        if next(_lines(path))[1] != header:
            raise DataError(f"{path} has other columns than {paths[0]}")
        files.append(DataFile(str(path), kind_of(path), sum(1 for _ in _fields(path, len(header)))))
    return pa.schema([(column, pa.string()) for column in header]), tuple(files)


def _read_csv(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    for chunk in chunks_of(itertools.islice(_fields(Path(file.path), len(schema)), start, None), size):
        yield pa.table(dict(zip(schema.names, map(list, zip(*chunk, strict=True)), strict=True)), schema)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Every field as the string it is: `007` stays `007`, and `NA` is a name as good as any."""
    csv.field_size_limit(2**31 - 1)
    with open_text(path) as file:
        reader = csv.reader(file, delimiter="\t" if kind_of(path) == ".tsv" else ",", strict=True)
        try:
            for fields in reader:
                if fields:
                    yield reader.line_num, fields
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: broken CSV ({error})") from error


def _fields(path: Path, width: int) -> Iterator[list[str]]:
    for number, fields in itertools.islice(_lines(path), 1, None):
        if len(fields) != width:
            raise DataError(f"{path}, line {number}: {len(fields)} fields where the header has {width}")
        yield fields


def _hub(name: str, split: str | None, revision: str | None) -> Source:
    from datasets import load_dataset

    try:
        found = load_dataset(name, revision=revision)
    except Exception as error:  # its loaders raise whatever the format's parser raises
        raise DataError(
            f"{name} is neither a file nor a directory here, nor a dataset on the Hub that this token may read "
            f"({one_line(error)})"
        ) from error
    return _dataset(name, found, split)


def _dataset(name: str, found: Any, split: str | None) -> Source:
    """The Arrow files behind a dataset: what reads them needs neither the Hub nor `datasets`."""
    from datasets import ReadInstruction

    splits = found if isinstance(found, dict) else {str(found.split or "train"): found}
    if split is None:
        if "train" not in splits and len(splits) > 1:
            raise DataError(f"{name} has the splits {', '.join(splits)}; say which one with --split")
        split = "train" if "train" in splits else next(iter(splits))
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({key: len(part) for key, part in splits.items()})
    except (ValueError, AssertionError, KeyError):
        if isinstance(found, dict):
            said = f"{name} has no split {split!r}; it has the splits {', '.join(splits)}; say which one with --split"
            raise DataError(said) from None
        raise DataError(f"{name} is one split, {next(iter(splits))}; there is no {split!r}") from None
    files: list[DataFile] = []
    for part in parts:
        whole = _arrow_files(name, splits[part.splitname])
        files += overlap(whole, part.from_ or 0, sum(file.rows for file in whole) if part.to is None else part.to)
    return Source(name, splits[parts[0].splitname].features.arrow_schema, tuple(files), read_file)


def _arrow_files(name: str, dataset: Any) -> list[DataFile]:
    if dataset._indices is not None:
        dataset = dataset.flatten_indices()
    files = [
        DataFile(entry["filename"], ".arrow", sum(len(batch) for batch in _batches(entry["filename"])))
        for entry in dataset.cache_files
    ]
    if sum(file.rows for file in files) != len(dataset):
        raise DataError(f"{name} is held in memory by datasets, not in files: unset HF_DATASETS_IN_MEMORY_MAX_SIZE")
    return files


def _batches(path: str) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(path) as mapped, pa.ipc.open_stream(mapped) as stream:
        yield from stream


def _read_arrow(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    for batch in _batches(file.path):
        for low in range(start, len(batch), size):
            yield conform(pa.Table.from_batches([batch.slice(low, size)]), schema)
        start = max(0, start - len(batch))
