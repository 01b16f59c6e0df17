"""Datasets of the `datasets` library, saved in a directory or on the Hub, as the Arrow files behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError, one_line
from .arrow_files import batches_of
from .directories import ALL_SPLITS, CONFIG, SPLIT
from .file_readers import read_file
from .tables import DataFile, Source, overlap

_CONFIGS = re.compile(r"(?:available configs|Available): (\[[^\]]*\])")
"""How `datasets` lists the configurations of a dataset where none was named, or one that is not there."""


def is_saved_dataset(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` has written this directory.

    LLaMA-Factory has a `dataset_info.json` too; only with Arrow files beside it the file is that of `datasets`.
    """
    if (path / "dataset_dict.json").is_file():
        return True
    return (path / "dataset_info.json").is_file() and ((path / "state.json").is_file() or any(path.glob("*.arrow")))


def saved_dataset(path: Path, split: str | None) -> Source:
    """A directory that `save_to_disk` has written.

    Raises:
        DataError: it is damaged, or has no such split.
    """
    from datasets import load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # whatever its JSON and Arrow parsers raise
        raise DataError(f"{path} is a saved dataset that cannot be read: {one_line(error)}") from error
    return _source_of(str(path), dataset, split)


def hub_dataset(name: str, split: str | None, revision: str | None, config: str | None) -> Source:
    """A dataset on the Hub, downloaded into the cache of `datasets`.

    Raises:
        DataError: there is none that this token may read, or it has no such configuration or split.
    """
    from datasets import load_dataset

    try:
        dataset = load_dataset(name, config, revision=revision)
    except Exception as error:  # its loaders raise whatever the format's parser raises
        if configs := _CONFIGS.search(str(error)):
            listed = ", ".join(re.findall(r"'([^']*)'", configs[1]))
            CONFIG.pick(name, listed.split(", "), config, "")
        raise DataError(
            f"{name} is neither a file nor a directory here, nor a dataset on the Hub that this token may read "
            f"({one_line(error)})"
        ) from error
    return _source_of(name, dataset, split)


def _source_of(name: str, dataset: Any, split: str | None) -> Source:
    """The Arrow files behind a dataset: what reads them needs neither the Hub nor `datasets`."""
    from datasets import ReadInstruction

    splits = dataset if isinstance(dataset, dict) else {str(dataset.split or "train"): dataset}
    if split == ALL_SPLITS and ALL_SPLITS not in splits:
        return _all_splits(name, splits)
    if split is None:
        split = SPLIT.pick(name, list(splits), None, "train")
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({key: len(part) for key, part in splits.items()})
    except (ValueError, AssertionError, KeyError):
        if isinstance(dataset, dict):
            raise DataError(
                f"{name} has no split {split!r}; it has the splits {', '.join(splits)}; say which one with --split"
            ) from None
        raise DataError(f"{name} is one split, {next(iter(splits))}; there is no {split!r}") from None
    files: list[DataFile] = []
    for part in parts:
        whole = _arrow_files(name, splits[part.splitname])
        files += overlap(whole, part.from_ or 0, sum(file.rows for file in whole) if part.to is None else part.to)
    return Source(name, splits[parts[0].splitname].features.arrow_schema, tuple(files), read_file)


def _all_splits(name: str, splits: Mapping[str, Any]) -> Source:
    """Every split, each kept apart from the others."""
    first, *others = splits
    for other in others:
        if splits[other].features != splits[first].features:
            raise DataError(f"{name}: the splits {first} and {other} have different columns: read one with --split")
    files = [replace(file, split=split) for split, part in splits.items() for file in _arrow_files(name, part)]
    return Source(name, splits[first].features.arrow_schema, tuple(files), read_file)


def _arrow_files(name: str, dataset: Any) -> list[DataFile]:
    if dataset._indices is not None:
        dataset = dataset.flatten_indices()
    files = [
        DataFile(entry["filename"], ".arrow", sum(len(batch) for batch in batches_of(entry["filename"])))
        for entry in dataset.cache_files
    ]
    if sum(file.rows for file in files) != len(dataset):
        raise DataError(f"{name} is held in memory by datasets, not in files: unset HF_DATASETS_IN_MEMORY_MAX_SIZE")
    return files
