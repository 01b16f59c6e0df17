"""A step for datatrove pipelines that removes documents by their score."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Unpack

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from ..deciding.rules import UnscorablePolicy
from ..deciding.thresholds import Threshold
from ..errors import ThresholdError
from ..models.options import RunOptions
from ..rows.formats import FormatLike
from ..rows.score_columns import PREFIX, ColumnNames, score_columns
from ..scoring.scorer import LARFScorer
from .changed_texts import ChangedText
from .datatrove_annotator import LARFAnnotator, require_documents


class LARFFilter(BaseFilter):
    """Scores documents, adds the scorer's columns, and passes on those whose score is at most the threshold.

    Removed documents go to the exclusion writer with a reason in `filter_reason`: `larf_score`, or `larf_unscorable`
    for documents without a score (`larf_issue` says why they have none). All of these begin with the scorer's prefix.

    >>> LARFFilter(None, max_score=0.12)  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
        ...
    larf_curate.errors.ThresholdError: documents without a score would vanish: give LARFFilter an exclusion_writer, or
    say unscorable="keep" or unscorable="remove"

    Args:
        scorer: as in `LARFAnnotator`; None if a `LARFAnnotator` step comes before.
        max_score: documents with a higher score are removed.
        threshold: a fitted threshold, instead of `max_score`. Where scores tie at the threshold, all of those documents
            are removed, since documents have no row numbers. (A recipe removes exactly as many as asked for.)
        exclusion_writer: writes the removed documents: any of datatrove's writers, or `RowWriter`.
        unscorable: where documents without a score go; overrides what `threshold` says. "separate": to the exclusion
            writer, which is then required; "keep": they are passed on; "remove": they are removed, to the exclusion
            writer if there is one.
        batch_size, format, threads, changed_text, prefix, **options: as in `LARFAnnotator`; without a scorer, `prefix`
            says which score counts.

    Attributes:
        reasons: the two values of `filter_reason`.

    Raises:
        ThresholdError: there is no threshold, or two, or one not fitted; or documents without a score would be lost,
            and neither "keep" nor "remove" was asked for.
    """

    name = "🧭 LARF"

    def __init__(
        self,
        scorer: LARFScorer | str | None,
        max_score: float | None = None,
        *,
        threshold: Threshold | None = None,
        exclusion_writer: Any = None,
        unscorable: UnscorablePolicy | None = None,
        batch_size: int = 1024,
        format: FormatLike | None = None,  # noqa: A002 - the word users know
        threads: int = 0,
        changed_text: ChangedText = "row",
        prefix: str | None = None,
        **options: Unpack[RunOptions],
    ) -> None:
        super().__init__(exclusion_writer)
        if (max_score is None) == (threshold is None):
            raise ThresholdError("LARFFilter needs max_score or a fitted threshold, and not both")
        chosen = Threshold.max_score(max_score) if max_score is not None else threshold
        if chosen is None or chosen.value is None:
            raise ThresholdError(
                "LARFFilter needs a fitted threshold: fit it on scores first (a recipe does that for whole datasets)"
            )
        self.threshold = chosen if unscorable is None else chosen.with_unscorable(unscorable)
        if self.threshold.unscorable == "separate" and exclusion_writer is None:
            raise ThresholdError(
                "documents without a score would vanish: give LARFFilter an exclusion_writer, or say "
                'unscorable="keep" or unscorable="remove"'
            )
        self.annotator: LARFAnnotator | None = None
        self.names = ColumnNames(PREFIX if prefix is None else prefix)
        if scorer is not None:
            self.annotator = LARFAnnotator(
                scorer,
                batch_size=batch_size,
                format=format,
                threads=threads,
                changed_text=changed_text,
                prefix=prefix,
                **options,
            )
            self.names = self.annotator.names
        self.reasons = (self.names.score, f"{self.names.prefix}_unscorable")

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """As datatrove calls every step; rows of a `Dataset` are refused."""
        require_documents(data)
        return super().__call__(data, rank, world_size)

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents that are kept."""
        annotated = data if self.annotator is None else self.annotator.annotate(data, self)
        yield from super().run(annotated, rank, world_size)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether a document is kept; if not, also the reason.

        Raises:
            ThresholdError: it has no score of this prefix, because no LARFAnnotator step came before.
        """
        column = self.names.score
        if column not in doc.metadata:
            others = ", ".join(sorted(score_columns(doc.metadata)))
            raise ThresholdError(
                f"document {doc.id} has no {column!r}: give a scorer, or put a LARFAnnotator step before this one"
                + (f"; or say which prefix= counts of {others}" if others else "")
            )
        score = doc.metadata[column]
        if score is None or math.isnan(score):
            return True if self.threshold.unscorable == "keep" else (False, self.reasons[1])
        return True if self.threshold.keep(score) else (False, self.reasons[0])
