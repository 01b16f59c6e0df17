"""The names of the columns that scoring adds to a dataset, and which of a dataset's columns they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import RowFormatError

PREFIX = "larf"
"""What the names begin with unless the user says otherwise."""
_PREFIX = re.compile(r"[a-z][a-z0-9_]*")
# No ending is the end of another one, so a name has one prefix: `larf_score_l1_score` belongs to `larf_score_l1`.
_NAME = re.compile(r"([a-z][a-z0-9_]*?)_(?:score(?:_l[0-9]+|_sum)?|turn|tokens|issue|weight|spans)")


@dataclass(frozen=True)
class ColumnNames:
    """The names of the columns that a scorer adds: those of another prefix belong to another score.

    Attributes:
        prefix: what all of them begin with.

    Raises:
        RowFormatError: the prefix is no plain lower-case name.

    >>> names = ColumnNames("influence")
    >>> names.score, names.layer(9), "influence_spans" in names, "larf_score" in names
    ('influence_score', 'influence_score_l9', True, False)
    """

    prefix: str = PREFIX

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not _PREFIX.fullmatch(self.prefix):
            raise RowFormatError(
                "a prefix of columns has lower-case letters (a to z), digits and underscores, and begins with a "
                f"letter, not {self.prefix!r}"
            )

    @property
    def score(self) -> str:
        return f"{self.prefix}_score"

    def layer(self, layer: int) -> str:
        """That of the score at one block."""
        return f"{self.score}_l{layer}"

    @property
    def summed(self) -> str:
        return f"{self.score}_sum"

    @property
    def turn(self) -> str:
        return f"{self.prefix}_turn"

    @property
    def tokens(self) -> str:
        return f"{self.prefix}_tokens"

    @property
    def issue(self) -> str:
        return f"{self.prefix}_issue"

    @property
    def weight(self) -> str:
        return f"{self.prefix}_weight"

    @property
    def spans(self) -> str:
        return f"{self.prefix}_spans"

    @property
    def always(self) -> tuple[str, str, str]:
        """Those that every scorer adds, whatever its formula and its options."""
        return self.score, self.tokens, self.issue

    def __contains__(self, name: object) -> bool:
        """Whether scoring adds a column of this name under this prefix, with whatever scorer.

        Rows that are scored again lose all these columns before they get the new ones: the score of an earlier
        scorer's layer would pass for one of the new scorer.

        >>> [name in ColumnNames() for name in ("larf_score", "larf_score_l12", "larf_row", "larf_b_score")]
        [True, True, False, False]
        """
        return isinstance(name, str) and prefix_of(name) == self.prefix

    def require_free(self, columns: Iterable[str]) -> None:
        """Make sure that scoring takes no column of the user's own for one of an earlier scorer, and replaces it.

        All that begins with `larf_` and ends as these names do is ours. Under another prefix it is, where the columns
        are there that every scorer adds.

        Args:
            columns: those of the dataset that is to be scored.

        Raises:
            RowFormatError: one of them is the user's.
        """
        available = list(columns)
        taken = [name for name in available if name in self]
        if self.prefix != PREFIX and taken and not set(self.always) <= set(available):
            raise RowFormatError(
                f"the column {taken[0]!r} would be replaced, and no scorer has written it: {', '.join(self.always)} "
                "are not all there. Give another prefix, or rename or remove the column"
            )


def prefix_of(name: str) -> str | None:
    """The prefix under which scoring adds a column of this name; None where it adds none.

    >>> prefix_of("influence_score_l9"), prefix_of("larf_b_issue"), prefix_of("larf_row")
    ('influence', 'larf_b', None)
    """
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def score_columns(columns: Iterable[str]) -> frozenset[str]:
    """Which of a dataset's columns scoring has added, under any prefix; see `ColumnNames.require_free`.

    >>> scored = ["text", "larf_score", "mine_score", "mine_tokens", "mine_issue", "mine_weight", "sample_weight"]
    >>> sorted(score_columns(scored))
    ['larf_score', 'mine_issue', 'mine_score', 'mine_tokens', 'mine_weight']
    """
    prefixes = {name: prefix_of(name) for name in columns}
    ours = {
        prefix
        for prefix in set(prefixes.values())
        if prefix is not None and (prefix == PREFIX or set(ColumnNames(prefix).always) <= prefixes.keys())
    }
    return frozenset(name for name, prefix in prefixes.items() if prefix in ours)
