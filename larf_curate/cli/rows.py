"""Commands on rows: score, filter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal, Unpack

import typer

from ..errors import ModelError, ThresholdError
from ..models.options import RunOptions
from ..progress import suggest, tell
from ..rows.score_columns import PREFIX
from ..scoring.formula_names import Turns
from .model_options import with_run_options
from .usage import (
    STANDARD,
    Columns,
    Config,
    Field,
    Format,
    Join,
    Json,
    Prefix,
    Split,
    Weight,
    names_of,
    reading_of,
    refuse_unscored,
    rows_from,
    rows_to,
    tell_to_look,
    weight_of,
    wrong_usage,
)

if TYPE_CHECKING:
    from ..validation.guards import GuardJudge


@with_run_options
def score(
    data: Annotated[
        str, typer.Argument(help="File, directory, saved dataset, or Hub id; - for JSON lines on standard input.")
    ],
    scorer: Annotated[str, typer.Option(help="Fitted scorer: directory or Hub id.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Where the scored rows go: .parquet, .jsonl or .csv; - for JSON lines on standard output; with "
            "--split all a directory."
        ),
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Score only so many rows, from the first on.")] = None,
    split: Split = None,
    format: Format = "auto",  # noqa: A002 - the option's name
    config: Config = None,
    field: Field = None,
    columns: Columns = None,
    join: Join = None,
    turns: Annotated[
        Turns | None,
        typer.Option(help="larf, subspace: score the last assistant turn, or all and count the worst (larf_turn)."),
    ] = None,
    spans: Annotated[
        bool, typer.Option("--spans", help="influence: add larf_spans, the characters that do half of the damage.")
    ] = False,
    weight: Weight = None,
    prefix: Prefix = PREFIX,
    guard: Annotated[
        str | None,
        typer.Option(help="Guard model (Llama Guard, WildGuard, ...) whose verdict is the column guard_unsafe."),
    ] = None,
    json: Json = False,
    **options: Unpack[RunOptions],
) -> None:
    """Score every row of a dataset, and write it with the columns of its score."""
    from rich.console import Console

    from ..console import show_summary
    from ..engines.local_files import score_file
    from ..scoring.scorer import LARFScorer
    from ..sources.files import open_source

    width, names = weight_of(weight), names_of(prefix)
    reading = reading_of(format, columns, join)
    fitted = LARFScorer.from_pretrained(scorer, format=reading, prefix=names.prefix, **options)
    with wrong_usage(ModelError, "--spans" if spans else "--turns"):
        fitted = fitted.with_options(turns=turns, spans=spans or None, weight=width)
    if json and str(out) == STANDARD:
        raise typer.BadParameter("--json and --out - both want standard output")
    judge = None if guard is None else _guard(guard)
    unsafe = None
    with rows_from(data) as name, rows_to(out) as path:
        source = open_source(name, split, config=config, field=field)
        summary = score_file(source if limit is None else source.first(limit), fitted, path)
        if judge is not None:
            from ..cache import clear_caches
            from ..engines.guard_column import add_guard_column

            clear_caches()  # the scorer's model makes room for the guard
            files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]  # with --split all a directory
            unsafe = sum(add_guard_column(file, judge, reading) for file in files)
    if json:
        print(summary.to_json())
    elif str(out) == STANDARD:
        show_summary(summary, Console(stderr=True))
    else:
        show_summary(summary)
        tell(f"scored rows written to {out}")
        if judge is not None:
            tell(f"{unsafe:,} answers are unsafe, says {judge.name}: column guard_unsafe")
        every = " --split all" if split == "all" else ""
        every += f" --prefix {prefix}" if prefix != PREFIX else ""
        refuse_unscored(summary)
        if out.suffix == ".csv":
            suggest("score to .parquet or .jsonl to split the rows by their scores: a CSV file holds numbers as texts")
        else:
            command = f"larf-curate filter {quote(str(out))}{every} --drop-fraction 0.05 --out DIRECTORY"
            suggest(f"{command}, to split them")
        return
    refuse_unscored(summary)


def _guard(model: str) -> GuardJudge:
    """A guard, known before the rows are scored."""
    from ..validation.guards import GuardJudge

    return GuardJudge(model.removeprefix("guard:"))


def filter_(
    data: Annotated[
        str,
        typer.Argument(
            help="Scored rows: file, directory, saved dataset, or Hub id; - for JSON lines on standard input."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory for kept/, removed/ and unscorable/.")],
    max_score: Annotated[float | None, typer.Option(help="Remove rows that score above this.")] = None,
    drop_top: Annotated[int | None, typer.Option(help="Remove this many of the highest.")] = None,
    drop_fraction: Annotated[float | None, typer.Option(help="Remove this share (0 to 1) of the highest.")] = None,
    calibrated: Annotated[
        float | None, typer.Option(help="Remove what scores above all but this share of harmless rows.")
    ] = None,
    harmless: Annotated[str | None, typer.Option(help="calibrated: scored rows known to be harmless.")] = None,
    scorer: Annotated[str | None, typer.Option(help="calibrated: or the scorer, with its packaged ones.")] = None,
    unscorable: Annotated[
        Literal["separate", "keep", "remove"], typer.Option(help="Where rows without a score go.")
    ] = "separate",
    split: Split = None,
    per_split: Annotated[
        bool, typer.Option("--per-split", help="With --split all: fit the threshold to each split by itself.")
    ] = False,
    format: Format = "auto",  # noqa: A002 - the option's name
    config: Config = None,
    field: Field = None,
    columns: Columns = None,
    weight: Weight = None,
    prefix: Prefix = PREFIX,
    json: Json = False,
) -> None:
    """Split scored rows by a threshold: kept, removed, unscorable."""
    from ..console import show_summary
    from ..deciding.filtering import FilterRecord, whole_name
    from ..deciding.thresholds import Threshold
    from ..engines.local_files import split_file
    from ..sources.files import open_source

    rules = {"max_score": max_score, "drop_top": drop_top, "drop_fraction": drop_fraction, "calibrated": calibrated}
    chosen = [rule for rule, amount in rules.items() if amount is not None]
    if len(chosen) != 1:
        raise typer.BadParameter("give exactly one of --max-score, --drop-top, --drop-fraction, --calibrated")
    if per_split and split != "all":
        raise typer.BadParameter("--per-split needs --split all")
    if calibrated is not None and (harmless is None) == (scorer is None):
        raise typer.BadParameter("--calibrated needs --harmless (scored rows) or --scorer, and not both")
    names = names_of(prefix)
    with wrong_usage(ThresholdError):
        if calibrated is not None:
            scores = _harmless_scores(harmless, scorer, names.prefix)
            threshold = Threshold.calibrated(calibrated, scores, unscorable=unscorable)
        else:
            threshold = getattr(Threshold, chosen[0])(rules[chosen[0]], unscorable=unscorable)
    renamed = tuple(columns or ())
    record = FilterRecord(whole_name(data), split, config, field, format, renamed, weight, per_split)
    with rows_from(data) as name:
        source = open_source(name, split, config=config, field=field)
        reading = reading_of(format, columns, None)
        width = weight_of(weight)
        summary = split_file(
            source,
            threshold,
            out,
            format=reading,
            weight=width,
            per_split=per_split,
            record=record,
            prefix=names.prefix,
        )
    if json:
        print(summary.to_json())
        refuse_unscored(summary)
        return
    show_summary(summary)
    tell(f"written to {out}: kept/ removed/ unscorable/")
    refuse_unscored(summary)
    tell_to_look(out)


def _harmless_scores(harmless: str | None, scorer: str | None, prefix: str) -> Iterable[float | None]:
    """Scores of the rows in `harmless`, or else those that the scorer carries."""
    from ..engines.local_files import read_scores
    from ..scoring.scorer import LARFScorer
    from ..sources.files import open_source

    if harmless:
        return read_scores(open_source(harmless), prefix)
    return LARFScorer.from_pretrained(str(scorer)).harmless_scores
