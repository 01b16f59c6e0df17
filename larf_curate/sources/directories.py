"""Which files of a directory are which split of which configuration: as `datasets.load_dataset` would have it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, one_line
from ..progress import say
from .text_files import advice_for, family_of

_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
_OWN_RESULT = "larf_summary.json"
ALL_SPLITS = "all"
"""In place of a split's name: every split, each kept apart from the others."""


@dataclass(frozen=True)
class NameChoice:
    """One name out of several, chosen or to be chosen by the user.

    Attributes:
        noun: what is chosen: split, configuration.
        option: what the user passes.
    """

    noun: str
    option: str

    def pick(self, where: str, names: Sequence[str], wanted: str | None, usual: str) -> str:
        """The wanted name; else the only one, or the usual one, and then a line says what is not read.

        Raises:
            DataError: it is not there, or nobody can know which one is meant.
        """
        listed = ", ".join(names)
        if wanted is not None and wanted not in names:
            raise DataError(f"{where} has no {self.noun} {wanted!r}; it has {listed}; say which one with {self.option}")
        if wanted is not None or len(names) == 1:
            return wanted or names[0]
        if usual not in names:
            raise DataError(f"{where} has several {self.noun}s: {listed}; say which one with {self.option}")
        rest = ", ".join(name for name in names if name != usual)
        say(f"{where}: reading the {self.noun} {usual}; not read: {rest} ({self.option})")
        return usual


SPLIT = NameChoice("split", "--split")
CONFIG = NameChoice("configuration", "--config")


def files_in(directory: Path, split: str | None, config: str | None) -> dict[str, list[Path]]:
    """The data files to read, all of one kind, in order. Whatever else lies there is named in one line.

    They are given by the name of their split where splits are kept apart, and else under an empty name.

    Args:
        directory: a directory of plain files, or a downloaded repository of the Hub.
        split: which one, or `all`; `train` where there are several and none is named.
        config: which configuration of a repository's README, or which data set of LLaMA-Factory's.

    Raises:
        DataError: there is none, or it cannot be known which ones are meant.
    """
    if (directory / _OWN_RESULT).is_file() and (directory / "kept").is_dir():
        raise DataError(f"{directory} is a result of larf-curate: open its kept/, removed/ or unscorable/")
    registered = _registered(directory)
    if registered:
        name = CONFIG.pick(str(directory), list(registered), config, "")
        return {"": _one_kind(directory, [directory / registered[name]], [])}
    configs = _configs(directory)
    if config is not None and not configs:
        raise DataError(f"{directory} has no configurations, so there is no {config!r}; leave --config out")
    patterns: Any = None
    if configs:
        patterns = configs[CONFIG.pick(str(directory), list(configs), config, "default")].get("data_files")
    splits, others = _splits(directory, patterns)
    if not splits:
        names = f" ({_listed(others)}: {advice_for(others[0])})" if others else ""
        raise DataError(f"{directory} holds no data files{names}")
    if split == ALL_SPLITS and ALL_SPLITS not in splits:
        read = set(_one_kind(directory, [file for files in splits.values() for file in files], others))
        return {name: [file for file in files if file in read] for name, files in splits.items()}
    chosen = SPLIT.pick(str(directory), list(splits), split, "train")
    return {"": _one_kind(directory, splits[chosen], others)}


def _registered(directory: Path) -> dict[str, str]:
    """The data sets that LLaMA-Factory's `dataset_info.json` names, with the file of each that lies here."""
    info = directory / "dataset_info.json"
    try:
        known = json.loads(info.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    files = {name: entry["file_name"] for name, entry in entries if isinstance(entry, dict) and "file_name" in entry}
    return {name: file for name, file in files.items() if (directory / str(file)).exists()}


def _configs(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """The configurations that a README of the Hub declares, by name."""
    readme = directory / "README.md"
    if not readme.is_file():
        return {}
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    try:
        card = DatasetCard.load(readme)
        configs: Mapping[str, Mapping[str, Any]] = MetadataConfigs.from_dataset_card_data(card.data)
    except Exception as error:  # whatever its YAML parser raises
        raise DataError(f"{readme} declares configurations that cannot be read: {one_line(error)}") from error
    return configs


def _splits(directory: Path, patterns: Any) -> tuple[dict[str, list[Path]], list[Path]]:
    """The data files by split, and the files that are none."""
    from datasets.data_files import DataFilesDict, get_data_patterns, sanitize_patterns

    try:
        wanted = sanitize_patterns(patterns) if patterns else get_data_patterns(str(directory))
        files_by_split = DataFilesDict.from_patterns(wanted, base_path=str(directory))
    except FileNotFoundError:  # EmptyDatasetError is one
        return {}, _others(directory)
    splits: dict[str, list[Path]] = {}
    others: list[Path] = []
    for name, files in files_by_split.items():
        for file in sorted(map(Path, files)):
            if file.name in _NOT_ROWS or file.name[0] in "._":
                continue
            if family_of(file):
                splits.setdefault(str(name), []).append(file)
            elif file.name != "README.md" and file.suffix not in (".md", ".py", ""):
                others.append(file)
    return splits, others


def _others(directory: Path) -> list[Path]:
    return sorted(file for file in directory.iterdir() if file.is_file() and file.name[0] not in "._")


def _one_kind(directory: Path, files: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """The files of the kind that most of them have; a line names the others."""
    kinds = Counter(family_of(file) for file in files)
    if "" in kinds:
        unreadable = next(file for file in files if not family_of(file))
        raise DataError(f"{unreadable} cannot be read: {advice_for(unreadable)}")
    order = (".parquet", ".jsonl", ".csv", ".arrow")
    kind = min(kinds, key=lambda name: (-kinds[name], order.index(name)))
    left_out = [*(file for file in files if family_of(file) != kind), *others]
    chosen = [file for file in files if family_of(file) == kind]
    if left_out:
        count = f"{len(chosen)} file{'s' * (len(chosen) > 1)}"
        say(f"{directory}: reading {count} ({_listed(chosen)}); not read: {_listed(left_out)}")
    return chosen


def _listed(files: Sequence[Path]) -> str:
    names = [file.name for file in files]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
