"""Commands that read a model: fit, layers."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal, Unpack

import typer

from ..errors import ModelError, ReferencesError
from ..models.options import FitOptions
from ..progress import say, suggest, tell
from ..scoring.formula_names import Formula
from .model_options import with_fit_options
from .usage import Json, Model, parse_blocks, require_figures, wrong_usage

if TYPE_CHECKING:
    from ..answering.judges import EndpointJudge


@with_fit_options
def fit(
    model: Model,
    out: Annotated[Path, typer.Option(help="Directory for the fitted scorer.")],
    layer: Annotated[
        str | None,
        typer.Option(
            help="larf, subspace: block to read, from 0; several with commas: 11,13,16; or auto: search first."
        ),
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="JSONL of request, unsafe, safe; packaged if not given.")
    ] = None,
    unsafe: Annotated[Path | None, typer.Option(help="JSONL of unsafe conversations, with --safe.")] = None,
    safe: Annotated[Path | None, typer.Option(help="JSONL of safe ones, paired by line.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse references that the linter finds fault with.")
    ] = False,
    formula: Annotated[
        Formula,
        typer.Option(
            help="larf, subspace: states beside references; influence: what a row does to refusing; loss_gap: losses "
            "under two models."
        ),
    ] = "larf",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="influence: harmful requests as text, CSV, TSV or JSON, or FILE:COLUMN; packaged if not given."
        ),
    ] = None,
    other: Annotated[str | None, typer.Option(help="loss_gap: the second model.", metavar="MODEL")] = None,
    top_k: Annotated[int | None, typer.Option(help="larf: pairs that count for a row; all if not given.")] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            help="subspace: directions kept a side, 16 if not given. influence: those of each weight matrix, as many "
            "as it takes if not given."
        ),
    ] = None,
    json: Json = False,
    **options: Unpack[FitOptions],
) -> None:
    """Fit a scorer to a model: on reference pairs at a block, or (influence) on harmful requests that it refuses."""
    from ..scoring.artifact import require_writable
    from ..scoring.formula_names import require_suitable
    from ..scoring.references import choose_references, require_one_choice
    from ..scoring.scorer import LARFScorer

    given = {"layer": layer, "references": references, "unsafe": unsafe, "safe": safe}
    with wrong_usage(ReferencesError), wrong_usage(ModelError):
        require_suitable(formula, {**given, "top_k": top_k, "rank": rank, "prompts": prompts, "other": other})
    with wrong_usage(ReferencesError):
        require_one_choice(references, unsafe, safe)
    blocks: list[int] | Literal["auto"] | None = (
        None if layer is None else "auto" if layer == "auto" else parse_blocks(layer)
    )
    pairs = None if layer is None else choose_references(references, unsafe, safe)
    if strict and pairs is not None:
        pairs.lint().raise_for_findings()
    require_writable(out)
    scorer = LARFScorer.fit(
        model,
        blocks,
        references=pairs,
        formula=formula,
        prompts=prompts,
        other=other,
        top_k=top_k,
        rank=rank,
        **options,
    )
    scorer.save_pretrained(out)
    if json:
        print(scorer.spec.to_json())
    else:
        tell(f"scorer written to {out}")
        suggest(f"larf-curate score DATA --scorer {quote(str(out))} --out scored.parquet")


@with_fit_options
def layers(
    model: Model,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for all figures; a .png of the profile beside it.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Harmless prompts that sound harmful, in a file; packaged if not given."),
    ] = None,
    blocks: Annotated[str | None, typer.Option(help="Blocks to scale, with commas; all if not given.")] = None,
    scales: Annotated[str, typer.Option(help="Factors, in pairs 1-a and 1+a.")] = "0.7, 0.8, 0.9, 1.1, 1.2, 1.3",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 32,
    judge_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint that judges, instead of wording.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at that endpoint.")] = None,
    judge_key_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable that holds the key of that endpoint. None is sent if not given, and never the "
            "Hub's token.",
            metavar="NAME",
        ),
    ] = None,
    error_rate: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="Of dropping the block that all answers put first before all are given; 0 asks all."
        ),
    ] = 0.05,
    references: Annotated[Path | None, typer.Option(help="JSONL of pairs, for the quicker looks.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="File that keeps the answers' verdicts; in the cache else.")
    ] = None,
    json: Json = False,
    **options: Unpack[FitOptions],
) -> None:
    """Find the safety-sensitive block: scale one after the other, and count which harmless prompts are refused then."""
    from ..answering.judges import by_wording
    from ..atomic import write_bytes
    from ..console import show_layers
    from ..scoring.layer_search.profile import amplitudes
    from ..scoring.layer_search.search import find_safety_layers
    from ..scoring.references import ReferenceSet

    judge = endpoint_judge(judge_url, judge_model, judge_key_env) or by_wording
    require_figures(out, "profile_version")
    factors = _parse_scales(scales)
    with wrong_usage(ModelError, "--scales"):
        amplitudes(factors)
    profile = find_safety_layers(
        model,
        prompts=prompts,
        blocks=None if blocks is None else parse_blocks(blocks, "--blocks"),
        scales=factors,
        max_new_tokens=max_new_tokens,
        judge=judge,
        error_rate=error_rate,
        references=None if references is None else ReferenceSet.from_jsonl(references),
        resume=resume,
        **options,
    )
    if json:
        print(profile.to_json())
    else:
        show_layers(profile)
    if out is not None:
        from ..publishing.plots import draw_search

        write_bytes(out, profile.to_json().encode())
        picture = out.with_suffix(".png")
        write_bytes(picture, draw_search(profile))
        say(f"written: {out}, {picture}")
    if profile.best is not None and not json:
        suggest(f"larf-curate fit {quote(model)} --layer {profile.best} --out my-scorer")


def endpoint_judge(url: str | None, model: str | None, key_variable: str | None) -> EndpointJudge | None:
    """The judge behind an endpoint, of a command's three options; None where none is given."""
    from ..answering.judges import JudgeEndpoint

    with wrong_usage(ModelError):
        endpoint = JudgeEndpoint.of(url, model, key_variable)
        return None if endpoint is None else endpoint.judge()


def _parse_scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} are not numbers with commas", param_hint="--scales") from None
