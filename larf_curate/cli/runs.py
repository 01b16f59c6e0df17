"""The command that runs a recipe."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from ..models.options import OPTIONS
from ..progress import tell
from .usage import Json, refuse_unscored, tell_to_look


def run(
    recipe: Annotated[Path, typer.Argument(help="YAML file: source, scorer, threshold, executor, output.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: --set threshold.drop_top=500.", metavar="KEY=VALUE"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and how long it takes.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help=OPTIONS["trust_remote_code"].about.help)
    ] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Then remove scored shards that no run of the directory needs any more.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a recipe: score a dataset and split it, here, on Ray or on Slurm. Run again after a crash, it goes on."""
    from ..console import show_plan, show_summary
    from ..recipe.recipe import Recipe
    from ..runs.driver import Submitted

    loaded = Recipe.load(recipe, overrides or ())
    if dry_run:
        plan = loaded.plan(trust_remote_code=trust_remote_code)
        if json:
            print(dumps(asdict(plan), indent=2))
        else:
            show_plan(plan)
        return
    outcome = loaded.run(trust_remote_code=trust_remote_code, sweep=sweep)
    if isinstance(outcome, Submitted):
        if json:
            print(dumps({"jobs": outcome.jobs}))
            return
        jobs = ", ".join(outcome.jobs)
        tell(f"submitted to Slurm: jobs {jobs}; run the recipe again to see the result, or to go on")
        return
    if json:
        print(outcome.to_json())
        refuse_unscored(outcome)
        return
    show_summary(outcome)
    tell(f"written to {loaded.output}: kept/ removed/ unscorable/ (Parquet), report.json, plots/")
    refuse_unscored(outcome)
    tell_to_look(loaded.output)
