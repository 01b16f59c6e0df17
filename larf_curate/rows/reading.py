"""How a dataset is read, as one text: the format, the names its columns go by, and what joins request and input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import RowFormatError


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    Its text form stands wherever a format's name can stand: in recipes, jobs and scorers. If there is only a format,
    the text is that format's name.

    Attributes:
        format: `auto`, or the name of a row format.
        columns: names of the dataset's columns, and which column of the format each one is.
        join: what stands between a request and its input, or a template with `{instruction}` and `{input}`; None for
            the scorer's own, which is a newline by default.

    >>> Reading("auto").to_text()
    'auto'
    >>> Reading.from_text(Reading("auto", {"query": "prompt"}).to_text()).columns
    {'query': 'prompt'}
    """

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    join: str | None = None

    def to_text(self) -> str:
        """The format's name where there is nothing else to say, JSON otherwise."""
        if not self.columns and self.join is None:
            return self.format
        values = {"format": self.format, "columns": dict(self.columns), "join": self.join}
        return json.dumps({name: value for name, value in values.items() if value not in ({}, None)}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Reading:
        """Read what `to_text` wrote, or the name of a format.

        Raises:
            RowFormatError: it begins like JSON and is no such object.
        """
        if not text.startswith("{"):
            return cls(text)
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            raise RowFormatError(f"{text!r} is no way to read rows") from None


READING_VERSION = 3
"""The version of the rules by which rows become conversations. The names of scored shards depend on it, so that shards
of two versions are never mixed."""


def check_join(join: str) -> str:
    r"""The text itself, with `\n` and `\t` as they are typed in a shell made into a newline and a tab.

    Raises:
        RowFormatError: it is a template without the request.

    >>> check_join(r"\n\n")
    '\n\n'
    """
    join = join.replace("\\n", "\n").replace("\\t", "\t")
    if "{input}" in join and "{instruction}" not in join:
        raise RowFormatError(f"the template {join!r} has {{input}} and no {{instruction}}")
    return join


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
