"""A step for datatrove pipelines that scores documents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.typeshelper import StatHints

from ..cache import register
from ..encoding.threads import limited_threads
from ..errors import RowFormatError, ScorerError
from ..models.devices import process_number
from ..models.options import RunOptions, check_run_options
from ..rows.formats import FormatLike, columns_of
from ..rows.score_columns import PREFIX, ColumnNames
from ..scoring.artifact import read_config
from ..scoring.scorer import LARFScorer
from ..scoring.scores import Scores
from .changed_texts import ChangedText, StepsBefore, require_choice, row_with_text
from .datatrove_rows import ROW, SHARD, has_changed_text, row_of

_MAX_CHARACTERS = 16_000_000
"""Of one batch: limits memory where rows are long."""


class LARFAnnotator(PipelineStep):
    """Scores every document, and adds the scorer's columns to its metadata: always all of them, with the same types.

    The row that is scored is the one that the document carries (`carry_row`), or else its metadata with `text`. Each
    process loads the model once, however many tasks it runs, on the device of the options, or else on one that it sees.
    The pickled step is a few bytes if `scorer` is a directory or Hub id, and under a megabyte if it is a scorer.

    >>> step = LARFAnnotator("my-scorer", batch_size=256)

    Args:
        scorer: a fitted scorer, or its directory or Hub id.
        batch_size: the most documents that are sorted by length and scored together; fewer if they are long.
        format, prefix: see `LARFScorer.with_options`; as the scorer has them unless they are given.
        threads: CPU threads of one process; with 0 those that datatrove's executor allows, or else all.
        changed_text: what is scored where another step has changed a document's text: "row", the row that it carries
            as it was read, with a warning that names the step; or "document", the row's conversation with the texts
            that the document holds now (where its empty lines no longer tell which turn is which, it is unscorable).
        **options: see `RunOptions`.

    Raises, when it runs:
        ScorerError, ModelError: the scorer or its model cannot be loaded.
        RowFormatError: the rows' columns fit no format, or one that would be replaced is the user's own.
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
        changed_text: ChangedText = "row",
        prefix: str | None = None,
        **options: Unpack[RunOptions],
    ) -> None:
        super().__init__()
        require_choice(changed_text)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        if isinstance(scorer, LARFScorer):
            scorer = scorer.with_options(format=format, prefix=prefix, **options)
            prefix = scorer.prefix
        self.scorer = scorer
        self.names = ColumnNames(PREFIX if prefix is None else prefix)
        self.batch_size = batch_size
        self.format = format
        self.threads = threads
        self.changed_text: ChangedText = changed_text
        self.options = check_run_options(options)

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Score the documents, and yield them all in order."""
        for document in self.annotate(data, self):
            self.stat_update(StatHints.total)
            yield document

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """As datatrove calls every step; rows of a `Dataset` are refused."""
        require_documents(data)
        return super().__call__(data, rank, world_size)

    def annotate(self, documents: Iterator[Document], step: PipelineStep) -> Iterator[Document]:
        """Score the documents, and yield them all in order; `step` counts time, issues and tokens in its statistics.

        Raises:
            ScorerError: there are more or fewer scores than documents.
            RowFormatError: a column that would be replaced is the user's own; see `ColumnNames.require_free`.
        """
        columns: dict[str, None] = {}  # of all rows so far: one row alone may lack some
        scorer: LARFScorer | None = None
        execution = ""
        before, told = StepsBefore.of(documents), False
        for batch in self._batches(documents):
            with step.track_time("batch"), limited_threads(allowed_threads(self.threads)):
                columns |= dict.fromkeys(columns_of(row_of(document) for document in batch))
                self.names.require_free([*columns, *columns_of(document.metadata for document in batch)])
                scorer = scorer or self._load_scorer()
                changed = [has_changed_text(document) for document in batch]
                own = [document for document, new in zip(batch, changed, strict=True) if not new or self._rows_win]
                scores = scorer.annotate(
                    [row_of(document) for document in own], columns, rank=process_number(), progress=self.rows_done
                )
                _attach(scores, own)
                if len(own) < len(batch):
                    others = [document for document, new in zip(batch, changed, strict=True) if new]
                    self._score_texts(others, scorer, columns)
            if scores.execution and not execution:
                execution = scores.execution
                logger.info(f"scoring in {execution}")
            if any(changed):
                step.stat_update("changed_text", value=sum(changed))
                if not told and self._rows_win:
                    told = True
                    logger.warning(_changed_words(batch[changed.index(True)], before))
            for document in batch:
                if issue := document.metadata[self.names.issue]:
                    step.stat_update(f"issue_{issue}")
                step.stat_update(self.names.tokens, value=document.metadata[self.names.tokens] or 0)
                yield document

    @property
    def _rows_win(self) -> bool:
        return self.changed_text == "row"

    def _score_texts(self, documents: list[Document], scorer: LARFScorer, columns: Iterable[str]) -> None:
        """Score documents whose text was changed by what it says now."""
        row_format = scorer.row_format(columns)
        rows = [row_with_text(row_of(document), document.text, row_format) for document in documents]
        scorer = scorer.with_options(format="messages")
        scores = scorer.annotate(rows, ("messages", "tools"), rank=process_number(), progress=self.rows_done)
        _attach(scores, documents)

    def rows_done(self, count: int) -> None:
        """Called with the number of rows that were just scored, long before their batch is."""

    def _load_scorer(self) -> LARFScorer:
        if isinstance(self.scorer, LARFScorer):
            return self.scorer
        # A directory is read again if another scorer was fitted into it; the Hub is not asked by every task.
        content = hashlib.sha256(read_config(self.scorer)).hexdigest() if Path(self.scorer).is_dir() else ""
        return _load(self.scorer, content, self.format, self.names.prefix, tuple(sorted(self.options.items())))

    def _batches(self, documents: Iterator[Document]) -> Iterator[list[Document]]:
        """Batches of consecutive documents, each of one shard alone: its scores must not depend on other shards."""
        batch: list[Document] = []
        characters, batch_shard = 0, None
        for document in documents:
            length, shard = len(document.text), document.metadata.get(SHARD)
            full = len(batch) >= self.batch_size or characters + length > _MAX_CHARACTERS
            if batch and (full or shard != batch_shard):
                yield batch
                batch, characters = [], 0
            batch.append(document)
            characters, batch_shard = characters + length, shard
        if batch:
            yield batch


def _attach(scores: Scores, documents: Sequence[Document]) -> None:
    """Add the scores to the documents' metadata, in place of all those of an earlier scorer of their prefix."""
    columns, names = scores.columns(), scores.kinds.names
    for name, values in columns.items():
        if len(values) != len(documents):
            raise ScorerError(
                f"{len(documents)} documents were scored, and {name!r} came back with {len(values)} values"
            )
    for index, document in enumerate(documents):
        for name in [name for name in document.metadata if name in names]:
            del document.metadata[name]
        document.metadata |= {name: values[index] for name, values in columns.items()}


def _changed_words(document: Document, before: StepsBefore) -> str:
    return (
        f"{before} has changed the text of document {document.id}, and perhaps of others: rows are scored as they "
        'were read. With changed_text="document" the changed texts are scored; or let a step change '
        f"document.metadata[{ROW!r}]"
    )


def require_documents(data: object) -> None:
    """Refuse what `Dataset.map` and `Dataset.filter` pass to a function.

    Raises:
        RowFormatError: it is a row, or a batch of them.
    """
    if isinstance(data, Mapping):
        raise RowFormatError(
            "this is a step for datatrove's pipelines: score a Dataset by dataset.map(scorer, batched=True), and split "
            "it by threshold.split(dataset)"
        )


@lru_cache(maxsize=4)
def _load(
    name: str,
    content: str,  # noqa: ARG001 - a part of the cache's key
    format: FormatLike | None,  # noqa: A002 - the word users know
    prefix: str,
    options: Sequence[tuple[str, Any]],
) -> LARFScorer:
    """Load a scorer, once per process."""
    return LARFScorer.from_pretrained(name, format=format, prefix=prefix, **dict(options))


register(_load.cache_clear)


def allowed_threads(threads: int) -> int:
    """How many threads torch may compute on in a task, as `limited_threads` takes it: 0 for as many as it does.

    Args:
        threads: what the user allows; with 0, the CPUs that datatrove gave this task. By itself torch would use every
            CPU of the machine.
    """
    import torch

    allowed = threads or int(os.environ.get("DATATROVE_CPUS_PER_TASK", "-1"))
    return allowed if 0 < allowed < torch.get_num_threads() else 0
