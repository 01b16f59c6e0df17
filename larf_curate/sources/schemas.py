"""One schema for the files of a dataset that differ as the shards of one dataset do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pyarrow as pa

from ..errors import DataError
from ..progress import say
from .json_values import is_list_type
from .reading_errors import reading
from .tables import DataFile
from .text_files import kind_of


def scan_files(
    paths: Sequence[Path], schema_and_rows: Callable[[Path], tuple[pa.Schema, int]]
) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    """The schema that holds the rows of all these files, and how many rows each holds.

    Args:
        paths: files of one kind, each of which says its own schema.
        schema_and_rows: reads both from a file.

    Raises:
        DataError: one cannot be read, or a column has types that do not go together.
    """
    schemas: list[pa.Schema] = []
    files: list[DataFile] = []
    for path in paths:
        with reading(str(path)):
            schema, rows = schema_and_rows(path)
        schemas.append(schema)
        files.append(DataFile(str(path), kind_of(path), rows))
    return unified_schema(paths, schemas), tuple(files)


def unified_schema(paths: Sequence[Path], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The schema that holds the rows of all these files: columns of the first in its order, then those of the others.

    A column that a file lacks is null there, which one line says. Types that differ only in how Arrow stores them
    become one: string and large_string, list and large_list, null and any other, small and large integers.

    Raises:
        DataError: a file names a column twice, or a column has types that do not go together; names column and types.
    """
    for path, schema in zip(paths, schemas, strict=True):
        if doubled := [name for name, count in Counter(schema.names).items() if count > 1]:
            raise DataError(f"{path} has the column {doubled[0]!r} twice: rename one of them")
    first = schemas[0]
    if all(schema.equals(first) for schema in schemas):
        return first
    fields: dict[str, tuple[pa.Field, Path]] = {}
    for path, schema in zip(paths, schemas, strict=True):
        for field in schema:
            if field.name not in fields:
                fields[field.name] = (field.with_nullable(True), path)
                continue
            known, before = fields[field.name]
            kind = _unified(known.type, field.type)
            if kind is None:
                raise DataError(
                    f"column {field.name!r} is {known.type} in {before} and {field.type} in {path}: "
                    "convert one of the files, or open them one by one"
                )
            fields[field.name] = (known.with_type(kind), before)
    say_what_lacks(paths, [schema.names for schema in schemas])
    unified = pa.schema([field for field, _ in fields.values()])
    for schema in schemas:  # feature types of `datasets` must fit the columns
        if [(field.name, field.type) for field in schema] == [(field.name, field.type) for field in unified]:
            return unified.with_metadata(schema.metadata)
    kept = {key: value for key, value in (first.metadata or {}).items() if key not in (b"huggingface", b"pandas")}
    return unified.with_metadata(kept)


def say_what_lacks(paths: Sequence[Path], columns: Sequence[Collection[str]]) -> None:
    """One line that names the columns which only some of the files have, and the files without them.

    Args:
        paths: the files.
        columns: the columns of each file.

    Raises:
        DataError: no column is in all of them: they are several datasets.
    """
    names = list(dict.fromkeys(name for those in columns for name in those))
    lacking: dict[str, list[str]] = {}
    for path, those in zip(paths, columns, strict=True):
        for name in set(names) - set(those):
            lacking.setdefault(name, []).append(path.name)
    if names and len(lacking) == len(names):
        listed = ", ".join(path.name for path in paths[:4]) + (" ..." if len(paths) > 4 else "")
        raise DataError(
            f"the files in {paths[0].parent} ({listed}) have no column in common: they are several datasets, open them "
            "one by one"
        )
    if lacking:
        listed = "; ".join(f"{name!r} ({', '.join(lacking[name][:4])})" for name in names if name in lacking)
        say(f"columns that some files lack are null there: {listed}")


def _unified(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both as they are; None where there is none."""
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_dictionary(one) or pa.types.is_dictionary(other):
        return _unified(*(kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (one, other)))
    if _is_text(one) and _is_text(other):
        return pa.large_string()
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _unified_struct(one, other)
    if is_list_type(one) and is_list_type(other):
        item = _unified(one.value_type, other.value_type)
        if item is None:
            return None
        plain = pa.types.is_list(one) and pa.types.is_list(other)
        return pa.list_(item) if plain else pa.large_list(item)
    numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other))
    if numbers and pa.types.is_integer(one) == pa.types.is_integer(other):
        schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _unified_struct(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    fields = {field.name: field.type for field in one}
    for field in other:
        kind = _unified(fields.get(field.name, field.type), field.type)
        if kind is None:
            return None
        fields[field.name] = kind
    return pa.struct(list(fields.items()))
