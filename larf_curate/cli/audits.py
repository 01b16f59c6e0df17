"""The command that measures whether a score says anything about damage: audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from ..models.options import OPTIONS, FitOptions
from ..progress import say, tell
from ..validation.limits import LEAST_ROWS
from .model_options import with_fit_options
from .usage import Columns, Config, Field, Format, Join, Json, Split, reading_of, require_figures

if TYPE_CHECKING:
    from ..validation.audit_result import Audit


@with_fit_options
def audit(
    data: Annotated[
        str, typer.Argument(help="Run directory, or scored rows: file, directory, saved dataset, or Hub id.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help=f"Where damage is measured; that of the run if not given. {OPTIONS['model'].about.help}"),
    ] = None,
    rows: Annotated[int, typer.Option(min=LEAST_ROWS, help="Rows to look at, spread over the scores.")] = 500,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file for all figures; a .png beside it. For a run: audit.json in it if not given."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Harmful requests that the model refuses: text, CSV or JSON, or FILE:COLUMN; packaged if not given."
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of scores; several times for several. [default: larf_score, or what the rows were split by]",
            metavar="NAME",
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="Fitted scorer to audit, instead of a column or beside it: directory or Hub id.", metavar="SCORER"
        ),
    ] = None,
    split: Split = None,
    format: Format = "auto",  # noqa: A002 - the option's name
    config: Config = None,
    field: Field = None,
    columns: Columns = None,
    join: Join = None,
    json: Json = False,
    **options: Unpack[FitOptions],
) -> None:
    """Measure, on a sample of rows, whether a score says which rows erode the refusals of a model."""
    from ..atomic import write_bytes
    from ..console import show_audit
    from ..publishing.audit_plot import draw_audit
    from ..scoring.scorer import LARFScorer
    from ..sources.files import open_source
    from ..validation.audit import audit as measure
    from ..validation.audit_result import AUDIT
    from ..validation.audit_sample import is_run, usual_column

    is_a_run = is_run(data)
    if not is_a_run and model is None and not scorer:
        raise typer.BadParameter("say on which model damage is to be measured", param_hint="--model")
    if out is None and is_a_run:
        out = Path(data) / AUDIT
    require_figures(out, "audit_version")
    reading = reading_of(format, columns, join)
    fitted = [LARFScorer.from_pretrained(name, format=reading) for name in scorer or ()]
    audited: Audit = measure(
        [*(column or (() if fitted else (usual_column(data),))), *fitted],
        data if is_a_run else open_source(data, split, config=config, field=field),
        model=model,
        rows=rows,
        prompts=prompts,
        format=None if reading == reading_of("auto", None, None) else reading,
        **options,
    )
    if json:
        print(audited.to_json())
    else:
        show_audit(audited)
    if out is not None:
        write_bytes(out, audited.to_json().encode())
        picture = out.with_suffix(".png")
        write_bytes(picture, draw_audit(audited))
        (say if json else tell)(f"written: {out}, {picture}")
