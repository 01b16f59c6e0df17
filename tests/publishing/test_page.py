"""The page's command for another threshold can be copied: it is short, and it goes where the results are."""

from __future__ import annotations

import html
import json
import re
import shlex

import numpy as np
import pytest
from support.made_runs import sample_rows

from larf_curate.deciding.layout import RECIPE
from larf_curate.deciding.results import Results
from larf_curate.deciding.thresholds import Threshold
from larf_curate.publishing.build_report import build_report
from larf_curate.publishing.page import render_page


def page_and_stops(run):
    results = Results.open(run)
    page = render_page(results, build_report(results))
    return page, json.loads(re.search(r'id="stops">(.*?)</script>', page)[1])


@pytest.mark.parametrize("threshold", [Threshold.drop_fraction(0.1), Threshold.drop_top(7), Threshold.max_score(-0.05)])
def test_the_threshold_in_use_is_short_and_removes_the_same_rows(make_run, threshold):
    rows, scores = sample_rows()
    run = make_run(rows, scores, threshold)
    _, stops = page_and_stops(run)
    value = stops["scores"][stops["now"]]
    assert len(f"{value!r}") <= len("-0.123456")
    scored = np.array([score for score in scores if score is not None], np.float32)
    results = Results.open(run)
    gone = np.concatenate(list(results.values("larf_score", ["removed"])()))
    assert sorted(scored[scored > value]) == sorted(gone)
    assert stops["removed"][stops["now"]] == len(gone)


def test_where_rows_tie_the_command_names_how_many_go(make_run):
    rows, _ = sample_rows(40)
    run = make_run(rows, [0.5] * 20 + [0.0] * 20, Threshold.drop_fraction(0.125))
    _, stops = page_and_stops(run)
    assert stops["removed"][stops["now"]] == 5
    assert stops["unchanged"].endswith(" --drop-top 5")  # any threshold on the score removes 20 of them, or none
    (run / RECIPE).write_text("{}", encoding="utf-8")
    assert page_and_stops(run)[1]["unchanged"].endswith(" --set threshold.drop_top=5")
    assert page_and_stops(make_run(*sample_rows(), name="other"))[1]["unchanged"] == ""


def test_the_command_goes_where_the_results_are(plain_run, monkeypatch):
    def words(directory):
        monkeypatch.chdir(directory)
        return shlex.split(page_and_stops(plain_run)[1]["command"])

    recipe = plain_run / RECIPE
    recipe.write_text(f"output: {plain_run.name}\n", encoding="utf-8")
    assert words(plain_run.parent) == ["larf-curate", "run", str(recipe), "--set", "threshold.max_score="]
    # From another directory the recipe's own output would be another directory, and all rows would be scored anew.
    elsewhere = words(plain_run)
    assert elsewhere[3:5] == ["--set", f"output={plain_run}"]
    recipe.write_text("[", encoding="utf-8")
    assert words(plain_run.parent)[3:5] == ["--set", f"output={plain_run}"]


def test_what_filter_read_is_left_to_the_reader_who_is_told_so(plain_run):
    page, stops = page_and_stops(plain_run)
    assert shlex.split(stops["command"]) == [
        *("larf-curate", "filter", "SCORED_ROWS", "--out", str(plain_run), "--max-score"),
    ]
    assert "Put the file or dataset that was filtered for <code>SCORED_ROWS</code>" in page


def test_the_page_says_which_rows_it_shows_and_what_each_picture_is(plain_run):
    page, _ = page_and_stops(plain_run)
    assert "All 19 removed rows, then all 176 kept rows, then 5 that have no score." in page
    captions = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", page)
    assert [html.unescape(text)[:9] for text in captions] == ["Histogram", "Score aga", "Scores by"]
    targets = re.findall(r'<a href="#(\w+)"', page)
    assert len(targets) == 3
    assert all(f'id="{target}"' in page for target in targets)
