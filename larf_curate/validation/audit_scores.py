"""Which rows of a dataset an audit looks at, their scores, and which of them a threshold removes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..deciding.thresholds import Threshold
from ..errors import DataError
from ..rows.conversions import Row
from ..scoring.public_names import public_id
from ..scoring.scorer import LARFScorer
from .audit_sample import Array, Candidates, Places
from .audit_statistics import spread_sample
from .limits import LEAST_ROWS

_SEED = 0


@dataclass(frozen=True)
class AuditedScore:
    """A score of the sampled rows.

    Attributes:
        name: the name of the column, or of the scorer.
        values: float64 [rows], NaN for none.
        threshold: rows above it are removed; None where there is none.
        removed: bool [rows]; None where there is no threshold.
        fitted_on: digest of the prompts whose refusals the score was fitted on; None where it was fitted on none.
    """

    name: str
    values: Array
    threshold: float | None = None
    removed: NDArray[np.bool_] | None = None
    fitted_on: str | None = None


@dataclass(frozen=True)
class AuditSample:
    """The rows that are looked at: their numbers in the dataset, ascending, and the rows themselves."""

    places: Places
    rows: list[Row]


def draw_audit_sample(candidates: Candidates, columns: Sequence[str], count: int) -> AuditSample:
    """Rows spread over the ranks of the scores in the first of `columns`, or drawn evenly if there are none yet.

    Raises:
        DataError: too few rows have a score.
    """
    if columns:
        scores = candidates.scores[columns[0]]
        if np.isnan(scores).all():
            raise DataError(f"no row has a score in the column {columns[0]!r}")
    else:
        scores = np.random.default_rng(_SEED).random(candidates.rows)
    places = spread_sample(scores, count, _SEED)
    if len(places) < LEAST_ROWS:
        raise DataError(f"{len(places)} rows have a score; an audit needs {LEAST_ROWS} or more to show anything")
    return AuditSample(places, candidates.fetch(places))


def sample_scores(
    candidates: Candidates,
    columns: Sequence[str],
    scorers: Sequence[LARFScorer],
    threshold: Threshold | None,
    sample: AuditSample,
    *,
    progress: bool,
) -> list[AuditedScore]:
    """The scores of the sample, and which of its rows a threshold removes.

    Args:
        candidates: the dataset.
        columns: the columns that hold scores.
        scorers: the scorers whose scores are computed now.
        threshold: if it is not that of the run which the rows come from.
        sample: the rows.
        progress: show how far it is.

    Raises:
        DataError: too few of the rows have a score. ThresholdError: the threshold does not suit the scores.
    """
    scored = [_column_score(candidates, name, threshold, sample.places) for name in columns]
    names = _distinct(_scorer_name(scorer, scorers) for scorer in scorers)
    for name, scorer in zip(names, scorers, strict=True):
        values = scorer.score(sample.rows, progress=progress).astype(np.float64)
        margin = scorer.spec.margin
        score = AuditedScore(name, values, fitted_on=None if margin is None else margin.digest)
        if threshold is not None:
            # Not all rows are scored: a share of the sample stands for a share of the dataset.
            fitted = threshold if threshold.value is not None else _fit_on_sample(threshold, values)
            score = replace(score, threshold=fitted.value, removed=fitted.removes(values))
        scored.append(score)
    for each in scored:
        _require_scores(each)
    return scored


def _column_score(candidates: Candidates, name: str, threshold: Threshold | None, places: Places) -> AuditedScore:
    whole = candidates.scores[name]
    margin = candidates.of_columns[name].margin if name in candidates.of_columns else None
    score = AuditedScore(name, whole[places], fitted_on=None if margin is None else margin.digest)
    if threshold is not None:
        fitted = threshold if threshold.value is not None else threshold.fit(whole)
        return replace(score, threshold=fitted.value, removed=fitted.removes(whole)[places])
    if name == candidates.split_by and candidates.threshold is not None and candidates.removed is not None:
        return replace(score, threshold=candidates.threshold.value, removed=candidates.removed[places])
    return score


def _fit_on_sample(threshold: Threshold, values: Array) -> Threshold:
    if threshold.rule == "drop_top":
        raise DataError("drop_top counts rows of the whole dataset: give the scored dataset, or a drop_fraction")
    return threshold.fit(values)


def _scorer_name(scorer: LARFScorer, among: Sequence[LARFScorer]) -> str:
    spec = scorer.spec
    name = spec.formula + (f", layer {'/'.join(map(str, spec.layers))}" if spec.layers else "")
    return name if len({each.spec.model for each in among}) == 1 else f"{name}, {public_id(spec.model)}"


def _require_scores(score: AuditedScore) -> None:
    values = score.values[~np.isnan(score.values)]
    if len(values) < LEAST_ROWS:
        raise DataError(
            f"{len(values)} of {len(score.values)} sampled rows have a score in {score.name!r}; an audit needs "
            f"{LEAST_ROWS} or more"
        )
    if not np.ptp(values):  # said before anything is measured
        raise DataError(f"the score {score.name!r} is the same for all sampled rows: there is nothing to compare")


def _distinct(names: Iterable[str]) -> list[str]:
    """Names that tell scores apart: those that come again are numbered.

    >>> _distinct(["larf, layer 9", "larf, layer 9", "larf, layer 16"])
    ['larf, layer 9', 'larf, layer 9 (2)', 'larf, layer 16']
    """
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out
