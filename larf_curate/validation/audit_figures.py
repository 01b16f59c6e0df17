"""The damage and the scores of a sample become the figures and the verdict of an audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .audit_damage import Damage
from .audit_request import AuditRequest
from .audit_result import Audit, AuditedModel, AuditedRows, Baseline, Relation, ScoreAudit
from .audit_scores import AuditedScore, AuditSample
from .audit_statistics import Statistic, by_chance, highest_tenth, share, spearman
from .audit_words import SAME_PROMPTS, finding_of, score_verdict, too_good, warnings_of
from .limits import LEAST_ROWS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _MeasuredRows:
    """The measured rows: damage of each kind, and what else may explain it; float64 [rows] each."""

    per_token: Array
    summed: Array
    tokens: Array
    loss: Array


def build_audit(
    facts: AuditedModel, damage: Damage, scored: Sequence[AuditedScore], sample: AuditSample, request: AuditRequest
) -> Audit:
    """All figures of an audit.

    Args:
        facts: the model, and how it answers the prompts.
        damage: the damage of the sampled rows.
        scored: their scores.
        sample: the rows.
        request: what was asked for.

    Raises:
        DataError: too few rows could be measured, or a score is the same for all of them.
    """
    measured = ~np.isnan(damage.per_token)
    unmeasured = Counter(str(issue) for issue in damage.issues if issue is not None and issue.unscorable)
    rows = int(measured.sum())
    if rows < LEAST_ROWS:
        why = ", ".join(f"{count} {issue}" for issue, count in sorted(unmeasured.items()))
        raise DataError(
            f"the damage of only {rows} of {len(measured)} rows can be measured ({why}): an audit needs {LEAST_ROWS} "
            "or more"
        )
    agreement, agreement_summed = (
        spearman(*halves[:, measured]) or Statistic(0.0, -1.0, 1.0) for halves in (damage.halves, damage.halves_summed)
    )
    scores = []
    for score in scored:
        chosen = measured & ~np.isnan(score.values)
        if len(score.values[chosen]) < LEAST_ROWS or not np.ptp(score.values[chosen]):
            raise DataError(f"the score {score.name!r} is the same for all audited rows: there is nothing to compare")
        scores.append(_score_audit(score, damage, chosen, facts, agreement, only_score=len(scored) == 1))
    audited = _audited(damage, scored, sample.places, measured)
    return Audit(
        **asdict(facts),
        dataset_rows=request.dataset_rows,
        rows=rows,
        unmeasured=dict(sorted(unmeasured.items())),
        eroding=float((damage.per_token[measured] > 0).mean()),
        agreement=agreement,
        agreement_summed=agreement_summed,
        scores=tuple(scores),
        baselines=_baselines(_measure(damage, measured)),
        verdict="; ".join(each.verdict for each in scores),
        warnings=(
            *warnings_of(facts, agreement, audited, request.rows, damage.covered),
            *too_good(scores, agreement),
        ),
        request=request.digest,
        summary=request.summary,
        seconds={},
        audited=audited,
    )


def _measure(damage: Damage, chosen: NDArray[np.bool_]) -> _MeasuredRows:
    tokens = damage.tokens[chosen].astype(np.float64)
    return _MeasuredRows(damage.per_token[chosen], damage.summed[chosen], tokens, damage.loss[chosen])


def _score_audit(
    score: AuditedScore,
    damage: Damage,
    chosen: NDArray[np.bool_],
    facts: AuditedModel,
    agreement: Statistic,
    *,
    only_score: bool,
) -> ScoreAudit:
    measure = _measure(damage, chosen)
    removed = None if score.removed is None else score.removed[chosen]
    line = _line(score.name, score.values[chosen], measure, (measure.tokens, measure.loss), removed)
    finding = finding_of(line, agreement)
    name = "this score" if only_score else score.name
    rows = int(chosen.sum())
    verdict = score_verdict(line, finding, model=facts.model, name=name, rows=rows, agreement=agreement)
    return ScoreAudit(
        **vars(line),
        rows=rows,
        threshold=score.threshold,
        removed=None if removed is None else float(removed.mean()),
        finding=finding,
        verdict=verdict + (SAME_PROMPTS if score.fitted_on == facts.prompts_digest else ""),
    )


def _line(
    name: str,
    values: Array,
    measure: _MeasuredRows,
    controls: Sequence[Array],
    removed: NDArray[np.bool_] | None = None,
) -> Baseline:
    per_token = _relation(values, measure.per_token, controls, removed)
    return Baseline(**vars(per_token), name=name, summed=_relation(values, measure.summed, controls, removed))


def _relation(values: Array, damage: Array, controls: Sequence[Array], removed: NDArray[np.bool_] | None) -> Relation:
    plain = spearman(values, damage)
    partial = spearman(values, damage, controls) if controls else None
    caught = None
    if removed is not None:
        worst = highest_tenth(damage)
        caught = share(int(removed[worst].sum()), int(worst.sum()))
    return _figures(plain, partial, caught)


def _figures(plain: Statistic | None, partial: Statistic | None, caught: Statistic | None = None) -> Relation:
    return Relation(
        spearman=None if plain is None else plain.value,
        interval=None if plain is None else plain.interval,
        spearman_without_length_and_loss=None if partial is None else partial.value,
        interval_without_length_and_loss=None if partial is None else partial.interval,
        worst_tenth_removed=None if caught is None else caught.value,
        worst_tenth_interval=None if caught is None else caught.interval,
    )


def _baselines(measure: _MeasuredRows) -> tuple[Baseline, ...]:
    controls = (measure.tokens, measure.loss)
    per_token, summed = (
        _figures(by_chance(damage), by_chance(damage, controls)) for damage in (measure.per_token, measure.summed)
    )
    return (
        _line("length alone", measure.tokens, measure, ()),
        _line("loss alone", measure.loss, measure, ()),
        Baseline(**vars(per_token), name="random", summed=summed),
    )


def _audited(
    damage: Damage, scored: Sequence[AuditedScore], places: NDArray[np.int64], measured: NDArray[np.bool_]
) -> AuditedRows:
    def rounded(values: Array) -> tuple[float, ...]:
        return tuple(float(f"{value:.6g}") for value in values[measured])

    return AuditedRows(
        row=tuple(places[measured].tolist()),
        tokens=tuple(damage.tokens[measured].tolist()),
        loss=rounded(damage.loss),
        per_token=rounded(damage.per_token),
        summed=rounded(damage.summed),
        scores={
            each.name: tuple(None if np.isnan(value) else value for value in rounded(each.values)) for each in scored
        },
        removed={each.name: tuple(each.removed[measured].tolist()) for each in scored if each.removed is not None},
    )
