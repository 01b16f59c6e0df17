"""What an audit is asked for: scores, prompts, a model, a row format; checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from ..answering.prompts import PromptSet
from ..digests import digest_of
from ..errors import DataError, ModelError
from ..models.options import FIT_OPTIONS, FitOptions, ModelOptions
from ..models.quantising import Quantised
from ..rows.conversions import SEPARATOR
from ..rows.formats import FormatLike, RowFormat, resolve_format
from ..scoring.scorer import LARFScorer
from .audit_result import VERSION
from .audit_sample import Candidates, Rows, usual_column

Scored = str | Path | LARFScorer
"""What gives a score: the name of a column that holds it, or a fitted scorer."""


@dataclass(frozen=True)
class AuditRequest:
    """What an audit is asked for.

    Attributes:
        model: the model on which damage is measured.
        prompts: harmful requests.
        rows: how many to look at.
        dataset_rows: how many there are.
        summary: digest of the summary of the run that is audited; None for other rows.
    """

    model: ModelOptions
    prompts: PromptSet
    rows: int
    dataset_rows: int
    summary: str | None

    @property
    def digest(self) -> str:
        """Of everything that the audit of a run depends on: equal ones mean that there is nothing to measure again."""
        decisive = replace(self.model, device=None, batch_tokens=None, trust_remote_code=False)
        return digest_of([VERSION, repr(decisive), self.prompts.prompts, self.rows, self.summary])


def asked_of(scores: Scored | Sequence[Scored], dataset: Rows | None) -> tuple[list[str], list[LARFScorer], Rows]:
    """The columns, the scorers and the data.

    Raises:
        DataError: nothing is named, something that gives no score, or no data.
    """
    listed = [scores] if isinstance(scores, str | Path | LARFScorer) else list(scores)
    if not listed:
        raise DataError("nothing to audit: give a scorer, the name of a column of scores, or several")
    if dataset is None:
        if len(listed) == 1 and isinstance(listed[0], str | Path):
            return [usual_column(listed[0])], [], listed[0]
        raise DataError("give the rows too: audit(scorer, dataset); only a run and a scored file stand alone")
    if wrong := next((each for each in listed if not isinstance(each, str | LARFScorer)), None):
        raise DataError(f"a score is the name of a column or a fitted scorer, not {type(wrong).__name__}")
    columns = list(dict.fromkeys(each for each in listed if isinstance(each, str)))
    return columns, [each for each in listed if isinstance(each, LARFScorer)], dataset


def model_of(
    model: str | Path | None, scorers: Sequence[LARFScorer], candidates: Candidates, options: FitOptions
) -> ModelOptions:
    """The model on which damage is measured: the one named, or that of the scorer, or of the run.

    Raises:
        ModelError: there is none, or an option is wrong.
    """
    if model is not None:
        chosen = ModelOptions.of(model, **options)
    else:
        if scorers:
            fitted = scorers[0].model_options
        elif candidates.scorer is not None:
            fitted = candidates.scorer.model_options({})
        else:
            raise ModelError("say on which model damage is to be measured: model=, an aligned one")
        given = {name: value for name, value in options.items() if value != FIT_OPTIONS[name].default}
        kept = {name: getattr(fitted, name) for name in FIT_OPTIONS}
        if kept["dtype"] in get_args(Quantised):
            kept["dtype"] = "auto"
        chosen = ModelOptions.of(fitted.model, **{**kept, **given})
    if chosen.dtype in get_args(Quantised):
        raise ModelError(
            f"an audit needs gradients of the model's weights, which weights in {chosen.dtype} do not have: take dtype "
            "float32 or bfloat16"
        )
    return chosen


def reading_alike(
    scorers: Sequence[LARFScorer], row_format: FormatLike | None, candidates: Candidates
) -> list[LARFScorer]:
    """The scorers, made to read rows as is said; or as the run has read them, unless they know how themselves."""
    if row_format is not None:
        return [scorer.with_options(format=row_format) for scorer in scorers]
    return [scorer.with_options(format=candidates.format) if scorer.format == "auto" else scorer for scorer in scorers]


def row_format_of(row_format: FormatLike | None, scorers: Sequence[LARFScorer], candidates: Candidates) -> RowFormat:
    """How rows become conversations: as the scorer reads them (`reading_alike`), or as is said, or as the run reads.

    Raises:
        RowFormatError: the columns do not fit.
    """
    if scorers:
        return scorers[0].row_format(candidates.columns)
    join = SEPARATOR if candidates.described is None else candidates.described.join
    return resolve_format(candidates.format if row_format is None else row_format, candidates.columns, join)
