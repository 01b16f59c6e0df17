"""The public function: did removing those rows help?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from ..atomic import write_text
from ..deciding.datasets import Parts
from ..models.options import FitOptions, ModelOptions
from .judge_choice import JudgeLike
from .request import DEFAULT_ARMS, request_of
from .results import Validation
from .run import run_validation
from .scored_rows import ScoredRows
from .training import TrainingSettings


def validate(
    scored: Parts[Any, Any] | str | Path,
    model: str | Path,
    *,
    arms: Sequence[str] = DEFAULT_ARMS,
    remedies: Sequence[str] = (),
    rows: int | None = None,
    seeds: int = 3,
    judges: Sequence[JudgeLike] = ("wording",),
    prompts: str | Path | Sequence[str] | None = None,
    most_prompts: int | None = None,
    base_model: str | None = None,
    training: TrainingSettings | None = None,
    answer_tokens: int = 48,
    whole_answers: bool = False,
    format: str = "auto",  # noqa: A002 - the word users know
    out: str | Path | None = None,
    work: str | Path | None = None,
    **options: Unpack[FitOptions],
) -> Validation:
    """Train a model on the rows that a filter removed and on rows like them, ask, judge and compare.

    Every arm is a model trained on other rows. All of them are asked harmful requests, harmless ones that sound
    harmful, and ordinary ones, none of which was trained on. An arm that is done is not trained again: a validation
    that was interrupted goes on where it stopped.

    >>> # Not run by doctest: several models are trained.
    >>> found = validate("runs/quickstart", "demo-aligned", rows=24, seeds=1)  # doctest: +SKIP
    >>> found.arm("removed").against.interval  # doctest: +SKIP

    Args:
        scored: what `Threshold.split` gave for a dataset, or the directory of a run.
        model: that is trained: a Hub id, a local directory, `demo-aligned`.
        arms: of `none`, `removed`, `matched`, `random`, `kept`, `all`, `bins`; see docs/validation.md.
        remedies: of `safe-lora`, `lox`, `merging`, `sppft`, `refusals`, `forget-filter`; each trains on the rows of
            `all`.
        rows: of every arm; by default as many as were removed (at most 1,000), and for `kept`, `all` and remedies all
            that were kept.
        seeds: models trained for each arm.
        judges: `wording`, `guard:MODEL`, an `EndpointJudge`, or any function of a prompt and an answer that says
            whether the answer refuses. The first one's verdicts count.
        prompts: harmful requests, or a file of them; the packaged 200 by default.
        most_prompts: of each kind; all by default.
        base_model: the model before its alignment, for `safe-lora` and `lox`.
        training: how every arm is trained.
        answer_tokens: the most of an answer.
        whole_answers: let answers go on after their words have refused: a guard or an endpoint that reads on finds
            those that refuse first and comply then. It takes several times as long.
        format: how rows of a dataset are read.
        out: file for the result as JSON.
        work: directory where finished arms are kept; one in the cache by default.
        **options: how the model is loaded; see `ModelOptions`.

    Returns:
        Figures with intervals for every arm, and a verdict.

    Raises:
        LarfError: rows, model, prompts or judges cannot be used; the message says which and why.
    """
    request = request_of(
        ScoredRows.of_parts(scored, format) if isinstance(scored, Parts) else ScoredRows.open(scored),
        ModelOptions.of(model, **options),
        arms=arms,
        remedies=remedies,
        judges=judges,
        prompts=prompts,
        rows=rows,
        seeds=seeds,
        most_prompts=most_prompts,
        base_model=base_model,
        training=training or TrainingSettings(),
        answer_tokens=answer_tokens,
        whole_answers=whole_answers,
        work=None if work is None else Path(work),
    )
    found = run_validation(request)
    if out is not None:
        write_text(Path(out), found.to_json())
    return found
