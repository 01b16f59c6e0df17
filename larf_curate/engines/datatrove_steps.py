"""datatrove: a step that scores documents, and one that filters them by their score."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.logging import logger
from datatrove.utils.typeshelper import StatHints

from ..cache import register
from ..deciding.thresholds import Threshold, UnscorablePolicy
from ..errors import ScorerError, ThresholdError
from ..models.options import RunOptions, check_run_options
from ..rows.formats import FormatLike, columns_of
from ..scoring.artifact import read_config
from ..scoring.columns import ISSUE, SCORE, TOKENS, is_larf_column
from ..scoring.scorer import LARFScorer
from ..scoring.scores import Scores
from .datatrove_rows import SHARD, row_of

REASONS = ("larf_score", "larf_unscorable")
_CHARACTERS = 16_000_000
"""In one batch at most: what bounds memory where rows are long."""


class LARFAnnotator(PipelineStep):
    """Scores every document, and attaches the larf columns to its metadata: always all of them, of the same types.

    The row is the one that the document carries (`carry_row`), or its metadata with `text`. The model is loaded once
    per process, whatever the number of tasks, on the device given, or else on one that this process sees. The step
    pickles in a few bytes if it is given the scorer's place, and in under a megabyte if it is given the scorer.

    >>> steps = [LARFAnnotator("my-scorer", batch_size=256), LARFFilter(None, max_score=0.001, unscorable="keep")]

    Args:
        scorer: fitted, or the directory or Hub id of one that is.
        batch_size: documents that are sorted by length and scored together; fewer where they are long.
        format: how rows become conversations; see `LARFScorer.with_options`.
        threads: CPU threads of one process; 0 leaves it to the executor, or else to PyTorch, which takes all.
        **options: see `RunOptions`.

    Raises, when it runs:
        ScorerError, ModelError: the scorer or its model cannot be loaded.
        RowFormatError: the rows' columns fit no format.
    """

    type = "🛡️ - SCORER"
    name = "🧭 LARF"

    def __init__(
        self,
        scorer: LARFScorer | str,
        *,
        batch_size: int = 1024,
        format: FormatLike | None = None,  # noqa: A002 - the word users know
        threads: int = 0,
        **options: Unpack[RunOptions],
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        if isinstance(scorer, LARFScorer):
            scorer = scorer.with_options(format=format, **options)
        self.scorer = scorer
        self.batch_size = batch_size
        self.format = format
        self.threads = threads
        self.options = check_run_options(options)

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield every document, annotated."""
        for document in self.annotate(data, self):
            self.stat_update(StatHints.total)
            yield document

    def annotate(self, documents: Iterator[Document], step: PipelineStep) -> Iterator[Document]:
        """Yield every document, annotated; time, issues and tokens count among the figures of `step`.

        Raises:
            ScorerError: there are more or fewer scores than documents.
        """
        columns: dict[str, None] = {}  # of all rows so far: one row alone may lack some
        scorer: LARFScorer | None = None
        execution = ""
        for batch in self._batches(documents):
            with step.track_time("batch"):
                rows = [row_of(document) for document in batch]
                columns |= dict.fromkeys(columns_of(rows))
                _limit_threads(self.threads)
                scorer = scorer or self._load_scorer()
                scores = scorer.annotate(rows, columns, rank=process_number())
                _attach(scores, batch)
            if scores.execution and not execution:
                execution = scores.execution
                logger.info(f"scoring in {execution}")
            for document in batch:
                if issue := document.metadata[ISSUE]:
                    step.stat_update(f"issue_{issue}")
                step.stat_update("larf_tokens", value=document.metadata[TOKENS] or 0)
                yield document

    def _load_scorer(self) -> LARFScorer:
        if isinstance(self.scorer, LARFScorer):
            return self.scorer
        # What is fitted anew in the same directory is read anew; what is on the Hub is not asked for by every task.
        content = hashlib.sha256(read_config(self.scorer)).hexdigest() if Path(self.scorer).is_dir() else ""
        return _load(self.scorer, content, self.format, tuple(sorted(self.options.items())))

    def _batches(self, documents: Iterator[Document]) -> Iterator[list[Document]]:
        """Documents in order. A batch never joins two shards, so that a shard's scores do not depend on the others."""
        batch: list[Document] = []
        characters, batch_shard = 0, None
        for document in documents:
            length, shard = len(document.text), document.metadata.get(SHARD)
            full = len(batch) >= self.batch_size or characters + length > _CHARACTERS
            if batch and (full or shard != batch_shard):
                yield batch
                batch, characters = [], 0
            batch.append(document)
            characters, batch_shard = characters + length, shard
        if batch:
            yield batch


def _attach(scores: Scores, documents: Sequence[Document]) -> None:
    """Put the larf columns into the documents' metadata, in place of all those of an earlier scorer."""
    columns = scores.columns()
    for name, values in columns.items():
        if len(values) != len(documents):
            raise ScorerError(
                f"{len(documents)} documents were scored, and {name!r} came back with {len(values)} values"
            )
    for place, document in enumerate(documents):
        for name in [name for name in document.metadata if is_larf_column(name)]:
            del document.metadata[name]
        document.metadata |= {name: values[place] for name, values in columns.items()}


class LARFFilter(BaseFilter):
    """Scores documents, attaches the larf columns, and keeps those whose score is low enough.

    What is removed goes to the exclusion writer with a reason in `filter_reason`: `larf_score`, or `larf_unscorable`
    for documents without a score (`larf_issue` says why there is none).

    >>> LARFFilter(None, max_score=0.12)  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
        ...
    larf_curate.errors.ThresholdError: documents without a score would vanish: give LARFFilter an exclusion_writer, or
    say unscorable="keep" or unscorable="remove"

    Args:
        scorer: as in `LARFAnnotator`; None where a `LARFAnnotator` step went before.
        max_score: documents that score above it go.
        threshold: instead of `max_score`, a fitted one. Where scores tie at the threshold all of them go: documents
            have no row numbers. (A recipe removes exactly as many as asked for.)
        exclusion_writer: takes what goes: any of datatrove's writers, or `RowWriter`.
        unscorable: where documents without a score go, in place of what `threshold` says. "separate": to the exclusion
            writer, and there must be one; "keep": on with the others; "remove": with the removed ones, to the exclusion
            writer if there is one.
        batch_size, format, threads, **options: as in `LARFAnnotator`.

    Raises:
        ThresholdError: there is no threshold, or two, or one not fitted; or documents would vanish unasked.
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
        if scorer is not None:
            self.annotator = LARFAnnotator(scorer, batch_size=batch_size, format=format, threads=threads, **options)

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents that stay."""
        annotated = data if self.annotator is None else self.annotator.annotate(data, self)
        yield from super().run(annotated, rank, world_size)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """By the score that the document has.

        Raises:
            ThresholdError: it has none, because no LARFAnnotator step went before.
        """
        if SCORE not in doc.metadata:
            raise ThresholdError(f"document {doc.id} has no {SCORE!r}: give a scorer, or put a LARFAnnotator before it")
        score = doc.metadata[SCORE]
        if score is None or math.isnan(score):
            return True if self.threshold.unscorable == "keep" else (False, REASONS[1])
        return True if self.threshold.keep(score) else (False, REASONS[0])


@lru_cache(maxsize=4)
def _load(
    name: str,
    content: str,  # noqa: ARG001 - a part of the cache's key
    format: FormatLike | None,  # noqa: A002 - the word users know
    options: Sequence[tuple[str, Any]],
) -> LARFScorer:
    """Once per process: its model is too."""
    return LARFScorer.from_pretrained(name, format=format, **dict(options))


register(_load.cache_clear)


def _limit_threads(threads: int) -> None:
    """To the CPUs that the executor gave this task; datatrove says how many, and PyTorch would take them all."""
    import torch

    given = threads or int(os.environ.get("DATATROVE_CPUS_PER_TASK", "-1"))
    if 0 < given < torch.get_num_threads():
        torch.set_num_threads(given)


def process_number() -> int | None:
    """Which worker of its pool this process is, from 0; None outside of one.

    What spreads workers over GPUs. A task's rank cannot: it names a part of the data, and one process runs many.
    """
    import multiprocessing.process

    import multiprocess.process

    for library in (multiprocess.process, multiprocessing.process):
        identity = library.current_process()._identity  # the pool's own count of its workers
        if identity:
            return int(identity[-1]) - 1
    return None
