"""Text of a row reaches the terminal as text, whatever is in it."""

from __future__ import annotations

import io
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from larf_curate import Threshold
from larf_curate.console import show_layers, show_summary
from larf_curate.deciding.summary import OutcomeCounts, Summary
from larf_curate.inert import visible
from larf_curate.scoring.excerpts import Excerpt
from larf_curate.scoring.layer_search.profile import LayerProfile
from larf_curate.scoring.layer_search.resampling import analyse

ACTS = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")

anything = st.text(st.characters(), max_size=300)  # surrogates and unassigned ones too
wild = st.text(
    st.sampled_from("\x00\x1b[31m\u202e\u2066\u2028\u200b\ufeff\x9b\r\n\t\U000e0041 abé字\ud800"), max_size=300
)


@given(anything | wild, st.integers(1, 60))
def test_nothing_a_terminal_acts_on_survives(text, width):
    shown = visible(text, width)
    assert [c for c in shown if unicodedata.category(c) in ACTS] == []
    assert len(shown) <= width


@given(st.text(st.sampled_from("abc é字ß[]{}\\<|"), max_size=40))
def test_ordinary_text_is_shown_as_it_is(text):
    assert visible(text, 40) == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\u001b[31mred\u001b[0m"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("a\r\nb\n\n\tc\u2028d", "a b c d"),
        ("nul\x00", r"nul\u0000"),
        ("", ""),
        ("x" * 30, "x" * 30),
        ("x" * 31, "x" * 29 + "…"),
        ("x" + " " * 500 + "y", "x…"),
    ],
)
def test_what_is_shown_instead(text, shown):
    assert visible(text, 30) == shown


def printed(summary: Summary, width: int = 100, *, styled: bool = False) -> str:
    """What a file would get; `styled` is what a terminal would, with rich's own escape sequences."""
    out = io.StringIO()
    show_summary(
        summary, Console(file=out, width=width, force_terminal=styled, color_system="truecolor" if styled else None)
    )
    return out.getvalue()


def summary(prompt: str = "q", answer: str = "a", **fields: object) -> Summary:
    values = {
        "rows": 3,
        "scored": 2,
        "quantiles": {"lowest": 0.25, "median": 0.375, "highest": 0.5},
        "highest": (Excerpt(0.5, 7, prompt, answer),),
    }
    return Summary(**{**values, **fields})


@pytest.mark.parametrize(
    "markup", ["[red]x[/red]", "[link=http://evil]here[/link]", "[bold", "[/]", ":smile:", r"\[b]"]
)
def test_markup_in_a_row_is_text(markup):
    assert printed(summary(prompt=markup, answer=markup)).count(markup) == 2
    assert "\x1b]8;" not in printed(summary(prompt=markup), styled=True), "no link"


def test_escape_sequences_of_a_row_do_not_reach_the_terminal():
    shown = printed(summary(prompt="\x1b[2J\x1b]0;title\x07", answer="\u202egnihton\x9b"), styled=True)
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert "\u202e" not in shown
    assert "\x9b" not in shown
    assert r"\u001b[2J\u001b]0;title\u0007" in shown


@pytest.mark.parametrize("text", ["\x1b[2J", "\u202eevil", "a\nb"])
def test_issues_of_somebody_elses_file_are_text_too(text):
    shown = printed(summary(issues=Counter({text: 1})))
    assert text not in shown


def test_counts_quantiles_and_threshold_are_told():
    threshold = Threshold.calibrated(0.25, [0.1, 0.2, 0.3]).fit([0.5, None, 0.25])
    outcomes = OutcomeCounts(kept=12000, removed=344, unscorable=1)
    told = printed(
        summary(rows=12345, issues=Counter(truncated=2, empty_answer=1), outcomes=outcomes, threshold=threshold)
    )
    cells = [line.split() for line in told.splitlines()]
    for name, count in {
        "in all": "12,345",
        "kept": "12,000",
        "removed": "344",
        "empty_answer": "1",
        "truncated": "2",
    }.items():
        assert [*name.split(), count] in cells
    assert "+0.37500" in told, "the median of 0.25 and 0.5"
    assert "calibrated 0.25 removes scores above +0.300000; calibrated on 3 harmless rows" in " ".join(told.split())


def test_rows_with_and_without_a_score_are_told_before_any_threshold():
    cells = [line.split() for line in printed(summary()).splitlines()]
    assert ["scored", "2"] in cells
    assert ["without", "a", "score", "1"] in cells


def test_ties_that_stay_are_told():
    threshold = Threshold.drop_top(1).fit([0.5, 0.5, 0.5, 0.1])
    told = " ".join(printed(summary(threshold=threshold)).split())
    assert "drop_top 1 removes scores above +0.100000; 2 later rows stay though their scores equal" in told


def test_nothing_scored_is_no_crash():
    shown = printed(Summary(2, 0, Counter(empty_answer=2)))
    assert "highest" not in shown


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_row_takes_one_line_of_the_terminal(width):
    shown = printed(summary(prompt="字" * 500, answer="long " * 500), width).splitlines()
    assert sum("字" in line for line in shown) == 1
    assert max(map(cell_len, shown)) <= width


def test_a_console_that_knows_only_ascii_gets_its_summary():
    """As on Windows with its output sent to a file, or LC_ALL=C in a container."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    show_summary(summary(prompt="é字" * 100, answer="x" * 1000), Console(file=out, width=80))
    out.flush()
    assert b"+0.50000" in raw.getvalue()


def test_the_table_of_a_layer_search_fits_80_columns(capsys):
    marks = np.random.default_rng(0).integers(0, 2, (40, 6, 128)).astype(np.int8)
    marks[:30, :, 26:] = -1  # most blocks were asked a part of the prompts, and none of them at the outer scales
    marks[:30, [0, 5]] = -1
    scales = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)
    blocks, p_value, _ = analyse(marks, scales, range(40))
    locators = {"angle gap (degrees)": [12.34] * 40, "separation of references (d)": [-1.23] * 40}
    profile = LayerProfile(
        "acme/model", "v", 40, "float32", 128, "d", "wording", 32, scales, 0.05, 47, blocks, p_value, 33, locators
    )
    show_layers(profile, Console(width=80))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    (line,) = [line.split() for line in shown.splitlines() if line.startswith("     7 ")]
    assert (line[1], line[2], line[7]) == ("26", "-", "-")
    assert line[3] == f"{100 * (marks[7, 1] == 1).sum() / 26:.0f}"
    assert "of 30,848 answers: what could not come first any more was asked no further" in " ".join(shown.split())
