"""The sentences about a run: right at every size of a figure, and in words a newcomer reads."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from support.made_runs import sample_rows

from larf_curate.deciding.results import Results
from larf_curate.deciding.thresholds import Threshold
from larf_curate.publishing.build_report import build_report
from larf_curate.publishing.card import CardRequest, render_card
from larf_curate.publishing.page import render_page
from larf_curate.publishing.report import Confounds
from larf_curate.publishing.words import describe_confounds, describe_run
from larf_curate.scoring.statistics import Estimate

pytestmark = pytest.mark.usefixtures("blank_pictures")


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, rows=100)


@pytest.mark.parametrize(
    ("ratio", "length", "interval"),
    [
        ((0.8, 0.73, 0.88), "20% shorter, prompt included, than", "12% to 27% shorter"),
        ((0.5, 0.4, 1.2), "50% shorter, prompt included, than", "60% shorter to 20% longer"),
        ((1.0, 0.9, 1.1), "as long, prompt included, as", "10% shorter to 10% longer"),
        ((1.001, 1.0, 1.002), "as long, prompt included, as", "as long"),
        ((1.12, 1.0, 1.3), "12% longer, prompt included, than", "as long to 30% longer"),
        ((1.5, 1.25, 1.75), "50% longer, prompt included, than", "25% to 75% longer"),
        ((1.9, 1.5, 2.4), "90% longer, prompt included, than", "50% longer to 2.4 times as long"),
        ((3.0, 2.0, 4.5), "3.0 times as long, prompt included, as", "2.0 to 4.5 times as long"),
        ((0.001, 0.0005, 0.002), "over 99% shorter, prompt included, than", "over 99% shorter"),
    ],
)
def test_a_ratio_of_lengths(ratio, length, interval):
    (sentence,) = describe_confounds(Confounds(removed_to_kept_tokens=estimate(*ratio)))
    doubt = ": these rows show no clear difference" if ratio[1] <= 1 <= ratio[2] else ""
    expected = f"Removed conversations are {length} kept ones (tokens, geometric mean; 95% interval {interval}){doubt}."
    assert sentence == expected


@pytest.mark.parametrize(
    ("difference", "share", "interval"),
    [
        ((-0.1, -0.15, -0.02), "10.0 percentage points lower", "2.0 to 15.0 percentage points lower"),
        ((0.3, 0.2, 0.4), "30.0 percentage points higher", "20.0 to 40.0 percentage points higher"),
        (
            (0.02, -0.01, 0.05),
            "2.0 percentage points higher",
            "1.0 percentage points lower to 5.0 percentage points higher",
        ),
    ],
)
def test_a_difference_of_shares(difference, share, interval):
    (sentence,) = describe_confounds(Confounds(removed_less_kept_lists=estimate(*difference)))
    doubt = ": these rows show no clear difference" if difference[1] <= 0 <= difference[2] else ""
    where = "among removed rows than among kept ones"
    assert sentence == f"The share of lists is {share} {where} (95% interval {interval}){doubt}."


def test_shares_that_are_the_same():
    (sentence,) = describe_confounds(Confounds(removed_less_kept_refusals=estimate(0.0, -0.01, 0.04)))
    interval = "1.0 percentage points lower to 4.0 percentage points higher"
    where = "among removed rows as among kept ones"
    assert sentence == f"The share of refusals or hedges is the same {where} (95% interval {interval})."


@pytest.mark.parametrize(
    ("correlation", "meaning"),
    [
        ((-0.31, -0.36, -0.25), "longer answers tend to score lower"),
        ((0.31, 0.25, 0.36), "longer answers tend to score higher"),
        ((0.02, -0.04, 0.08), "these rows show no clear relation"),
    ],
)
def test_a_correlation(correlation, meaning):
    (sentence,) = describe_confounds(Confounds(score_and_characters=estimate(*correlation)))
    value, low, high = (f"{figure:+.2f}" for figure in correlation)
    assert f"length of the answer is {value} (95% interval {low} to {high}): {meaning}." in sentence


def test_figures_that_are_not_there_have_no_sentence():
    assert describe_confounds(None) == describe_confounds(Confounds()) == []


def test_a_run_in_which_no_row_has_a_score(make_run):
    """Its threshold is infinite, which JSON does not know."""
    rows = [{"question": "q", "answer": "a"}] * 3
    results = Results.open(make_run(rows, [None] * 3, Threshold.drop_fraction(0.5)))
    report = build_report(results)
    facts = dict(describe_run(report))
    assert facts["score"] == "no row has one"
    assert facts["removed"].endswith(": none, since no row has a score")
    assert "| removed | none, since no row has a score |" in render_card(CardRequest("a/b", report, [], None, ["kept"]))
    (data,) = re.findall(r'id="stops">(.*?)</script>', render_page(results, report))
    assert json.loads(data, parse_constant=lambda name: pytest.fail(f"JavaScript reads no {name}"))["scores"] == []


def test_the_facts_of_a_run_are_those_of_its_report(make_run):
    report = build_report(Results.open(make_run(*sample_rows(), Threshold.drop_top(7))))
    facts = dict(describe_run(report))
    assert facts["rows"] == "200: 188 kept, 7 removed, 5 unscorable"
    assert facts["scorer"] == "acme/base-model, layer 3, formula larf"
    assert facts["separation"] == "AUC 0.817 (0.5 is chance, 1 is perfect) on 56 pairs it was not fitted on"
    assert facts["removed"] == f"the 7 highest-scoring rows: scores above {report.threshold.value:+.5f}"
    assert facts["rows without a score"] == "5 set apart"
    assert facts["  empty_answer"] == "5"


def test_the_page_counts_what_each_threshold_would_remove(make_run):
    rows, scores = sample_rows()
    scores = [score and round(score, 1) for score in scores]
    results = Results.open(make_run(rows, scores, Threshold.drop_top(20)))
    report = build_report(results)
    assert report.threshold.tied > 0, "no row ties with the last removed one: the test tests nothing"
    (data,) = re.findall(r'id="stops">(.*?)</script>', render_page(results, report))
    slider = json.loads(data)
    known = np.array([score for score in scores if score is not None], np.float32).astype(np.float64)
    counts = [int((known > stop).sum()) for stop in slider["scores"]]
    assert slider["removed"][slider["now"]] == 20
    counts[slider["now"]] = 20  # rows that tie with the last removed one stayed
    assert slider["removed"] == counts
    assert slider["scored"] == 195
    assert slider["scores"] == sorted(slider["scores"])
    assert slider["scores"][slider["now"]] == report.threshold.value
