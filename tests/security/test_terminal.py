"""Whatever rows, columns, scorers, files and servers hold is text on a terminal, which does nothing that it says."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.commands import larf
from support.made_runs import SCORER, sample_rows
from test_scorer_publishers import SEARCH

from larf_curate import Threshold
from larf_curate.console import show_layers, show_push, show_report, show_summary
from larf_curate.deciding.results import Results
from larf_curate.deciding.summary import Fault, Summary
from larf_curate.progress import say, tell
from larf_curate.publishing.build_report import build_report
from larf_curate.pushing import Pushed
from larf_curate.scoring.excerpts import Excerpt

pytestmark = pytest.mark.usefixtures("no_row_is_run")

ACTING = "\x1b]0;own\x07\x1b[2J[red]m[/red][/][link=file:///x]\u202eback\u200b\x9b31m"


def shown(show: Callable[[Console], object]) -> str:
    """What a terminal is sent, without the styles that rich itself sets."""
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None, legacy_windows=False)
    show(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def assert_inert(text: str) -> None:
    assert not [character for character in ("\x1b", "\x07", "\u202e", "\u200b", "\x9b") if character in text]


def test_a_summary_is_text() -> None:
    summary = Summary(
        rows=3,
        scored=1,
        issues={ACTING: 2},
        quantiles={ACTING: 0.5},
        highest=(Excerpt(0.5, 1, ACTING, ACTING),),
        threshold=Threshold.drop_top(1).fit([0.5, None, None]),
        execution=ACTING,
        faults=(Fault(ACTING, 0, ACTING),),
    )
    text = shown(lambda console: show_summary(summary, console))
    assert_inert(text)
    assert text.count("[red]m[/red][/]") >= 5


def test_a_report_is_text(make_run) -> None:
    rows, scores = sample_rows()
    run = make_run([{**row, "category": f"{ACTING}{row['category']}"} for row in rows], scores, scorer=SCORER)
    report = build_report(Results.open(run))
    hostile = replace(report, issues={ACTING: 5}, scorer=replace(SCORER, model=ACTING, search=SEARCH))
    text = shown(lambda console: show_report(hostile, console))
    assert_inert(text)
    assert "[red]m[/red][/]" in text


def test_a_search_is_text() -> None:
    profile = replace(SEARCH, locators={ACTING: [1.0] * 5})
    text = shown(lambda console: show_layers(profile, console))
    assert_inert(text)
    assert "[/]" in text


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_a_server_answers_is_text(dry_run: bool) -> None:
    pushed = Pushed("acme/clean", f"https://hub/{ACTING}", {ACTING: 5}, (), ACTING, created=False)
    assert_inert(shown(lambda console: show_push(pushed, dry_run=dry_run, console=console)))


def test_lines_beside_tables_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"read as {ACTING}\nand more")
    tell(f"written to {ACTING}")
    out, errors = capsys.readouterr()
    assert_inert(out + errors)
    assert errors.count("\n") == 2


def test_a_command_on_hostile_columns_prints_text(tmp_path) -> None:
    rows = [
        {"question": "q", "answer": "a", ACTING: "a text that is not read", "larf_score": 0.5, "larf_issue": ACTING}
    ]
    pq.write_table(pa.Table.from_pylist(rows * 3), tmp_path / "rows.parquet")
    done = larf("filter", tmp_path / "rows.parquet", "--out", tmp_path / f"out{ACTING[-4:]}", "--drop-top", 1)
    assert done.returncode == 0
    assert_inert(done.stdout + done.stderr)
    assert "[red]m[/red]" in done.stdout
