"""Results as tables on the terminal, with the text of rows made safe to print."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .deciding.summary import Summary
from .deciding.thresholds import Threshold
from .errors import Issue
from .inert import visible
from .publishing.validation_words import describe_validation, validation_tables
from .publishing.words import describe_run
from .scoring.excerpts import signed
from .scoring.formula_names import MEANINGS
from .validation.audit_result import HEADINGS as AUDIT_HEADINGS
from .validation.audit_words import describe_measurement

if TYPE_CHECKING:
    from .publishing.report import Report
    from .pushing import Pushed
    from .recipe.planning import RunPlan
    from .runs.estimate import ScoringEstimate
    from .scoring.layer_search.profile import LayerProfile
    from .validation.audit_result import Audit
    from .validation.plan import ValidationPlan
    from .validation.results import Validation

PLACE_HELP = (
    "unsafe below: the share of the unsafe reference answers that score lower than the row. It says where a row "
    "lies, not what is in it: look at the rows."
)


def show_summary(summary: Summary, console: Console | None = None) -> None:
    """Print a summary: rows by outcome and issue, the threshold, score quantiles, the highest rows."""
    console = console or Console()
    if isinstance(console.file, io.TextIOWrapper):
        console.file.reconfigure(errors="backslashreplace")  # tables are printed on a terminal of ASCII alone too
    console.print(_counts_table(summary))
    for fault in summary.faults:
        console.print(Text(visible(str(fault), 300), style="dim"))
    if summary.execution:
        where, _, saved = summary.execution.partition("; ")
        console.print(Text(visible(f"scored in {where}", 500), style="dim"))
        if saved:
            console.print(Text(visible(f"time was saved by: {saved}", 500), style="dim"))
    if summary.threshold is not None:
        for split, threshold in (summary.threshold.by_split or {"": summary.threshold}).items():
            if threshold.value is not None:
                console.print(_threshold_line(threshold, split))
    if summary.quantiles:
        formula = summary.run.formula if summary.run else "larf"
        console.print(_quantiles_table(summary.quantiles, MEANINGS[formula]))
    if summary.highest:
        console.print(_highest_table(summary, console.width))
        if summary.references:
            console.print(Text(PLACE_HELP, style="dim"))


def _counts_table(summary: Summary) -> Table:
    """Rows in all, with and without a score, by issue and by outcome."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("rows")
    table.add_column("count", justify="right")
    table.add_row("in all", f"{summary.rows:,}")
    table.add_row("scored", f"{summary.scored:,}")
    if truncated := summary.issues.get(Issue.TRUNCATED):
        table.add_row(Text(f"  {Issue.TRUNCATED}", style="dim"), f"{truncated:,}")
    table.add_row("without a score", f"{summary.rows - summary.scored:,}")
    for issue, count in sorted(summary.issues.items()):
        if issue != Issue.TRUNCATED:
            table.add_row(Text(f"  {visible(issue, 40)}", style="dim"), f"{count:,}")
    if summary.outcomes is not None:
        table.add_section()
        for outcome, count in asdict(summary.outcomes).items():
            table.add_row(outcome, f"{count:,}")
    return table


def _threshold_line(threshold: Threshold, split: str) -> Text:
    """A fitted threshold in one sentence; `split` is empty where it is that of all rows."""
    where = f" of {visible(split, 60)}" if split else ""
    line = f"threshold{where}: {threshold.rule} {threshold.amount:g} removes {_removed_by(threshold)}"
    if split:
        line += f", {threshold.removed:,} of {threshold.rows:,} rows"
    if threshold.tied:
        line += f"; {threshold.tied:,} later rows stay though their scores equal that of the last one to go"
    if threshold.harmless:
        line += f"; calibrated on {threshold.harmless:,} harmless rows"
    return Text(line)


def _removed_by(threshold: Threshold) -> str:
    """Which scores a fitted threshold removes, in words: at both ends its value is no number to compare with."""
    value = threshold.value
    if value == math.inf:
        return "nothing, since no row has a score"
    return "all rows that have a score" if value == -math.inf else f"scores above {signed(value, 6)}"


def _quantiles_table(quantiles: Mapping[str, float], meaning: str) -> Table:
    table = Table(title=f"score: higher means {meaning}", box=box.SIMPLE_HEAD)
    for name in quantiles:
        table.add_column(Text(visible(name, 40)), justify="right")
    table.add_row(*map(signed, quantiles.values()))
    return table


def _highest_table(summary: Summary, width: int) -> Table:
    """The rows with the highest scores, each on one line of a terminal of `width` characters."""
    references = summary.references
    where = [_short(visible(row.where, 300)) for row in summary.highest]
    longer = max(0, max(map(len, where)) - 5)  # than the number of a row
    text_width = max(12, (width - (36 if references else 26) - longer) // 2)
    table = Table(title="highest scores", box=box.SIMPLE_HEAD)
    table.add_column("score", justify="right", no_wrap=True)
    if references:
        table.add_column("unsafe\nbelow", justify="right", no_wrap=True)
    table.add_column("row", justify="right", no_wrap=True)
    table.add_column("asked", no_wrap=True, max_width=text_width)
    table.add_column("answered", no_wrap=True, max_width=text_width)
    for row, place_of_row in zip(summary.highest, where, strict=True):
        texts = [Text(visible(text, text_width)) for text in (row.prompt, row.answer)]
        place = [f"{references.unsafe_below(row.score):.0%}"] if references and row.score is not None else []
        table.add_row(signed(row.score), *place, Text(place_of_row), *texts)
    return table


def _short(place: str, width: int = 26) -> str:
    """Where a row is, with the end of a long name: files of one dataset are told apart by that."""
    row, of, part = place.partition(" of ")
    room = max(8, width - len(row + of))
    return place if len(part) <= room else f"{row}{of}…{part[1 - room :]}"


def show_plan(plan: RunPlan, console: Console | None = None) -> None:
    """Print what a recipe would do: rows, shards, model, memory, time."""
    (console or Console()).print(_two_columns(_plan_lines(plan)))


def show_facts(facts: Iterable[tuple[str, str]], console: Console | None = None) -> None:
    """Print names and values, one a line."""
    (console or Console()).print(_two_columns(iter(facts)))


def _two_columns(lines: Iterator[tuple[str, str]]) -> Table:
    """A name and a value on each line."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in lines:
        indent = " " * (len(name) - len(name.lstrip(" ")))
        table.add_row(Text(indent + visible(name, 60)), Text(visible(value, 2000)))
    return table


def _plan_lines(plan: RunPlan) -> Iterator[tuple[str, str]]:
    yield "source", f"{plan.source}: {plan.rows:,} rows, read as {plan.format}"
    each = f"{plan.rows / max(1, plan.shards):,.0f}"
    yield "shards", f"{plan.shards:,}, with about {each} rows each; scored already: {plan.shards - plan.pending:,}"
    searched = "auto: searched for first, once, which takes minutes to hours; below, all blocks are reckoned with"
    read = f"layer {', '.join(map(str, plan.layers)) or searched}"
    yield (
        "model",
        f"{plan.model}, {read if plan.formula in ('larf', 'subspace') else f'formula {plan.formula}: two passes'}",
    )
    if plan.trust_remote_code:
        yield "code", "the run executes code that comes with the model, as you asked; this plan did not"
    if not plan.pending:
        yield "time", "nothing is left to score"
    elif plan.estimate is None:
        yield "time", "not known without the model's own code"
    else:
        yield from _estimate_lines(plan, plan.estimate)
    yield "threshold", plan.threshold
    yield "executor", plan.executor
    yield "output", plan.output
    if plan.audit is not None:
        yield "audit", plan.audit
    if plan.validate is not None:
        yield "validate", plan.validate
    yield "publish", plan.publish or "nothing"


def _estimate_lines(plan: RunPlan, estimate: ScoringEstimate) -> Iterator[tuple[str, str]]:
    last_loaded, last_block, millions = estimate.blocks - 1, estimate.total_blocks - 1, estimate.parameters / 1e6
    mebibytes = estimate.bytes / 2**20
    speed = f"{estimate.operations:.2g} operations at {estimate.rate:.2g} a second here ({estimate.device})"
    yield "blocks", f"0 to {last_loaded} of 0..{last_block} are loaded: {millions:,.0f}M parameters with the embeddings"
    yield "memory", f"{mebibytes:,.0f} MiB of weights in {estimate.dtype} for each worker, and room to work in"
    yield "tokens", f"about {estimate.tokens:,} in the {plan.pending_rows:,} rows yet to be scored"
    yield "time", f"about {_duration(estimate.seconds)} of scoring with {plan.workers} at work: {speed}"


def _duration(seconds: float) -> str:
    """In the largest unit of which there are at least two."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"


def show_report(report: Report, console: Console | None = None) -> None:
    """Print the main figures of a report, and a table for each column that groups its rows."""
    console = console or Console()
    console.print(_two_columns(describe_run(report)))
    for column, groups in report.groups_by_column().items():
        table = Table(title=Text(f"by {visible(column, 40)}"), box=box.SIMPLE_HEAD)
        for name in ("value", "rows", "removed", "median score"):
            table.add_column(name, justify="left" if name == "value" else "right")
        for group in groups:
            value = Text("null", style="dim") if group.value is None else Text(visible(group.value, 40))
            removed = f"{group.rows.removed:,} ({group.share_removed:.1%})"
            median = signed(group.median)
            table.add_row(value, f"{group.rows.total:,}", removed, median)
        console.print(table)


def show_layers(profile: LayerProfile, console: Console | None = None) -> None:
    """Print a search for the safety-sensitive layer: a line for each block, the other methods, and the verdict."""
    console = console or Console()
    title = Text("percent of the prompts asked that are refused when a block is scaled")
    table = Table(box=box.SIMPLE_HEAD, title=title, padding=0, pad_edge=False)
    # In short, for 80 columns: the lines below the table say them in full.
    methods = [re.split(r" of | \(", name)[0].replace(" ", "\n") for name in profile.locators]
    scales = [f"{scale:g}" for scale in sorted(profile.scales)]
    names = ["asked", *scales, "kappa", "95%", "first", *methods]
    for name in ("block", *names):
        table.add_column(Text(visible(name, 200, lines=True)), justify="right", no_wrap=True)
    for block in profile.blocks:
        asked = block.asked
        figures = [str(max(asked.values()))]
        figures += [f"{100 * block.refusals[scale] / asked[scale]:.0f}" if asked[scale] else "-" for scale in scales]
        figures += [f"{block.kappa:.0f}", f"{block.low:.0f}..{block.high:.0f}", f"{block.first:.0%}"]
        figures += [f"{values[block.block]:.2f}" for values in profile.locators.values()]
        best = block.block == profile.best
        table.add_row(f"{block.block}{' *' if best else ''}", *figures, style="bold" if best else None)
    console.print(table)
    unscaled = f"{profile.unscaled} of {profile.prompts} prompts ({profile.unscaled / profile.prompts:.0%})"
    console.print(f"the model as it is refuses {unscaled}")
    for line in (profile.effort(), *profile.agreement()):
        console.print(Text(visible(line, 1000)))
    console.print(Text(visible(profile.verdict(), 1000), style="bold"))


def show_validation_plan(plan: ValidationPlan, console: Console | None = None) -> None:
    """Print what a validation would do: arms, rows, models, memory, time."""
    (console or Console()).print(_two_columns(_validation_plan_lines(plan)))


def _validation_plan_lines(plan: ValidationPlan) -> Iterator[tuple[str, str]]:
    yield "rows", plan.source
    yield "model", plan.model
    few = "; fewer than asked for: one arm has no more rows, and compared arms are of one size" if plan.fewer else ""
    yield "arms", ", ".join(f"{name} ({rows:,} rows)" if rows else name for name, rows in plan.arms.items()) + few
    done = f"; {plan.finished} were finished before" if plan.finished else ""
    yield "models", f"{plan.models} to train, {plan.seeds} for each arm{done}; finished ones are kept in {plan.home}"
    yield "prompts", f"{plan.prompts}, each to every model"
    yield "judges", ", ".join(plan.judges)
    if plan.seconds is None or plan.bytes is None:
        yield "time", "not known without the model's own code"
    else:
        parts = ", ".join(f"{part} {_duration(seconds)}" for part, seconds in plan.seconds.items())
        yield "time", f"about {_duration(sum(plan.seconds.values()))} here: {parts}"
        free = "" if plan.free is None else f", {plan.free / 2**20:,.0f} MiB are free"
        short = "" if plan.fits else f": {plan.advice}"
        yield "memory", f"about {plan.bytes / 2**20:,.0f} MiB for training{free}{short}"
    if plan.missing:
        yield "packages", f"missing: {', '.join(plan.missing)}: pip install 'larf-curate[validate]'"


def show_validation(validation: Validation, console: Console | None = None) -> None:
    """Print a validation: tables with a line for each arm, what it was made of, and the verdict."""
    console = console or Console()
    for arms in validation_tables(validation):
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for number, heading in enumerate(arms.headings):  # two lines, so that figures have the width of the terminal
            table.add_column(_on_two_lines(heading), justify="right" if number else "left", overflow="fold")
        for line in arms.lines:
            table.add_row(*(Text(visible(cell, 200)) for cell in line))
        console.print(table)
    console.print(_two_columns(line for line in describe_validation(validation) if line[0] != "verdict"))
    console.print(Text(visible(validation.verdict, 2000), style="bold"))


def _on_two_lines(heading: str) -> str:
    """The heading of a column, broken at the blank that is nearest to its middle."""
    blanks = [place for place, character in enumerate(heading) if character == " "]
    if not blanks:
        return heading
    middle = min(blanks, key=lambda place: abs(place - len(heading) / 2))
    return f"{heading[:middle]}\n{heading[middle + 1 :]}"


def show_audit(audit: Audit, console: Console | None = None) -> None:
    """Print an audit: the rank correlations of scores and damage, what limits them, and the verdict."""
    console = console or Console()
    title = Text("rank correlation with the damage of a row")
    table = Table(box=box.SIMPLE_HEAD, title=title, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for number, name in enumerate(AUDIT_HEADINGS):  # figures stay whole, names of scores fold
        table.add_column(name.replace(" taken", "\ntaken"), overflow="fold", no_wrap=number > 0)
    for number, line in enumerate(audit.table()):
        if number in (len(audit.scores), len(audit.scores) + len(audit.baselines)):
            table.add_section()
        table.add_row(*(Text(visible(cell, 60)) for cell in line))
    console.print(table)
    for sentence in describe_measurement(audit):
        console.print(Text(visible(sentence, 500)))
    for warning in audit.warnings:
        console.print(Text(f"warning: {visible(warning, 500)}"))
    console.print(Text(visible(audit.verdict, 1000), style="bold"))


def show_push(pushed: Pushed, *, dry_run: bool, console: Console | None = None) -> None:
    """Print which files were sent to the Hub; with `dry_run` those that would be, and the card."""
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    for path, size in pushed.changed.items():
        table.add_row(Text(visible(path, 200)), "deleted" if size is None else f"{size:,}")
    if pushed.changed:
        console.print(table)
    if pushed.unchanged:
        console.print(f"{len(pushed.unchanged)} files are there already")
    if dry_run:
        console.print("the card:\n")
        # To the byte, but for control characters: nothing is wrapped, and blanks at the front of a line stay.
        print(visible(pushed.card, len(pushed.card) * 6 + 1, lines=True), file=console.file)
        console.print(f"\nnothing was sent to {pushed.repo}")
    else:
        # An address that is broken across lines cannot be clicked.
        line = f"{'published' if pushed.changed else 'nothing had changed'}: {pushed.url}"
        console.print(Text(visible(line, 2000)), soft_wrap=True)
