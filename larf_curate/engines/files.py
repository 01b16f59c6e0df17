"""Datasets as files: whatever holds rows is read as Arrow tables, with its own types and bytes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, OutputError

ROWS_AT_ONCE = 4096
_JSON = (".jsonl", ".ndjson", ".json")
_CSV = (".csv", ".tsv")
_EXACT = 2**53  # the integers that a double holds exactly
_READABLE = f"{', '.join((*_JSON, *_CSV))} (also .gz), .parquet, a saved dataset directory, or a Hub id"


@dataclass(frozen=True)
class Source:
    """Rows to read: their Arrow schema, how many there are, and a function that yields them as tables.

    Types are the source's own. What JSON mixes in one column (a string here, a number there) is `arrow.json`; CSV
    fields are strings, exactly as written.
    """

    name: str
    schema: pa.Schema
    rows: int
    tables: Callable[[int], Iterator[pa.Table]]


def rows_of(table: pa.Table, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a table as mappings, of the named columns; `arrow.json` values decoded."""
    chosen = table.select([name for name in table.column_names if name in set(columns)])
    rows: list[dict[str, Any]] = chosen.to_pylist()
    for field in chosen.schema:
        if is_json(field.type):
            for row in rows:
                if isinstance(row[field.name], str):
                    row[field.name] = json.loads(row[field.name])
    return rows


def is_json(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json"


# Reading ------------------------------------------------------------------------------------------------------------


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
        elif name.startswith(("/", ".", "~")) or name.count("/") > 1 or _kind(path):
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
        raise DataError(f"{name} cannot be read: {_one_line(error)}") from error


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    last = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else "".join(suffixes[-1:])
    return last if last in (*_JSON, *_CSV, ".parquet") else ""


def _files(paths: Sequence[Path]) -> Source:
    kinds = {_kind(path) for path in paths}
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
    return _csv(name, paths) if kind in _CSV else _json(name, paths)


def _directory(path: Path, split: str | None) -> Source:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        try:
            found = load_from_disk(str(path))
        except Exception as error:  # whatever its JSON and Arrow parsers raise
            raise DataError(f"{path} is a saved dataset that cannot be read: {_one_line(error)}") from error
        return _dataset(str(path), found, split)
    files = sorted(file for file in path.iterdir() if file.is_file() and _kind(file) and file.name[0] not in "._")
    if files and len({_kind(file) for file in files}) > 1:
        files = [file for file in files if _kind(file) == ".parquet"]  # data beside its own summary.json
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
        with _text(path) as file:
            reader = csv.reader(file, delimiter="\t" if _kind(path) == ".tsv" else ",", strict=True)
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
        for chunk in _chunks(records(), size):
            yield pa.table(dict(zip(header, map(list, zip(*chunk, strict=True)), strict=True)), schema)

    count = sum(1 for _ in records())
    if not count:
        raise DataError(f"{name} holds no rows, only a header")
    return Source(name, schema, count, tables)


def _json(name: str, paths: Sequence[Path]) -> Source:
    """Parsed by the standard library: Arrow's own reader turns strings that look like dates into dates."""

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        for path in paths:
            for number, row in _json_rows(path):
                where = f"{path}, row {number}"
                if not isinstance(row, dict):
                    raise DataError(f"{where}: {type(row).__name__} where an object is wanted")
                if any(_has_surrogate(key) for key in row):
                    raise DataError(f"{where}: a column's name holds half of a surrogate pair, which is no text")
                yield where, row

    types: dict[str, pa.DataType] = {}
    wide: set[str] = set()
    count = 0
    for chunk in _chunks(records(), ROWS_AT_ONCE):
        count += len(chunk)
        for column in dict.fromkeys(key for _, row in chunk for key in row):
            values = [row.get(column) for _, row in chunk]
            kind = _infer(values, column, chunk)
            if pa.types.is_int64(kind) and any(value is not None and abs(value) > _EXACT for value in values):
                wide.add(column)
            types[column] = _join_types(types.get(column, pa.null()), kind)
            if column in wide and pa.types.is_floating(types[column]):
                types[column] = pa.json_()
    if not count:
        raise DataError(f"{name} holds no rows")
    schema = pa.schema([(column, pa.string() if pa.types.is_null(kind) else kind) for column, kind in types.items()])

    def tables(size: int) -> Iterator[pa.Table]:
        for chunk in _chunks(records(), size):
            yield pa.table([_array([row.get(f.name) for _, row in chunk], f.type) for f in schema], schema)

    return Source(name, schema, count, tables)


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with _text(path) as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        if start == "[":
            try:
                rows = json.load(file)
            except (ValueError, RecursionError) as error:
                raise _broken(path, getattr(error, "lineno", 1), error) from error
            yield from enumerate(rows, 1)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise _broken(path, number, error) from error
                yield number, row


def _broken(path: Path, line: int, error: Exception) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        why = f"{error.msg}, character {error.colno}"
    elif isinstance(error, RecursionError):
        why = "nested too deep"
    else:
        why = _one_line(error)
    return DataError(f"{path}, line {line}: broken JSON ({why}); mend or remove that line")


def _text(path: Path) -> TextIO:
    import gzip

    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="\n" if _kind(path) in _JSON else "")


def _infer(values: list[Any], column: str, chunk: Sequence[tuple[str, Any]]) -> pa.DataType:
    """The Arrow type that holds these values as they are; `arrow.json` where none does."""
    try:
        kind = pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError):
        wrong = next((where for where, row in chunk if _has_surrogate(row.get(column))), None)
        if wrong is not None:
            raise DataError(
                f"{wrong}, column {column!r}: half of a surrogate pair (\\ud800 to \\udfff alone), which is no text; "
                "replace it, for example by \\ufffd"
            ) from None
        return pa.json_()
    return pa.json_() if _alters(kind) or (_has_double(kind) and _mixes_numbers(values)) else kind


def _has_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _alters(kind: pa.DataType) -> bool:
    """Whether there is a struct without fields in this type: Parquet cannot hold one."""
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_alters(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_list(kind) and _alters(kind.value_type)


def _has_double(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_has_double(kind.field(i).type) for i in range(kind.num_fields))
    return _has_double(kind.value_type) if pa.types.is_list(kind) else pa.types.is_floating(kind)


def _mixes_numbers(values: Sequence[Any]) -> bool:
    """Whether a double would alter some of these values: `true`, or an integer beyond its 53 bits."""
    kinds = {type(value) for value in values}
    if float in kinds and (bool in kinds or any(type(value) is int and abs(value) > _EXACT for value in values)):
        return True
    items = [item for value in values if isinstance(value, list) for item in value]
    objects = [value for value in values if isinstance(value, dict)]
    keys = dict.fromkeys(key for value in objects for key in value)
    fields = ([value[key] for value in objects if key in value] for key in keys)
    return bool(items and _mixes_numbers(items)) or any(map(_mixes_numbers, fields))


def _join_types(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type of two chunks of one column."""
    if is_json(one) or is_json(other):
        return pa.json_()
    try:
        schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.json_()


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not is_json(kind):
        return pa.array(values, kind)
    encoded = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.ExtensionArray.from_storage(kind, pa.array(encoded, kind.storage_type))


def _hub(name: str, split: str | None) -> Source:
    from datasets import load_dataset

    try:
        found = load_dataset(name, split=split)
    except Exception as error:  # its loaders raise whatever the format's parser raises
        raise DataError(
            f"{name} is neither a file nor a directory here, nor a dataset on the Hub that this token may read "
            f"({_one_line(error)})"
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


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# Writing ------------------------------------------------------------------------------------------------------------


class TableWriter:
    """Writes tables of one schema to `.parquet` or `.jsonl`."""

    def __init__(self, path: Path, schema: pa.Schema, kind: str | None = None) -> None:
        self._schema = schema
        self._parquet = pq.ParquetWriter(path, schema) if (kind or path.suffix) == ".parquet" else None
        self._lines = None if self._parquet else path.open("w", encoding="utf-8", newline="\n")

    def write(self, table: pa.Table) -> None:
        if self._parquet is not None:
            self._parquet.write_table(table)
        elif self._lines is not None:
            for row in rows_of(table, table.column_names):
                try:
                    self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                except TypeError as error:  # dates, bytes
                    raise OutputError(f"JSON cannot hold these columns ({error}); write .parquet") from error

    def close(self) -> None:
        for file in (self._parquet, self._lines):
            if file is not None:
                file.close()


@contextlib.contextmanager
def write_file(path: Path, schema: pa.Schema) -> Iterator[TableWriter]:
    """A file that appears under its name when all of it is written, or not at all.

    Raises:
        OutputError: it cannot be written there, or not in that format.
    """
    if path.suffix not in (".parquet", ".jsonl"):
        raise OutputError(f"cannot write {path.name}: give it the ending .parquet or .jsonl")
    with _scratch(path, directory=False) as scratch:
        if path.is_dir():  # told before the rows are scored, not when the file takes its name
            raise OutputError(f"{path} cannot be written: it is a directory")
        writer = TableWriter(scratch, schema, path.suffix)
        try:
            yield writer
        finally:
            writer.close()
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)


@contextlib.contextmanager
def write_directory(path: Path, mark: str) -> Iterator[Path]:
    """A directory that appears under its name when all of it is written, or not at all.

    It replaces an earlier one only if that holds the file `mark`, which says it came from here.

    Raises:
        OutputError: it cannot be written there, or something else is in the way.
    """
    path = path.resolve()
    with _scratch(path, directory=True) as scratch:
        if path.exists() and not (path / mark).is_file() and not (path.is_dir() and not any(path.iterdir())):
            raise OutputError(
                f"{path} exists and is not an earlier result of larf-curate; choose another name or remove it"
            )
        yield scratch
        if not path.exists():
            scratch.rename(path)
            return
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as old:
            aside = Path(old) / "result"
            path.rename(aside)
            try:
                scratch.rename(path)
            except BaseException:
                aside.rename(path)
                raise


@contextlib.contextmanager
def _scratch(path: Path, *, directory: bool) -> Iterator[Path]:
    """A hidden name beside `path`, on the same file system, gone whatever happens."""
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if directory:
            scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
            scratch.chmod(0o755)
        else:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            scratch = Path(name)
            scratch.chmod(0o644)
        yield scratch
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            if directory:
                shutil.rmtree(scratch, ignore_errors=True)
            else:
                scratch.unlink(missing_ok=True)
