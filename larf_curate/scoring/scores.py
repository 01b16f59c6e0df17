"""What scoring gives for some rows, and the same as columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Issue
from ..inert import html_table
from .columns import ScoreColumns
from .spans import Span

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, repr=False, eq=False)
class Scores:
    """What scoring gives for some rows, in their order.

    Attributes:
        kinds: which columns there are.
        score: float32 [rows], NaN where a row is unscorable.
        by_layer: float32 [rows, layers], NaN likewise.
        tokens: how many tokens each rendered conversation has before truncation; None where it could not be rendered.
        issues: why a row is unscorable, or that it was truncated; None where there is nothing to say.
        execution: how the scores were computed, in words: precision, device, batch size, shortcuts.
        summed: float32 [rows], the score summed over trained tokens; None where `kinds` has no such column.
        turns: the number of the assistant turn that each score is of, from 0; None for rows without a score. None
            where `kinds` has no such column.
        spans: for each row, what to leave out of the loss; None for rows without a score. None where `kinds` has no
            such column.
    """

    kinds: ScoreColumns
    score: NDArray[np.float32]
    by_layer: NDArray[np.float32]
    tokens: Sequence[int | None]
    issues: Sequence[Issue | None]
    execution: str = ""
    summed: NDArray[np.float32] | None = None
    turns: Sequence[int | None] | None = None
    spans: Sequence[list[Span] | None] | None = None

    @classmethod
    def joined(cls, kinds: ScoreColumns, parts: Sequence[Scores]) -> Scores:
        """The scores of all rows, from those of rows that follow one another; of no row where there is no part."""
        return cls(
            kinds,
            np.concatenate([np.zeros(0, np.float32), *(part.score for part in parts)]),
            np.concatenate([np.zeros((0, len(kinds.layers)), np.float32), *(part.by_layer for part in parts)]),
            [tokens for part in parts for tokens in part.tokens],
            [issue for part in parts for issue in part.issues],
            parts[-1].execution if parts else "",
            np.concatenate([np.zeros(0, np.float32), *(part.summed for part in parts if part.summed is not None)])
            if kinds.summed
            else None,
            [turn for part in parts for turn in part.turns or ()] if kinds.turn else None,
            [spans for part in parts for spans in part.spans or ()] if kinds.spans else None,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks that `by_layer` has scores of."""
        return self.kinds.layers

    def __repr__(self) -> str:
        scored = self.score[~np.isnan(self.score)]
        span = f", from {scored.min():.4g} to {scored.max():.4g}" if len(scored) else ""
        issues = Counter(issue.value for issue in self.issues if issue is not None)
        counted = "".join(f"; {count} {issue}" for issue, count in sorted(issues.items()))
        return f"<Scores of {len(self.score)} rows: {len(scored)} scored{span}{counted}>"

    def _repr_html_(self) -> str:
        rows = [
            ["" if np.isnan(score) else f"{score:+.5f}", str(tokens or ""), issue.value if issue else ""]
            for score, tokens, issue in zip(self.score[:20], self.tokens, self.issues, strict=False)
        ]
        return html_table(repr(self), self.kinds.names.always, rows)

    def columns(self) -> dict[str, list[Any]]:
        """Plain lists by column name, with null for NaN, in the order of `ScoreColumns.dtypes`."""
        names = self.kinds.names
        values: dict[str, list[Any]] = {
            names.score: _nullable(self.score),
            names.tokens: list(self.tokens),
            names.issue: [issue.value if issue else None for issue in self.issues],
        }
        for place, layer in enumerate(self.layers):
            values[names.layer(layer)] = _nullable(self.by_layer[:, place])
        if self.summed is not None:
            values[names.summed] = _nullable(self.summed)
        if self.turns is not None:
            values[names.turn] = list(self.turns)
        if self.spans is not None:
            values[names.spans] = [None if row is None else [asdict(span) for span in row] for row in self.spans]
        if self.kinds.weight is not None:
            values[names.weight] = _nullable(self.kinds.weight.weights(self.score))
        return {name: values[name] for name in self.kinds.dtypes()}

    def arrow(self) -> dict[str, pa.Array]:
        """The same as Arrow arrays of the types of `ScoreColumns.arrow`."""
        import pyarrow as pa

        types = self.kinds.arrow()
        return {name: pa.array(values, types[name]) for name, values in self.columns().items()}


def _nullable(values: NDArray[np.float32]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
