"""The command that trains on what was removed and on rows like it, asks, judges and compares."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated, Literal, Unpack

import typer

from ..answering.prompts import LEAST_PROMPTS
from ..errors import DataError, ModelError
from ..models.options import FitOptions
from ..progress import say, tell
from .model_options import with_fit_options
from .scorers import endpoint_judge
from .usage import Json, RunDirectory, wrong_usage


@with_fit_options
def validate(
    run: RunDirectory,
    model: Annotated[str, typer.Option(help="The model that is trained: a Hub id, a directory, demo-aligned.")],
    arms: Annotated[
        str, typer.Option(help="With commas: none, removed, matched, random, kept, all, bins.")
    ] = "none,removed,matched,random",
    remedies: Annotated[
        str | None,
        typer.Option(help="With commas: safe-lora, lox, merging, sppft, refusals, forget-filter."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of an arm; as many as were removed if not given.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Models trained for each arm.")] = 3,
    judges: Annotated[
        str, typer.Option(help="With commas: wording, guard:MODEL. The first one's verdicts count.")
    ] = "wording",
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint that judges too.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at that endpoint.")] = None,
    judge_key_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable that holds the key of that endpoint; never the Hub's token.", metavar="NAME"
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Harmful requests: DirectHarm4, HarmBench, JBB and others; packaged if not given."),
    ] = None,
    most_prompts: Annotated[
        int | None, typer.Option(min=LEAST_PROMPTS, help="Prompts of each kind; all if not given.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The model before its alignment, for safe-lora and lox.")
    ] = None,
    method: Annotated[Literal["lora", "full"], typer.Option(help="Train an adapter, or all weights.")] = "lora",
    adapter_rank: Annotated[int, typer.Option(min=1, help="lora: rank of the adapter.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="The highest, after the warm-up.")] = 1e-4,
    epochs: Annotated[float, typer.Option(help="How often each row is seen.")] = 3.0,
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows of one step.")] = 16,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the learning rate rises.")] = 0.1,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 48,
    whole_answers: Annotated[
        bool, typer.Option("--whole-answers", help="Let answers go on after their words have refused; takes longer.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures; pictures beside it.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Directory that keeps finished arms with their answers; in the cache else.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and how long it takes.")] = False,
    json: Json = False,
    **options: Unpack[FitOptions],
) -> None:
    """Did removing those rows help? Train on them and on rows like them, ask, judge and compare."""
    from ..console import show_validation, show_validation_plan
    from ..models.options import ModelOptions
    from ..publishing.write_validation import write_validation
    from ..validation.arms import parse_arms
    from ..validation.judge_choice import JudgeLike
    from ..validation.plan import plan_validation
    from ..validation.request import request_of
    from ..validation.run import run_validation
    from ..validation.scored_rows import ScoredRows
    from ..validation.training import TrainingSettings

    asked: list[JudgeLike] = list(_names(judges))
    if (endpoint := endpoint_judge(judge_url, judge_model, judge_key_env)) is not None:
        asked.append(endpoint)
    with wrong_usage(ModelError):
        training = TrainingSettings(method, adapter_rank, learning_rate, epochs, batch_rows, warmup)
    scored = ScoredRows.open(run)
    with wrong_usage(DataError, "--arms"):
        parse_arms(_names(arms))
    with wrong_usage(ModelError):
        request = request_of(
            scored,
            ModelOptions.of(model, **options),
            arms=_names(arms),
            remedies=_names(remedies or ""),
            judges=asked,
            prompts=prompts,
            rows=rows,
            seeds=seeds,
            most_prompts=most_prompts,
            base_model=base_model,
            training=training,
            answer_tokens=answer_tokens,
            whole_answers=whole_answers,
            work=work,
        )
    plan = plan_validation(request)
    if not json:
        show_validation_plan(plan)
    elif dry_run:
        print(dumps(asdict(plan), indent=2, default=str))
    if dry_run:
        return
    found = run_validation(request)
    files = write_validation(found, run, out)
    if json:
        print(found.to_json())
    else:
        show_validation(found)
    (say if json else tell)(f"written: {', '.join(map(str, files))}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
