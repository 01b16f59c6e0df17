"""Datasets as files: whatever holds rows is read as Arrow tables, with its own types and bytes."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pyarrow as pa

from ..errors import DataError
from .arrow_files import scan_arrow
from .csv_files import scan_csv
from .directories import files_in
from .file_readers import read_file
from .json_files import scan_json
from .parquet_files import scan_parquet
from .reading_errors import reading
from .saved_datasets import hub_dataset, is_saved_dataset, saved_dataset
from .tables import DataFile, Source
from .text_files import ARROW, CSV, JSON, PARQUET, advice_for, family_of, kind_of

SAMPLE = "demo"


def open_source(
    name: str,
    split: str | None = None,
    revision: str | None = None,
    *,
    config: str | None = None,
    field: str | None = None,
) -> Source:
    """A file, files by a pattern, a directory of files or a saved dataset, or a dataset on the Hub.

    What lies there and is not read is named in one line.

    Args:
        name: path, pattern (`data/*.jsonl`), `owner/name` on the Hub, or `demo` for the packaged sample rows.
        split: the split to read of a dataset that has several; also a slice (`train[:1000]`); `train` if it has one of
            that name. `all` reads every split and keeps them apart: what is written of them has the same splits.
        revision: branch, tag or commit on the Hub.
        config: configuration of a dataset that has several.
        field: key of a JSON object under which its rows lie.

    Raises:
        DataError: it is not there, not readable, or holds no rows.
    """
    path = Path(name).expanduser()
    if name == SAMPLE and not path.exists():
        path = Path(str(resources.files("larf_curate") / "data" / "sample_rows.jsonl"))
    with reading(name):
        if path.is_dir() and is_saved_dataset(path):
            _refuse(name, config=config, field=field)
            return saved_dataset(path, split)
        if path.is_dir():
            files = files_in(path, split, config)
            source = _source_of([file for listed in files.values() for file in listed], field)
            split_of = {str(file): name for name, listed in files.items() for file in listed}
            return replace(source, files=tuple(replace(file, split=split_of[file.path]) for file in source.files))
        if path.is_file():
            _refuse(name, split=split, config=config)
            return _source_of([path], field)
        if glob.has_magic(name):
            matches = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())  # noqa: PTH207
            if not matches:
                raise DataError(f"no file matches {name}")
            _refuse(name, split=split, config=config)
            return _source_of(matches, field)
        if name.startswith(("/", ".", "~")) or name.count("/") > 1 or kind_of(path):
            raise DataError(f"{name} does not exist")
        _refuse(name, field=field)
        return hub_dataset(name, split, revision, config)


_PLURALS = {"split": "splits", "config": "configurations", "field": "JSON object with fields"}


def _refuse(name: str, **options: str | None) -> None:
    for option, value in options.items():
        if value is not None:
            raise DataError(f"{name} has no {_PLURALS[option]}, so there is no {value!r}; leave --{option} out")


def _source_of(paths: Sequence[Path], field: str | None) -> Source:
    """The rows of some files of one kind."""
    families = {family_of(path) for path in paths}
    name = str(paths[0] if len(paths) == 1 else paths[0].parent)
    if "" in families:
        wrong = next(path for path in paths if not family_of(path))
        raise DataError(f"{wrong} cannot be read: {advice_for(wrong)}")
    if len(families) > 1:
        listed = ", ".join(path.name for path in paths[:8])
        raise DataError(f"{name} is not one kind of data ({listed}): give a pattern for files of one kind")
    empty = next((path for path in paths if path.stat().st_size == 0), None)
    if empty is not None:
        raise DataError(f"{empty} is empty")
    kind = kind_of(paths[0])
    if field and kind not in JSON:
        _refuse(name, field=field)
    schema, files = _scan(kind, paths, field or "")
    source = Source(name, schema, files, read_file)
    if not source.rows and kind not in (PARQUET, *ARROW):
        raise DataError(f"{name} holds no rows" + (", only a header" if kind in CSV else ""))
    return source


def _scan(kind: str, paths: Sequence[Path], field: str) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    if kind in JSON:
        return scan_json(paths, field)
    if kind == PARQUET:
        return scan_parquet(paths)
    return scan_arrow(paths) if kind in ARROW else scan_csv(paths)
