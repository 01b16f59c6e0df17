"""What a person at the terminal sees: closing tables, with row text made safe to print."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .deciding.excerpts import Excerpt
from .deciding.summary import Summary
from .errors import Issue
from .inert import visible
from .publishing.words import describe_run

if TYPE_CHECKING:
    from .publishing.report import Report
    from .pushing import Pushed
    from .recipe.planning import RunPlan
    from .runs.estimate import Estimate
    from .scoring.layer_search.profile import LayerProfile


def show_summary(summary: Summary, console: Console | None = None) -> None:
    """The closing tables: rows by outcome and reason, score quantiles, the highest rows."""
    console = console or Console()
    if isinstance(console.file, io.TextIOWrapper):
        console.file.reconfigure(errors="backslashreplace")  # a terminal that knows only ASCII gets its tables too
    counts = Table(box=box.SIMPLE_HEAD)
    counts.add_column("rows")
    counts.add_column("count", justify="right")
    counts.add_row("in all", f"{summary.rows:,}")
    counts.add_row("scored", f"{summary.scored:,}")
    if cut := summary.issues.get(Issue.TRUNCATED):
        counts.add_row(Text(f"  {Issue.TRUNCATED}", style="dim"), f"{cut:,}")
    counts.add_row("without a score", f"{summary.rows - summary.scored:,}")
    for issue, count in sorted(summary.issues.items()):
        if issue != Issue.TRUNCATED:
            counts.add_row(Text(f"  {visible(issue, 40)}", style="dim"), f"{count:,}")
    if summary.outcomes is not None:
        counts.add_section()
        for outcome, count in asdict(summary.outcomes).items():
            counts.add_row(outcome, f"{count:,}")
    console.print(counts)
    for fault in summary.faults:
        console.print(Text(visible(str(fault), 300), style="dim"))
    if summary.execution:
        console.print(Text(f"scored in {summary.execution}", style="dim"))
    if summary.threshold is not None and summary.threshold.value is not None:
        console.print(_describe(summary))
    if summary.quantiles:
        quantiles = Table(title="score: higher is closer to the unsafe references", box=box.SIMPLE_HEAD)
        for name in summary.quantiles:
            quantiles.add_column(name, justify="right")
        quantiles.add_row(*(f"{value:+.5f}" for value in summary.quantiles.values()))
        console.print(quantiles)
    if summary.highest:
        console.print(_highest(summary.highest, console.width))


def show_plan(plan: RunPlan, console: Console | None = None) -> None:
    """What a recipe would do: rows, shards, model, memory, time."""
    (console or Console()).print(_facts(_plan_lines(plan)))


def _facts(lines: Iterator[tuple[str, str]]) -> Table:
    """Names and values, one below the other."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, Text(visible(value, 500)))
    return table


def _plan_lines(plan: RunPlan) -> Iterator[tuple[str, str]]:
    done = plan.shards - plan.pending
    yield "source", f"{plan.source}: {plan.rows:,} rows, read as {plan.format}"
    yield "shards", f"{plan.shards:,} of {plan.shard_rows:,} rows; {done:,} are scored already"
    searched = "auto: searched for first, once, which takes minutes to hours; below, all blocks are reckoned with"
    yield "model", f"{plan.model}, layer {', '.join(map(str, plan.layers)) or searched}"
    if plan.trust_remote_code:
        yield "code", "the run executes code that comes with the model, as you asked; this plan did not"
    if plan.estimate is None:
        yield "time", "not known without the model's own code"
    else:
        yield from _estimate_lines(plan, plan.estimate)
    yield "threshold", plan.threshold
    yield "executor", plan.executor
    yield "output", plan.output
    yield "publish", plan.publish or "nothing"


def _estimate_lines(plan: RunPlan, found: Estimate) -> Iterator[tuple[str, str]]:
    last, blocks, millions = found.blocks - 1, found.total_blocks - 1, found.parameters / 1e6
    speed = f"{found.operations:.2g} operations at {found.rate:.2g} a second here ({found.device})"
    yield "blocks", f"0 to {last} of 0..{blocks} are loaded: {millions:,.0f}M parameters with the embeddings"
    yield "memory", f"{found.bytes / 2**20:,.0f} MiB of weights in {found.dtype} for each worker, and room to work in"
    yield "tokens", f"about {found.tokens:,} in the {plan.pending_rows:,} rows yet to be scored"
    yield "time", f"about {_duration(found.seconds)} of scoring with {plan.workers} at work: {speed}"


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def show_report(report: Report, console: Console | None = None) -> None:
    """The figures of a report that a person looks at first."""
    console = console or Console()
    console.print(_facts(describe_run(report)))
    for column, groups in report.groups_by_column().items():
        table = Table(title=Text(f"by {visible(column, 40)}"), box=box.SIMPLE_HEAD)
        for name in ("value", "rows", "removed", "median score"):
            table.add_column(name, justify="left" if name == "value" else "right")
        for group in groups:
            value = Text("null", style="dim") if group.value is None else Text(visible(group.value, 40))
            removed = f"{group.rows.removed:,} ({group.share_removed:.1%})"
            median = "" if group.median is None else f"{group.median:+.5f}"
            table.add_row(value, f"{group.rows.total:,}", removed, median)
        console.print(table)


def show_layers(profile: LayerProfile, console: Console | None = None) -> None:
    """A search for the safety-sensitive layer: a line for each block, what the methods say, and the verdict."""
    console = console or Console()
    title = Text(f"refusals of {profile.prompts} prompts when a block is scaled")
    table = Table(box=box.SIMPLE_HEAD, title=title, padding=(0, 1), collapse_padding=True, pad_edge=False)
    # In short, for 80 columns: the lines below the table say them in full.
    located = [re.split(r" of | \(", name)[0].replace(" ", "\n") for name in profile.locators]
    names = [*(f"{scale:g}" for scale in sorted(profile.scales)), "kappa", "95%", "first", *located]
    for name in ("block", *names):
        table.add_column(name, justify="right", no_wrap=True)
    for found in profile.blocks:
        figures = [str(found.refusals[f"{scale:g}"]) for scale in sorted(profile.scales)]
        figures += [f"{found.kappa:.0f}", f"{found.low:.0f}..{found.high:.0f}", f"{found.first:.0%}"]
        figures += [f"{values[found.block]:.2f}" for values in profile.locators.values()]
        best = found.block == profile.best
        table.add_row(f"{found.block}{' *' if best else ''}", *figures, style="bold" if best else None)
    console.print(table)
    console.print(f"the model as it is refuses {profile.unscaled} of {profile.prompts}")
    for line in profile.agreement():
        console.print(line)
    console.print(Text(profile.verdict(), style="bold"))


def show_push(done: Pushed, *, dry_run: bool, console: Console | None = None) -> None:
    """What was sent, or would be; with `dry_run` also the card."""
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    for path, size in done.changed.items():
        table.add_row(Text(visible(path, 200)), "deleted" if size is None else f"{size:,}")
    if done.changed:
        console.print(table)
    if done.unchanged:
        console.print(f"{len(done.unchanged)} files are there already")
    if dry_run:
        console.print("the card:\n")
        for line in done.card.splitlines():
            console.print(Text(visible(line, 10_000)), soft_wrap=True)
        console.print(f"\nnothing was sent to {done.repo}")
    else:
        console.print(Text(f"{'published' if done.changed else 'nothing had changed'}: {done.url}"))


def _describe(summary: Summary) -> Text:
    threshold = summary.threshold
    assert threshold is not None
    said = f"threshold: {threshold.rule} {threshold.amount:g} removes scores above {threshold.value:+.6f}"
    if threshold.tied:
        said += f"; {threshold.tied:,} later rows stay though their scores equal that of the last one to go"
    if threshold.harmless:
        said += f"; calibrated on {threshold.harmless:,} harmless rows"
    return Text(said)


def _highest(rows: Sequence[Excerpt], width: int) -> Table:
    room = max(20, (width - 26) // 2)
    table = Table(title="highest scores", box=box.SIMPLE_HEAD)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("row", justify="right", no_wrap=True)
    table.add_column("asked", no_wrap=True, max_width=room)
    table.add_column("answered", no_wrap=True, max_width=room)
    for row in rows:
        texts = [Text(visible(text, room)) for text in (row.prompt, row.answer)]
        table.add_row(f"{row.score:+.5f}", str(row.row), *texts)
    return table
