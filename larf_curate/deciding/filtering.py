"""What `larf-curate filter` was asked for, so that it can be asked for again with another threshold."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class FilterRecord:
    """The scored rows that were split, and how they were read: the options of `larf-curate filter` as they were typed.

    Attributes:
        source: a file or directory by its whole path, a dataset by its Hub id, or `-` for standard input.
        split, config, field: of the source.
        format: of its rows; columns: what its columns were called.
        weight: the two scores of `--weight`.
        per_split: whether each split got a threshold of its own.
    """

    source: str
    split: str | None = None
    config: str | None = None
    field: str | None = None
    format: str = "auto"
    columns: tuple[str, ...] = ()
    weight: str | None = None
    per_split: bool = False


def whole_name(source: str) -> str:
    """What names a source from any directory: the whole path of files and patterns of files, and all else as it is.

    >>> whole_name("-"), whole_name("acme/scored")
    ('-', 'acme/scored')
    """
    path = Path(source).expanduser()
    here = path.exists() or (glob.has_magic(source) and any(glob.iglob(str(path), recursive=True)))  # noqa: PTH207
    return str(path.absolute()) if source != STANDARD_INPUT and here else source
