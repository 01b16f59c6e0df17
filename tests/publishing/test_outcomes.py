"""The whole range of outcomes, from nothing removed to everything: each is reported, shown, published and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import load_dataset
from support.commands import larf
from support.loopback_hub import Hub

from larf_curate import Threshold
from larf_curate.deciding.layout import SUMMARY
from larf_curate.deciding.results import Results
from larf_curate.publishing.page import write_page
from larf_curate.publishing.push_run import push_run
from larf_curate.publishing.write_report import write_report
from larf_curate.pushing import Destination

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("no_row_is_run")]

ROWS = [{"prompt": f"q{number}", "completion": "a " * (number + 1), "kind": "ab"[number % 2]} for number in range(40)]
SCORED = [number / 100 for number in range(40)]
NONE = [None] * 40

OUTCOMES = {
    "everything removed": (SCORED, Threshold.max_score(-1), (0, 40, 0)),
    "nothing removed": (SCORED, Threshold.drop_top(0), (40, 0, 0)),
    "nothing above": (SCORED, Threshold.max_score(1), (40, 0, 0)),
    "all unscorable": (NONE, Threshold.drop_top(3), (0, 0, 40)),
    "all unscorable and removed": (NONE, Threshold.drop_fraction(0.5, unscorable="remove"), (0, 40, 0)),
    "all unscorable and kept": (NONE, Threshold.max_score(0, unscorable="keep"), (40, 0, 0)),
    "some unscorable, none kept": ([*SCORED[:39], None], Threshold.drop_fraction(1), (0, 39, 1)),
    "one score": ([0.5] * 40, Threshold.drop_top(1), (39, 1, 0)),
}


@pytest.fixture(params=OUTCOMES, ids=str)
def outcome(request: pytest.FixtureRequest, make_run) -> tuple[Path, tuple[int, int, int]]:
    scores, threshold, counts = OUTCOMES[request.param]
    return make_run(ROWS, scores, threshold, unscorable=threshold.unscorable), counts


def strict(text: str) -> object:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


DRAWN_AS_OTHERS = ("nothing above", "some unscorable, none kept")
"""Outcomes whose pictures are those of "nothing removed" and "everything removed" with other numbers."""


def test_every_outcome_can_be_reported_and_shown(outcome, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run, (kept, removed, unscorable) = outcome
    if request.node.callspec.params["outcome"] in DRAWN_AS_OTHERS:
        request.getfixturevalue("blank_pictures")
    results = Results.open(run)
    assert (results.rows.kept, results.rows.removed, results.rows.unscorable) == (kept, removed, unscorable)
    summary = strict((run / SUMMARY).read_text())
    assert all(value is None or isinstance(value, int | float) for value in [summary["threshold"]["value"]])
    write_report(run)
    strict((run / "report.json").read_text())
    write_page(run, tmp_path / "page.html")
    done = larf("report", run)
    assert done.returncode == 0, done.stderr
    assert f"{kept} kept, {removed} removed, {unscorable} unscorable" in done.stdout


@pytest.mark.usefixtures("blank_pictures")
def test_every_outcome_is_published_so_that_it_loads_or_is_refused(outcome, hub: Hub) -> None:
    run, (kept, removed, unscorable) = outcome
    done = larf("push", run, "--repo", "acme/clean", "--removed")
    if not kept:
        assert done.returncode == 1
        assert "keeps no row" in done.stderr
        assert "acme/clean" not in hub.repos
        return
    assert done.returncode == 0, done.stderr
    assert load_dataset("acme/clean", split="train").num_rows == kept
    for name, count in (("removed", removed), ("unscorable", unscorable)):
        if count:
            assert load_dataset("acme/clean", name, split="train").num_rows == count


@pytest.mark.parametrize(
    ("answer", "threshold", "counts"),
    [("yes " * 3, {"max_score": -2}, "0 kept, 5 removed"), ("", {"drop_top": 2}, "0 kept, 0 removed, 5 unscorable")],
    ids=["everything removed", "all unscorable"],
)
@pytest.mark.usefixtures("blank_pictures")
def test_a_run_with_an_extreme_outcome_ends_with_it(
    tiny_scorer, tmp_path: Path, hub: Hub, answer: str, threshold: dict[str, float], counts: str
) -> None:
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    (tmp_path / "rows.jsonl").write_text(5 * (json.dumps({"prompt": "Why?", "completion": answer}) + "\n"))
    recipe = tmp_path / "recipe.yaml"
    sections = {
        "source": {"path": str(tmp_path / "rows.jsonl")},
        "scorer": {"from": str(tmp_path / "scorer")},
        "threshold": threshold,
        "output": str(tmp_path / "out"),
        "publish": {"repo": "acme/clean"},
    }
    recipe.write_text(json.dumps(sections))
    done = larf("run", recipe)
    assert done.returncode == 1
    assert "keeps no row" in done.stderr
    assert not hub.repos
    assert counts in larf("report", tmp_path / "out").stdout


@pytest.mark.parametrize("threshold", [Threshold.drop_top(0), Threshold.drop_top(3)], ids=["nothing", "all equal"])
def test_infinite_thresholds_are_numbers(threshold: Threshold) -> None:
    for scores in ([0.5] * 4, [None] * 4):
        fitted = threshold.fit(scores)
        stored = strict(fitted.to_json())
        assert type(stored["value"]) in (int, float)
        assert Threshold.from_json(fitted.to_json()) == fitted


def test_a_card_is_made_before_a_repository(plain_run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise RuntimeError("no card")

    monkeypatch.setattr("larf_curate.publishing.push_run.render_card", broken)
    with pytest.raises(RuntimeError, match="no card"):
        push_run(plain_run, Destination("acme/clean"))
    assert not hub.repos
