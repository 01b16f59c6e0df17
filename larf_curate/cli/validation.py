"""The command that trains on what was removed and on rows like it, asks, judges and compares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError, ModelError
from ..progress import say, tell
from ..validation.settings import AskingSettings, ComparingSettings, TrainingSettings
from .model_options import settings_of, with_settings
from .scorers import endpoint_judge
from .usage import Json, RunDirectory, require_json, wrong_usage


@with_settings(ComparingSettings, AskingSettings, TrainingSettings)
def validate(
    run: RunDirectory,
    model: Annotated[str, typer.Option(help="The model that is trained: a Hub id, a directory, demo-aligned.")],
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint that judges too.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at that endpoint.")] = None,
    judge_key_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable that holds the key of that endpoint; never the Hub's token.", metavar="NAME"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures; pictures beside it.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Directory that keeps finished arms with their answers; in the cache else.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and how long it takes.")] = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Did removing those rows help? Train on them and on rows like them, ask, judge and compare."""
    from ..console import show_validation, show_validation_plan
    from ..models.options import ModelOptions
    from ..publishing.write_validation import require_places, write_validation
    from ..validation.plan import plan_validation
    from ..validation.processes import processes
    from ..validation.request import ValidationRequest
    from ..validation.run import measure_models, sum_up
    from ..validation.scored_rows import ScoredRows

    require_json(out)
    with wrong_usage(DataError), wrong_usage(ModelError):
        comparing: ComparingSettings = settings_of(ComparingSettings, options)
        training: TrainingSettings = settings_of(TrainingSettings, options)
        asking: AskingSettings = settings_of(AskingSettings, options)
    if (endpoint := endpoint_judge(judge_url, judge_model, judge_key_env)) is not None:
        asking = replace(asking, judges=(*asking.judges, endpoint))
    scored = ScoredRows.open(run)
    with wrong_usage(ModelError):
        request = ValidationRequest(scored, ModelOptions.of(model, **options), comparing, training, asking, work)
    first = processes().is_first  # of those that train together: it alone writes and shows
    if first and not (json and not dry_run):
        plan = plan_validation(request)
        if json:
            print(plan.to_json(), end="")
        else:
            show_validation_plan(plan)
    if dry_run:
        return
    if first:
        require_places(run, out)
    study, measured = measure_models(request)
    if not first:
        return
    validation = sum_up(study, measured)
    files = write_validation(validation, run, out)
    if json:
        print(validation.to_json(), end="")
    else:
        show_validation(validation)
    (say if json else tell)(f"written: {', '.join(map(str, files))}")
