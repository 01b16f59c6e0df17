"""The files that a repository held before, as a config: without one, ours would become what it loads by default."""

from __future__ import annotations

import glob
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


def data_files_of(paths: Iterable[str]) -> list[dict[str, str | list[str]]]:
    """The `data_files` of a config that loads what `datasets` loads from a repository that declares no config.

    A directory whose files of one kind are all of one split is named by a pattern, so that files that are added to it
    later are loaded too; other files are named one by one.

    >>> data_files_of(["README.md", "train.csv", "test.csv", "notes/todo.md"])
    [{'split': 'train', 'path': ['train.csv']}, {'split': 'test', 'path': ['test.csv']}]
    >>> data_files_of(["data/train-00000-of-00001.parquet", "larger/rest.parquet"])
    [{'split': 'train', 'path': ['data/*.parquet']}]
    >>> data_files_of(["README.md", ".gitattributes"])
    []

    Args:
        paths: the paths of the files in the repository, without ours.
    """
    splits = _split_files(sorted(path for path in paths if _is_data(path)))
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for split, files in splits.items():
        for path in files:
            owners[_pattern(path)].add(split)

    def named(path: str) -> str:
        return _pattern(path) if len(owners[_pattern(path)]) == 1 else glob.escape(path)

    return [{"split": split, "path": sorted({named(path) for path in files})} for split, files in splits.items()]


def _split_files(paths: list[str]) -> dict[str, list[str]]:
    """The files of each split as `datasets` finds them: by their names alone, so empty files of these names will do."""
    if not paths:  # as in every new repository: `datasets` would look for 65 patterns
        return {}
    from datasets.data_files import DataFilesDict, get_data_patterns

    with tempfile.TemporaryDirectory(prefix="larf-") as scratch:
        home = Path(scratch).resolve()
        for path in paths:
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).touch()
        try:
            files = DataFilesDict.from_patterns(get_data_patterns(str(home)), base_path=str(home))
        except FileNotFoundError:  # there is no data
            return {}
        return {str(split): [Path(file).relative_to(home).as_posix() for file in files[split]] for split in files}


def _is_data(path: str) -> bool:
    """Whether `datasets` has a reader for files of this name; none for names that lead out of a directory."""
    from datasets.packaged_modules import _EXTENSION_TO_MODULE

    parts = PurePosixPath(path)
    inside = not parts.is_absolute() and ".." not in parts.parts
    return inside and any(suffix.lower() in _EXTENSION_TO_MODULE for suffix in (*parts.suffixes, parts.suffix))


def _pattern(path: str) -> str:
    """All files of the same directory and ending."""
    parts = PurePosixPath(path)
    return (PurePosixPath(glob.escape(str(parts.parent))) / f"*{parts.suffix}").as_posix()
