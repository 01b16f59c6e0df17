"""The page's command for another threshold can be copied: it is short, and it goes where the results are."""

from __future__ import annotations

import html
import json
import re
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.made_runs import sample_rows
from typer.testing import CliRunner

from larf_curate.cli import app
from larf_curate.deciding.layout import RECIPE
from larf_curate.deciding.results import Results
from larf_curate.deciding.thresholds import Threshold
from larf_curate.publishing.build_report import build_report
from larf_curate.publishing.card import render_card
from larf_curate.publishing.page import render_page
from larf_curate.publishing.publication import publish_files

pytestmark = pytest.mark.usefixtures("blank_pictures")


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


def test_the_command_reads_what_filter_read_as_it_read_it(plain_run, tmp_path, monkeypatch):
    scored = tmp_path / "a run.parquet"
    (tmp_path / "run.parquet").rename(scored)
    monkeypatch.chdir(tmp_path)

    def filtered(*arguments):
        out = tmp_path / "split"
        result = CliRunner().invoke(app, ["filter", *arguments, "--out", str(out)])
        assert result.exit_code == 0, result.output
        return out

    assert "<title>What larf-curate removed from run</title>" in page_and_stops(plain_run)[0]
    typed = ["--map", "question=prompt,answer=completion", "--unscorable", "keep", "--weight", "-0.1,0.1"]
    run = filtered("a run.parquet", "--drop-top", "5", *typed)
    assert Results.open(run).row_format.columns(["id", "question", "answer"]) == ["question", "answer"]
    for directory in (tmp_path, plain_run):
        monkeypatch.chdir(directory)
        command = shlex.split(page_and_stops(run)[1]["command"] + "0.02")
        assert command[2] == ("a run.parquet" if directory == tmp_path else str(scored))
        assert sorted(command[5:-2]) == sorted(typed)
        result = CliRunner().invoke(app, command[1:])  # it runs from where the page was made
        assert result.exit_code == 0, result.output
        assert json.loads((run / "larf_summary.json").read_text())["threshold"]["amount"] == 0.02


def test_a_pattern_is_read_from_any_directory(plain_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["filter", "run*.parquet", "--drop-top", "5", "--out", str(tmp_path / "split")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    monkeypatch.chdir(plain_run)
    assert shlex.split(page_and_stops(tmp_path / "split")[1]["command"])[2] == str(tmp_path / "run*.parquet")


def test_rows_on_standard_input_have_no_name_and_the_page_says_so(plain_run, tmp_path):
    rows = pq.read_table(tmp_path / "run.parquet").to_pylist()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    arguments = ["filter", "-", "--drop-top", "5", "--out", str(tmp_path / "split")]
    assert CliRunner().invoke(app, arguments, input=lines).exit_code == 0
    page, stops = page_and_stops(tmp_path / "split")
    assert shlex.split(stops["command"])[:3] == ["larf-curate", "filter", "-"]
    assert "The scored rows came on standard input" in page
    assert "<title>What larf-curate removed</title>" in page
    assert "standard input" not in page_and_stops(plain_run)[0]


def test_where_nothing_says_what_was_split_no_command_is_shown(plain_run):
    summary = json.loads((plain_run / "larf_summary.json").read_text())
    del summary["filtered"]
    (plain_run / "larf_summary.json").write_text(json.dumps(summary))
    page, stops = page_and_stops(plain_run)
    assert stops["command"] == ""
    assert 'id="command"' not in page


@pytest.mark.parametrize("several", ["files", "splits"])
def test_a_row_has_the_number_of_the_source_wherever_it_is_shown(tmp_path, several):
    """In files of their own kept and removed rows would begin at 0 again, and so would the rows of each split."""
    names = {"files": ("b.jsonl", "a.jsonl"), "splits": ("train", "test")}[several]
    wanted = {}
    for name, offset in zip(names, (0, 100), strict=True):
        file = tmp_path / "rows" / (f"{name}.jsonl" if several == "splits" else name)
        file.parent.mkdir(exist_ok=True)
        rows = []
        for number in range(30):
            question = f"Question {offset + number}?"
            score = None if number == 7 else float((number * 7 + offset) % 31)
            wanted[question] = f"{number} of {name}"
            rows.append({"prompt": question, "completion": "Yes.", "larf_score": score, "larf_issue": None})
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ["filter", str(tmp_path / "rows"), "--drop-top", "5", "--out", str(tmp_path / "split")]
    result = CliRunner().invoke(app, [*arguments, *(["--split", "all"] if several == "splits" else [])])
    assert result.exit_code == 0, result.output
    page, _ = page_and_stops(tmp_path / "split")
    shown = re.findall(r'data-label="row"[^>]*>([^<]*)</td><td data-label="asked"><div>(.*?)</div>', page)
    assert {question: place for place, question in shown} == wanted
    assert "Rows are numbered from 0, as in the source: in each of its splits or files by itself." in page
    table = re.findall(r"(\d+ of \S+) +(Question \d+\?)", result.output)
    assert len(table) == 10
    assert all(wanted[question] == place for place, question in table)
    results = Results.open(tmp_path / "split")
    notebook = results.summary._repr_html_()
    assert all(wanted[row.prompt] == row.where and row.where in notebook for row in results.summary.highest)
    card = render_card(publish_files(results, "acme/rows", examples=5).card)
    removed = [row.where for row in results.summary.highest[:5]]
    assert all(place in card for place in removed)


def test_one_file_needs_no_name_beside_the_number(plain_run):
    page, _ = page_and_stops(plain_run)
    shown = re.findall(r'data-label="row"[^>]*>(\d+)</td><td data-label="asked"><div>question (\d+)\?', page)
    assert len(shown) == 200
    assert "Rows are numbered from 0, as in the source." in page
    assert all(row == question for row, question in shown)


def test_the_page_says_which_rows_it_shows_and_what_each_picture_is(plain_run):
    page, _ = page_and_stops(plain_run)
    assert "All 19 removed rows, then all 176 kept rows, then 5 that have no score." in page
    captions = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", page)
    assert [html.unescape(text)[:9] for text in captions] == ["Histogram", "Score aga", "Scores by"]
    targets = re.findall(r'<a href="#(\w+)"', page)
    assert len(targets) == 3
    assert all(f'id="{target}"' in page for target in targets)
