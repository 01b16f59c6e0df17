"""A validation is shown by report, card, page and terminal, beside the results that it was made of and no others."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from support.validations import arm, around, made_validation

from larf_curate.console import show_report, show_validation
from larf_curate.deciding.results import Results
from larf_curate.publishing.card import render_card
from larf_curate.publishing.page import render_page
from larf_curate.publishing.publication import publish_files
from larf_curate.publishing.report import Report
from larf_curate.publishing.validation_words import describe_validation
from larf_curate.publishing.write_report import write_report
from larf_curate.publishing.write_validation import write_validation
from larf_curate.validation.results import Validation

pytestmark = pytest.mark.usefixtures("blank_pictures")
BINS = ("bin1", "bin2", "bin3", "bin4", "bin5")


def card_of(run) -> str:
    return render_card(publish_files(Results.open(run), "acme/rows", removed=False, examples=0).card)


def test_files_beside_the_results_and_where_they_are_asked_for(plain_run, tmp_path):
    found = made_validation(plain_run, BINS)
    out = tmp_path / "elsewhere" / "found.json"
    files = {path.relative_to(tmp_path).as_posix() for path in write_validation(found, plain_run, out)}
    home = plain_run.relative_to(tmp_path).as_posix()
    assert files == {
        f"{home}/validation.json",
        f"{home}/plots/validation-arms.png",
        f"{home}/plots/validation-bins.png",
        "elsewhere/found.json",
        "elsewhere/found-arms.png",
        "elsewhere/found-bins.png",
    }
    assert all((tmp_path / path).stat().st_size > 1000 for path in files)
    assert Validation.of_run(plain_run).to_json() == found.to_json() == out.read_text()
    assert json.loads(out.read_text())["arms"]["none"]["over_refusal"]["value"] is None


def test_differences_in_answers_and_losses_are_told(plain_run):
    found = made_validation(plain_run)
    removed = replace(found.arm("removed"), differences={"refused": around(-0.25, 0.125), "usefulness": around(0.5)})
    arms = tuple(removed if one.name == "removed" else one for one in found.arms)
    told = dict(describe_validation(replace(found, arms=arms)))
    assert told["removed minus matched"] == "refused -25 points [-38, -12], loss on ordinary rows +0.50 [+0.40, +0.60]"
    assert "matched minus random" not in told
    read = Validation.from_json(replace(found, arms=arms).to_json())
    assert read.arm("removed").differences == removed.differences


def test_the_report_holds_it_and_its_pictures(plain_run):
    found = made_validation(plain_run)
    write_validation(found, plain_run)
    report = write_report(plain_run)
    assert report.validation is not None
    assert report.validation.verdict == found.verdict
    assert Report.from_json((plain_run / "report.json").read_text()).validation.to_json() == found.to_json()
    assert (plain_run / "plots" / "validation-arms.png").is_file()
    out = io.StringIO()
    show_report(report, Console(file=out, width=120))
    assert "The filter removes rows that erode refusals." in " ".join(out.getvalue().split())


def test_card_and_page_show_the_table_and_no_path_of_this_machine(plain_run):
    assert "Did it help?" not in card_of(plain_run)
    assert "Measure that." in card_of(plain_run)
    write_validation(made_validation(plain_run), plain_run)
    report = write_report(plain_run)
    card = card_of(plain_run)
    section = card.partition("## Did it help?")[2].partition("\n## ")[0].replace("\\", "")
    assert "The filter removes rows that erode refusals." in section
    removed = next(line for line in section.splitlines() if line.startswith("| removed"))
    assert "-0.50 [-0.60, -0.40]" in removed
    assert "-0.75 [-1.00, -0.50] (matched)" in removed
    assert removed.count("|") == next(line for line in section.splitlines() if line.startswith("| ---")).count("|")
    assert "kappa 0.62" in section
    assert "2 left out, since they were trained on" in section
    assert "/home/me" not in card
    assert "validation-arms.png" in card
    page = render_page(Results.open(plain_run), report)
    assert "Did it help?" in page
    assert "-0.75 [-1.00, -0.50] (matched)" in page


def test_names_of_judges_and_models_act_in_nothing(plain_run):
    hostile = "evil](http://x) | <img src=x onerror=alert(1)> {{ 7*7 }}"
    write_validation(made_validation(plain_run, judge=hostile), plain_run)
    report = write_report(plain_run)
    card, page = card_of(plain_run), render_page(Results.open(plain_run), report)
    assert "<img src=x" not in card + page
    assert "](http://x)" not in card
    assert "evil" in card
    assert "evil" in page


def test_a_validation_of_other_results_is_not_shown(plain_run, make_run):
    from support.made_runs import sample_rows

    found = made_validation(plain_run)
    other = make_run(*sample_rows(seed=5), name="other")
    write_validation(found, other)
    assert Validation.of_run(other) is None
    assert write_report(other).validation is None


def test_the_terminal_shows_every_figure_and_judge(plain_run):
    out = io.StringIO()
    show_validation(made_validation(plain_run, BINS), Console(file=out, width=200))
    text = " ".join(out.getvalue().split())
    for part in (
        "-0.50 [-0.60, -0.40]",
        "-0.75 [-1.00, -0.50] (matched)",
        "90% [85, 95]",
        "not judged",
        "kappa 0.62 with wording (English), 41 judged otherwise",
        "a difference of 0.35 would have shown four times out of five",
        "3 looping",
        "The filter removes rows that erode refusals.",
    ):
        assert part in text, part


def test_both_tables_fit_a_terminal_of_80_columns_with_every_figure_whole(plain_run):
    out = io.StringIO()
    show_validation(made_validation(plain_run, ("random", "kept")), Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert "…" not in out.getvalue()
    margins, answers = [line for line in lines if line.startswith(" removed ")][:2]
    assert "-0.50 [-0.60, -0.40]" in margins
    assert "-0.75 [-1.00, -0.50] (matched)" in margins
    assert " ".join(answers.split()) == "removed 90% [85, 95] 10% [5, 15] not judged 75% [65, 85] 2.50 [2.40, 2.60]"


def test_sizes_are_compared_between_trained_arms_alone(plain_run):
    found = made_validation(plain_run)
    matched = replace(found.arm("matched"), trained_tokens=1900.0)
    random = arm("random", 0.2, around(-0.8), "none")
    facts = dict(describe_validation(replace(found, arms=(*found.arms[:2], matched, replace(random, equal="neither")))))
    assert facts["removed and matched"] == "48 rows each, 2,048 and 1,900 trained tokens"
    assert facts["matched and random"] == "48 rows each, 1,900 and 2,048 trained tokens"
    assert "random and none" not in facts  # one of them was trained on nothing


def test_a_smallest_effect_below_a_hundredth_keeps_its_digits(plain_run):
    found = made_validation(plain_run)
    one_seed = replace(found, detectable=0.0037684, record=replace(found.record, seeds=1))
    text = dict(describe_validation(one_seed))["smallest effect"]
    assert text.startswith("a difference of 0.0038 would have shown")
    assert "how much other seeds differ is not known" in text
    assert "other seeds" not in dict(describe_validation(found))["smallest effect"]


def test_a_long_verdict_is_whole_on_card_page_and_terminal(plain_run):
    long = "What was found takes many words. " * 20 + "So it ends."
    write_validation(replace(made_validation(plain_run), verdict=long), plain_run)
    report = write_report(plain_run)
    out = io.StringIO()
    show_report(report, Console(file=out, width=80))
    for text in (card_of(plain_run), render_page(Results.open(plain_run), report), out.getvalue()):
        assert "So it ends" in " ".join(text.split())


def test_a_notebook_shows_the_verdict_and_both_tables(plain_run):
    shown = made_validation(plain_run)._repr_html_()
    assert shown.count("<table>") == 3
    for part in ("The filter removes rows", "-0.75 [-1.00, -0.50] (matched)", "not judged", "over-refusal"):
        assert part in shown, part


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"arms": {}, "verdict": 1}'])
def test_a_file_that_holds_something_else(text):
    from larf_curate.errors import DataError

    with pytest.raises(DataError, match="not the result of a validation"):
        Validation.from_json(text)
