"""How a dataset is read, as one text: the format, and the names that its columns go by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import RowFormatError


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    As text it goes wherever a format's name goes: into recipes, jobs and scorers. Without anything but a format that
    text is the format's name.

    Attributes:
        format: `auto`, or the name of a row format.
        columns: names of the dataset's columns, and which column of the format each one is.

    >>> Reading("auto").to_text()
    'auto'
    >>> Reading.from_text(Reading("auto", {"query": "prompt"}).to_text()).columns
    {'query': 'prompt'}
    """

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)

    def to_text(self) -> str:
        """The format's name where there is nothing else to say, JSON otherwise."""
        if not self.columns:
            return self.format
        return json.dumps({"format": self.format, "columns": dict(self.columns)}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Reading:
        """Read what `to_text` wrote, or the name of a format."""
        return cls(**json.loads(text)) if text.startswith("{") else cls(text)


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """Column names from what a user types: `query=prompt,response=completion`, in one text or in several.

    Raises:
        RowFormatError: it is no such list.

    >>> parse_columns(["query=prompt,response=completion"])
    {'query': 'prompt', 'response': 'completion'}
    """
    columns: dict[str, str] = {}
    for pair in (part for text in pairs for part in text.split(",")):
        theirs, equals, ours = (part.strip() for part in pair.partition("="))
        if not (theirs and equals and ours):
            raise RowFormatError(f"{pair!r} does not say which column is which: write query=prompt,response=completion")
        columns[theirs] = ours
    return columns
