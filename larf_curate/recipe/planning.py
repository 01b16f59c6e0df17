"""What a recipe would do, and about how long it would take; nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..models.options import ModelOptions
from ..rows.formats import resolve_format
from ..rows.notices import reading_note
from ..scoring.artifact import read_artifact
from ..scoring.formula_names import Formula
from .schema import AuditSection, PublishSection, ScorerSection

if TYPE_CHECKING:
    from ..runs.estimate import ScoringEstimate, ScoringWork
    from ..runs.request import RunRequest


@dataclass(frozen=True)
class RunPlan:
    """What a recipe would do.

    Attributes:
        source: the rows, as the recipe names them.
        format: the row format that they have.
        rows: how many there are.
        shards: how many parts they are scored in.
        pending: shards that no earlier run has scored; they hold `pending_rows` rows.
        model: the model's name; `layers` are the blocks that are read, none if a search is to find one or the formula
            reads none.
        formula: the formula of the score.
        workers: tasks at a time.
        threshold, executor: in words.
        output: the run directory.
        publish: what would be published and for whom, in words; None if nothing is.
        audit: how the score would be audited, in words; None if it is not.
        validate: which models would be trained to validate the results, in words; None if none.
        trust_remote_code: whether the run may execute code that comes with the model; the plan itself never does.
        estimate: what the scoring takes; None where only the model's own code knows its shape.
    """

    source: str
    format: str
    rows: int
    shards: int
    pending: int
    pending_rows: int
    model: str
    layers: tuple[int, ...]
    formula: Formula
    workers: int
    threshold: str
    executor: str
    output: str
    publish: str | None
    audit: str | None
    validate: str | None
    trust_remote_code: bool
    estimate: ScoringEstimate | None


def plan_run(
    request: RunRequest,
    source: str,
    scorer: ScorerSection,
    publish: PublishSection | None = None,
    audit: AuditSection | None = None,
    *,
    trust_remote_code: bool = False,
) -> RunPlan:
    """The plan of a run.

    Args:
        request: the run.
        source: the rows, as the recipe names them.
        scorer, publish, audit: the recipe's sections.
        trust_remote_code: whether the run may execute code that comes with the model. Planning never does.

    Raises:
        LarfError: rows, scorer or model cannot be used.
    """
    from ..runs.driver import preview
    from ..runs.estimate import ScoringWork

    shards, pending = preview(request)
    pending_rows = shards.rows_in(pending)
    model, layers, formula = model_and_formula(scorer)
    executor, threshold, weight = request.executor, request.threshold, request.weight
    rule = f"{threshold.rule} {threshold.amount:g}" + (", for each split by itself" if request.per_split else "")
    weighed = "" if weight is None else f"; weight 1 up to {weight.lower:g}, 0 from {weight.upper:g}"
    work = ScoringWork(
        source=request.source,
        format=request.format,
        rows=pending_rows,
        model=model,
        layers=layers,
        passes=1 if formula in ("larf", "subspace") else 2,
        workers=executor.at_once,
        threads=executor.threads,
    )
    return RunPlan(
        source=source,
        format=_described_format(request),
        rows=shards.rows,
        shards=len(shards.shards),
        pending=len(pending),
        pending_rows=pending_rows,
        model=model.model,
        layers=layers,
        formula=formula,
        workers=executor.at_once,
        threshold=f"{rule}; rows without a score: {threshold.unscorable}{weighed}",
        executor=f"{executor.kind}, tasks: {executor.tasks:,}, at a time: {executor.at_once:,}",
        output=str(request.home),
        publish=None if publish is None else publish.in_words(),
        audit=None if audit is None else audit.in_words(),
        validate=None if request.validation is None else request.validation.in_words(),
        trust_remote_code=trust_remote_code,
        estimate=_estimate(work, trust_remote_code),
    )


def _estimate(work: ScoringWork, trust_remote_code: bool) -> ScoringEstimate | None:
    """What the scoring takes; None if the model's own code, which would be run later, had to be run to know."""
    from ..models.shape import CustomCodeError
    from ..runs.estimate import estimate

    try:
        return estimate(work)
    except CustomCodeError:
        if not trust_remote_code:
            raise
        return None


def _described_format(request: RunRequest) -> str:
    """The row format, and what it leaves unread."""
    from ..sources.json_values import text_columns

    schema = request.source.schema
    row_format = resolve_format(request.format, schema.names)
    return reading_note(row_format, schema.names, text_columns(schema)).removeprefix("read as ") or row_format.name


def model_and_formula(scorer: ScorerSection) -> tuple[ModelOptions, tuple[int, ...], Formula]:
    """The model of a recipe's scorer, the blocks that are read, and the formula.

    Raises:
        ScorerError: the fitted scorer cannot be read.
    """
    if scorer.from_ is None:
        return ModelOptions.of(**scorer.model_options()), tuple(scorer.layers), scorer.formula
    spec = read_artifact(scorer.from_, scorer.revision)[0].changed(turns=scorer.turns, spans=scorer.spans)
    return spec.model_options(scorer.run_options()), spec.layers, spec.formula
