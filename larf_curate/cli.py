"""The command line: run, fit, score, filter, layers, report, push, demo."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from .errors import LarfError, ModelError, RecipeError, ThresholdError
from .models.options import DType
from .rows.formats import FORMATS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find the rows of a fine-tuning dataset that would erode an aligned model's refusals, and remove them.",
)

DEMO_LAYER = 16
_INTERRUPTED = 130

Split = Annotated[str | None, typer.Option(help="Split of a dataset that has several.")]
Format = Annotated[str, typer.Option(help=f"Row format: auto, or one of: {', '.join(FORMATS)}.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")]
Precision = Annotated[
    DType,
    typer.Option(help="auto: bfloat16 on CUDA, else float32. int8, nf4: 8 or 4 bits, for models that do not fit."),
]
ChatTemplate = Annotated[str | None, typer.Option(help="Jinja file for a model that has none.")]
Device = Annotated[str | None, typer.Option(help="torch device; found by itself if not given.")]
BatchTokens = Annotated[int | None, typer.Option(min=1, help="Tokens of one batch, with its padding.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]


def main() -> None:
    """The entry point: 0 done, 1 the data or the model cannot be used, 2 wrong usage, 130 interrupted."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked workers would warn about it
    try:
        app(prog_name="larf-curate")
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:  # typer turns Ctrl-C into this, and says nothing
            _fail("interrupted; nothing was left half written", _INTERRUPTED)
        raise
    except LarfError as error:
        _fail(str(error), 2 if isinstance(error, RecipeError) else 1)
    except MemoryError:
        _fail("out of memory; try a smaller --batch-tokens", 1)
    except Exception as error:
        if os.environ.get("LARF_CURATE_DEBUG"):
            raise
        _fail(f"{type(error).__name__}: {error} (a defect of larf-curate; LARF_CURATE_DEBUG=1 shows where)", 1)


def _fail(message: str, code: int) -> None:
    from .inert import visible  # names of columns and files come from the user's data

    print(f"larf-curate: {visible(message, 4000)}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    if version:
        from . import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML file: source, scorer, threshold, executor, output.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: --set threshold.drop_top=500.", metavar="KEY=VALUE"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and how long it takes.")] = False,
) -> None:
    """Run a recipe: score a dataset and split it, here, on Ray or on Slurm. Run again after a crash, it goes on."""
    from .console import show_plan, show_summary
    from .recipe.recipe import Recipe

    read = Recipe.load(recipe, overrides or ())
    if dry_run:
        show_plan(read.plan())
        return
    done = read.run()
    if isinstance(done, list):
        print(f"submitted to Slurm: jobs {', '.join(done)}; run the recipe again to see the result, or to go on")
        return
    show_summary(done)
    print(f"written to {read.output}: kept/ removed/ unscorable/ (Parquet), report.json, plots/")
    print(f"next: larf-curate report {read.output} --html report.html, and look through what was removed")


@app.command()
def fit(
    model: Annotated[str, typer.Argument(help="demo, a Hub id, a model directory, a GGUF file, or a PEFT adapter.")],
    layer: Annotated[
        str, typer.Option(help="Block to read, from 0; several with commas: 11,13,16; or auto: search first.")
    ],
    out: Annotated[Path, typer.Option(help="Directory for the fitted scorer.")],
    references: Annotated[
        Path | None, typer.Option(help="JSONL of request, unsafe, safe; packaged if not given.")
    ] = None,
    unsafe: Annotated[Path | None, typer.Option(help="JSONL of unsafe conversations, with --safe.")] = None,
    safe: Annotated[Path | None, typer.Option(help="JSONL of safe ones, paired by line.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse references that the linter finds fault with.")
    ] = False,
    formula: Annotated[Literal["larf", "subspace"], typer.Option(help="How states become a score.")] = "larf",
    top_k: Annotated[int | None, typer.Option(help="larf: pairs that count for a row; all if not given.")] = None,
    rank: Annotated[int, typer.Option(help="subspace: directions kept a side.")] = 16,
    revision: Revision = None,
    dtype: Precision = "auto",
    device: Device = None,
    max_tokens: Annotated[int, typer.Option(help="Longer conversations are cut in the middle.")] = 4096,
    overflow: Annotated[Literal["truncate", "reject"], typer.Option(help="What happens to longer ones.")] = "truncate",
    batch_tokens: BatchTokens = None,
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Fit a scorer: encode the reference pairs at a block of the model."""
    from .scoring.artifact import require_writable
    from .scoring.references import choose_references
    from .scoring.scorer import LARFScorer

    layers: list[int] | Literal["auto"] = "auto" if layer == "auto" else _layers(layer)
    if (unsafe is None) != (safe is None):
        raise typer.BadParameter("--unsafe and --safe go together")
    if unsafe and references:
        raise typer.BadParameter("give --references, or --unsafe and --safe")
    pairs = choose_references(references, unsafe, safe)
    if strict:
        pairs.lint().raise_for_findings()
    require_writable(out)
    scorer = LARFScorer.fit(
        model,
        layers,
        references=pairs,
        formula=formula,
        top_k=top_k,
        rank=rank,
        revision=revision,
        dtype=dtype,
        device=device,
        max_tokens=max_tokens,
        overflow=overflow,
        batch_tokens=batch_tokens,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    scorer.save_pretrained(out)
    print(f"scorer written to {out}")


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """A threshold that makes no sense was typed so: wrong usage, not a fault of the data."""
    try:
        yield
    except ThresholdError as error:
        raise typer.BadParameter(str(error)) from error


def _layers(text: str, option: str = "--layer") -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a block number, nor several with commas", param_hint=option
        ) from None


@app.command()
def layers(
    model: Annotated[str, typer.Argument(help="demo-aligned, a Hub id, a model directory, a GGUF file, an adapter.")],
    out: Annotated[
        Path | None, typer.Option(help="JSON file for all figures; a .png of the profile beside it.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Harmless prompts that sound harmful: JSONL or lines; packaged if not given.")
    ] = None,
    blocks: Annotated[str | None, typer.Option(help="Blocks to scale, with commas; all if not given.")] = None,
    scales: Annotated[str, typer.Option(help="Factors, in pairs 1-a and 1+a.")] = "0.7,0.8,0.9,1.1,1.2,1.3",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 32,
    judge_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint that judges, instead of wording.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at that endpoint.")] = None,
    references: Annotated[Path | None, typer.Option(help="JSONL of pairs, for the quicker looks.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="File that keeps the answers' verdicts; in the cache else.")
    ] = None,
    revision: Revision = None,
    dtype: Precision = "auto",
    device: Device = None,
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Find the safety-sensitive block: scale one after the other, and count which harmless prompts are refused then."""
    from .answering.judges import EndpointJudge, by_wording
    from .atomic import write_bytes
    from .console import show_layers
    from .scoring.layer_search.profile import amplitudes
    from .scoring.layer_search.search import find_safety_layers
    from .scoring.references import ReferenceSet

    if (judge_url is None) != (judge_model is None):
        raise typer.BadParameter("--judge-url and --judge-model go together")
    try:
        factors = tuple(float(part) for part in scales.split(","))
    except ValueError:
        raise typer.BadParameter(f"{scales!r} are not numbers with commas", param_hint="--scales") from None
    try:
        amplitudes(factors)
    except ModelError as error:
        raise typer.BadParameter(str(error), param_hint="--scales") from None
    found = find_safety_layers(
        model,
        prompts=prompts,
        blocks=None if blocks is None else _layers(blocks, "--blocks"),
        scales=factors,
        max_new_tokens=max_new_tokens,
        judge=EndpointJudge(judge_url, judge_model) if judge_url and judge_model else by_wording,
        references=None if references is None else ReferenceSet.from_jsonl(references),
        resume=resume,
        revision=revision,
        dtype=dtype,
        device=device,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    show_layers(found)
    if out is not None:
        from .publishing.plots import draw_search

        write_bytes(out, found.to_json().encode())
        picture = out.with_suffix(".png")
        write_bytes(picture, draw_search(found))
        print(f"written: {out}, {picture}")
    if found.best is not None:
        print(f"next: larf-curate fit {model} --layer {found.best} --out my-scorer")


@app.command()
def score(
    data: Annotated[str, typer.Argument(help="File, directory, saved dataset, or Hub id.")],
    scorer: Annotated[str, typer.Option(help="Fitted scorer: directory or Hub id.")],
    out: Annotated[Path, typer.Option(help="Where the scored rows go: .parquet or .jsonl.")],
    split: Split = None,
    format: Format = "auto",  # noqa: A002 - the option's name
    model: Annotated[str | None, typer.Option(help="Where the scorer's model lies on this machine.")] = None,
    device: Device = None,
    batch_tokens: BatchTokens = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Score every row of a dataset, and write it with its larf columns."""
    from .console import show_summary
    from .engines.local import score_file
    from .scoring.scorer import LARFScorer
    from .sources.files import open_source

    fitted = LARFScorer.from_pretrained(
        scorer,
        format=format,
        model=model,
        device=device,
        batch_tokens=batch_tokens,
        trust_remote_code=trust_remote_code,
    )
    show_summary(score_file(open_source(data, split), fitted, out))
    print(f"scored rows written to {out}")


@app.command(name="filter")
def filter_(
    data: Annotated[str, typer.Argument(help="Scored rows: file, directory, saved dataset, or Hub id.")],
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
    format: Format = "auto",  # noqa: A002 - the option's name
) -> None:
    """Split scored rows by a threshold: kept, removed, unscorable."""
    from .console import show_summary
    from .deciding.thresholds import Threshold
    from .engines.local import read_scores, split_file
    from .sources.files import open_source

    rules = {"max_score": max_score, "drop_top": drop_top, "drop_fraction": drop_fraction, "calibrated": calibrated}
    given = [rule for rule, value in rules.items() if value is not None]
    if len(given) != 1:
        raise typer.BadParameter("give exactly one of --max-score, --drop-top, --drop-fraction, --calibrated")
    if calibrated is not None and (harmless is None) == (scorer is None):
        raise typer.BadParameter("--calibrated needs --harmless (scored rows) or --scorer, and not both")
    with _usage():
        if max_score is not None:
            threshold = Threshold.max_score(max_score)
        elif drop_top is not None:
            threshold = Threshold.drop_top(drop_top)
        elif drop_fraction is not None:
            threshold = Threshold.drop_fraction(drop_fraction)
        else:
            known = read_scores(open_source(harmless)) if harmless else _harmless_scores(str(scorer))
            threshold = Threshold.calibrated(calibrated or 0.0, known)
    show_summary(split_file(open_source(data, split), threshold.with_unscorable(unscorable), out, format=format))
    print(f"written to {out}: kept/ removed/ unscorable/")


Run = Annotated[Path, typer.Argument(help="Directory that `run` or `filter` has written.")]


@app.command()
def report(
    run: Run,
    html: Annotated[Path | None, typer.Option(help="Write one page to look through, which needs no network.")] = None,
) -> None:
    """Show what was removed and why, and what the score measures on these rows; writes report.json and plots/."""
    from .console import show_report
    from .publishing.page import write_page
    from .publishing.write_report import write_report

    found = write_report(run)
    show_report(found)
    print(f"written to {run}: report.json, plots/")
    if html is not None:
        write_page(run, html, found)
        print(f"written: {html}; open it in a browser")


@app.command()
def push(
    run: Run,
    repo: Annotated[str, typer.Option(help="Dataset on the Hub: namespace/name.")],
    private: Annotated[bool, typer.Option("--private/--public", help="Who may see a repository made now.")] = True,
    removed: Annotated[bool, typer.Option("--removed", help="Publish removed rows too, as a config.")] = False,
    examples: Annotated[int, typer.Option(min=0, max=100, help="Removed rows that the card shows, cut short.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch; made if it is not there.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files, sizes and the card; send nothing.")] = False,
) -> None:
    """Publish a run as a dataset on the Hub: data, score card, plots, report and recipe in one commit."""
    from .console import show_push
    from .publishing.push_run import push_run
    from .pushing import Destination

    destination = Destination(repo, private=private, revision=revision, create_pr=create_pr)
    done = push_run(run, destination, removed=removed, examples=examples, dry_run=dry_run)
    show_push(done, dry_run=dry_run)


def _harmless_scores(scorer: str) -> Iterable[float]:
    from .scoring.scorer import LARFScorer

    return LARFScorer.from_pretrained(scorer).harmless_scores


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory for the result.")] = Path("larf-demo"),
    layer: Annotated[str, typer.Option(help="Block to read.")] = str(DEMO_LAYER),
    drop_fraction: Annotated[float, typer.Option(help="Share of the rows to remove.")] = 0.1,
) -> None:
    """The whole path on the embedded model and the packaged sample rows: fit, score, remove the worst."""
    import json
    import tempfile

    from .console import show_summary
    from .deciding.layout import SUMMARY
    from .deciding.thresholds import Threshold
    from .engines.local import score_file, split_file
    from .scoring.artifact import require_writable
    from .scoring.fitting import sample_rows
    from .scoring.scorer import LARFScorer
    from .sources.files import open_source
    from .sources.writing import refuse_foreign

    with _usage():
        threshold = Threshold.drop_fraction(drop_fraction)
    refuse_foreign(out, SUMMARY)
    require_writable(out)
    fitted = LARFScorer.fit("demo", _layers(layer))
    with tempfile.TemporaryDirectory() as scratch:
        rows, scored = Path(scratch) / "sample_rows.jsonl", Path(scratch) / "scored.parquet"
        rows.write_text("".join(json.dumps(row) + "\n" for row in sample_rows()), encoding="utf-8")
        score_file(open_source(str(rows)), fitted, scored)
        show_summary(split_file(open_source(str(scored)), threshold, out))
    print(f"written to {out}: kept/ removed/ unscorable/ (Parquet)")
    print(f'next: from datasets import load_dataset; load_dataset("{out}/kept", split="train")')


if __name__ == "__main__":
    main()
