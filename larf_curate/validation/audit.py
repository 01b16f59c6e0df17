"""Does a score say anything about which rows erode a model's refusals? Measured on that model, on a sample of rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from ..answering.prompts import choose_prompts
from ..atomic import write_text
from ..deciding.thresholds import Threshold
from ..encoding.encoder import Encoder, get_encoder
from ..errors import DataError, Issue, Unscorable
from ..models.options import FitOptions
from ..progress import progress as show_progress
from ..rows.conversions import Row
from ..rows.formats import FormatLike, RowFormat
from ..rows.turns import Conversation
from ..scoring.columns import SCORE
from ..scoring.margin import Refusals, find_refusals, require_gradients
from ..scoring.model_check import check_losses
from ..written import claim
from .audit_cache import AuditCache
from .audit_damage import find_halves, measure_damage
from .audit_figures import build_audit
from .audit_record import audit_of_run
from .audit_request import AuditRequest, Scored, asked_of, model_of, reading_alike, row_format_of
from .audit_result import AUDIT, Audit, AuditedModel
from .audit_sample import Rows, candidates_of
from .audit_scores import AuditedScore, AuditSample, draw_audit_sample, sample_scores
from .limits import LEAST_ROWS


def audit(
    scores: Scored | Sequence[Scored],
    dataset: Rows | None = None,
    *,
    model: str | Path | None = None,
    rows: int = 500,
    prompts: str | Path | Sequence[str] | None = None,
    threshold: Threshold | None = None,
    format: FormatLike | None = None,  # noqa: A002 - the word users know
    progress: bool = True,
    **options: Unpack[FitOptions],
) -> Audit:
    """Measure whether a score says which rows erode a model's refusals, before any row is removed by it.

    The damage of a row is measured on the model itself: how far a gradient step on the row moves it away from refusing
    harmful requests, to first order. That takes four forward passes a row and no training. The scores are then compared
    with it, as are length, loss and random numbers.

    >>> # Not run by doctest: it needs a model in memory.
    >>> result = audit("runs/quickstart", model="demo-aligned")  # doctest: +SKIP
    >>> result.verdict  # doctest: +SKIP
    'on demo-aligned this score does not tell which rows erode refusals: rank correlation 0.02 [-0.09, 0.13]'
    >>> audit([LARFScorer.from_pretrained("my-scorer"), "other_score"], dataset, rows=1000)  # doctest: +SKIP

    Args:
        scores: a fitted scorer, the name of a column that holds scores, or several of both; or, without a `dataset`,
            the directory of a run or a file of scored rows.
        dataset: the rows: a `Dataset`, a list of rows, a file, or the directory of a run.
        model: as for `LARFScorer.fit`; an aligned one. By default that of the scorer, or of the run.
        rows: how many to look at. From scored rows they are drawn evenly over the ranks of the (first) score; others
            at random. The same ones at each call.
        prompts: harmful requests that the model refuses, or a file of them; the packaged 200 by default.
        threshold: which rows would be removed, for rows that do not come from a run.
        format: how rows become conversations; by default as the scorer or the run reads them.
        progress: show how far it is; False for silence.
        **options: how the model is loaded and run; see `ModelOptions`. Quantised weights have no gradient.

    Raises:
        DataError: the rows cannot be read, too few of them can be measured, or a score is no column of numbers.
        PromptsError: the prompts cannot be asked, are too few, or the model refuses too few of them.
        ModelError: the model is not given, or cannot be used. ThresholdError: the threshold does not suit the scores.
    """
    if rows < LEAST_ROWS:
        raise DataError(f"an audit needs {LEAST_ROWS} rows or more to show anything, not {rows}")
    columns, scorers, data = asked_of(scores, dataset)
    asked = choose_prompts(prompts)
    candidates = candidates_of(data, columns)
    chosen = model_of(model, scorers, candidates, options)
    scorers = reading_alike(scorers, format, candidates)
    row_format = row_format_of(format, scorers, candidates)
    request = AuditRequest(chosen, asked, rows, candidates.rows, candidates.summary)
    sample = draw_audit_sample(candidates, columns, rows)
    scored = sample_scores(candidates, columns, scorers, threshold, sample, progress=progress)
    return _measured(request, scored, sample, row_format, progress=progress)


def audit_run(
    directory: str | Path,
    *,
    model: str | Path | None = None,
    rows: int = 500,
    prompts: str | Path | None = None,
    progress: bool = True,
    **options: Unpack[FitOptions],
) -> Audit:
    """The audit of a run, kept in its directory, where the report finds it.

    It is measured only if none is there, or one of another result, model, number of rows or prompts.

    Args:
        directory: the directory of the run.
        model, rows, prompts, progress, **options: as for `audit`.

    Raises:
        LarfError: as for `audit`. OutputError: it cannot be written there.
    """
    home = Path(directory)
    candidates = candidates_of(home, [SCORE])
    chosen = model_of(model, (), candidates, options)
    request = AuditRequest(chosen, choose_prompts(prompts), rows, candidates.rows, candidates.summary)
    known = audit_of_run(home)
    if known is not None and known.request == request.digest:
        return known
    claim(home, {AUDIT})
    measured = audit(SCORE, home, model=model, rows=rows, prompts=prompts, progress=progress, **options)
    write_text(home / AUDIT, measured.to_json())
    return measured


def _measured(
    request: AuditRequest, scored: Sequence[AuditedScore], sample: AuditSample, row_format: RowFormat, *, progress: bool
) -> Audit:
    clock = _Clock()
    model, prompts = request.model, request.prompts
    encoder = get_encoder(model, None)  # the one that a scorer of this model has used, if there is one
    require_gradients(encoder.loaded)
    check_losses(encoder)
    clock.took("loading the model")
    cache = AuditCache(encoder)
    with encoder.runtime.lock:
        refusals = _refusals(request, encoder, cache, progress=progress)
        clock.took("asking the prompts")
        halves = find_halves(encoder.loaded, refusals, cache, progress=progress)
        clock.took("gradients of the margin")
    conversations = [_conversation(row, row_format) for row in sample.rows]
    with show_progress(len(conversations), "audit", show=progress) as update:
        damage = measure_damage(encoder, conversations, halves, cache, update)
    clock.took("passes over the rows")
    facts = AuditedModel(
        model=model.model,
        version=encoder.loaded.version,
        dtype=encoder.loaded.dtype_name,
        prompts=len(prompts.prompts),
        prompts_digest=prompts.digest,
        refused=sum(refusals.refused),
        margin=halves.margin,
    )
    measured = build_audit(facts, damage, scored, sample, request)
    clock.took("statistics")
    return replace(measured, seconds=clock.seconds)


class _Clock:
    """How long each part has taken."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def took(self, what: str) -> None:
        now = time.monotonic()
        self.seconds[what] = round(now - self._since, 2)
        self._since = now


def _refusals(request: AuditRequest, encoder: Encoder, cache: AuditCache, *, progress: bool) -> Refusals:
    prompts = request.prompts.prompts
    known = cache.read_refusals(prompts)
    if known is None:
        known = find_refusals(encoder, prompts, progress=progress)
        cache.write_refusals(prompts, known)
    return known


def _conversation(row: Row, row_format: RowFormat) -> Conversation | Issue:
    try:
        return row_format.convert(row)
    except Unscorable as error:
        return error.issue
