"""What a run leaves on disk, by name: engines write it, publishing reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..rows.score_columns import PREFIX

SUMMARY = "larf_summary.json"
RECIPE = "recipe.yaml"
Outcome = Literal["kept", "removed", "unscorable"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)  # directories of Parquet files
SOURCE_ROWS = "source_rows"  # has a file for each of theirs, which says where in the source its rows were
METADATA_KEY = b"larf_curate"  # in a Parquet schema's metadata: which scorer it was, as JSON; see `metadata_key`

_PART = re.compile(r"data/(?P<split>.+)-\d{5}-of-\d{5}\.parquet")


def metadata_key(prefix: str) -> bytes:
    """The key of the scorer whose columns have this prefix.

    >>> metadata_key("larf"), metadata_key("influence")
    (b'larf_curate', b'larf_curate.influence')
    """
    return METADATA_KEY if prefix == PREFIX else METADATA_KEY + f".{prefix}".encode()


def part_name(split: str, number: int = 0, count: int = 1) -> str:
    """The name of one of `count` files of an outcome, below its directory; `load_dataset` knows the split by it.

    >>> part_name("", 0, 2), part_name("test")
    ('data-00000-of-00002.parquet', 'data/test-00000-of-00001.parquet')

    Args:
        split: the split of its rows; empty where splits are not kept apart.
        number: the number of the file, from 0.
        count: how many there are.
    """
    return f"{f'data/{split}' if split else 'data'}-{number:05d}-of-{count:05d}.parquet"


def split_of(name: str) -> str:
    """The split of a file's rows by the name that `part_name` gave it; empty where splits are not kept apart.

    >>> split_of("data/train_sft-00000-of-00001.parquet"), split_of("data.parquet")
    ('train_sft', '')
    """
    part = _PART.fullmatch(name)
    return part["split"] if part else ""


def without_directories(value: Any) -> Any:
    """Fit to be published: names of files in place of this machine's paths, in all that mappings and lists hold."""
    if isinstance(value, Mapping):
        return {key: without_directories(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_directories(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "../")) or re.match(r"[A-Za-z]:\\", value)):
        # The name of a source of several files is "a + b".
        return " + ".join(re.split(r"[/\\]", part)[-1] for part in value.split(" + "))
    return value
