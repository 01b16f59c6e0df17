"""Datasets as files: whatever holds rows is read as Arrow tables, with its own types and bytes."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ..errors import DataError
from .csv_files import scan_csv
from .file_readers import read_file
from .json_files import scan_json
from .parquet_files import scan_parquet
from .reading_errors import reading
from .saved_datasets import hub_dataset, is_saved_dataset, saved_dataset
from .tables import Source
from .text_files import CSV, JSON, kind_of

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
    with reading(name):
        if path.is_dir():
            return _directory(path, split)
        if path.is_file():
            _refuse_split(name, split)
            return _files([path])
        if glob.has_magic(name):
            matches = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())  # noqa: PTH207
            if not matches:
                raise DataError(f"no file matches {name}")
            _refuse_split(name, split)
            return _files(matches)
        if name.startswith(("/", ".", "~")) or name.count("/") > 1 or kind_of(path):
            raise DataError(f"{name} does not exist")
        return hub_dataset(name, split, revision)


def _refuse_split(name: str, split: str | None) -> None:
    if split is not None:
        raise DataError(f"{name} has no splits, so there is no {split!r}; leave --split out")


def _files(paths: Sequence[Path]) -> Source:
    kinds = {kind_of(path) for path in paths}
    name = str(paths[0] if len(paths) == 1 else paths[0].parent)
    if len(kinds) != 1 or "" in kinds:
        raise DataError(f"{name} is not one kind of data; known: {_READABLE}")
    kind = kinds.pop()
    empty = next((path for path in paths if path.stat().st_size == 0), None)
    if empty is not None:
        raise DataError(f"{empty} is empty")
    scan = scan_parquet if kind == ".parquet" else scan_json if kind in JSON else scan_csv
    schema, files = scan(paths)
    source = Source(name, schema, files, read_file)
    if not source.rows and kind != ".parquet":
        raise DataError(f"{name} holds no rows" + (", only a header" if kind in CSV else ""))
    return source


def _directory(path: Path, split: str | None) -> Source:
    if is_saved_dataset(path):
        return saved_dataset(path, split)
    files = sorted(file for file in path.iterdir() if file.is_file() and kind_of(file) and file.name[0] not in "._")
    if files and len({kind_of(file) for file in files}) > 1:
        files = [file for file in files if kind_of(file) == ".parquet"]  # data beside its own summary.json
    _refuse_split(str(path), split)
    if not files:
        raise DataError(f"{path} holds no data files; known: {_READABLE}")
    return _files(files)
