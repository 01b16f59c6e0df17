"""The report: every figure against numpy, scipy or pandas on the same rows."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats
from support.made_runs import SCORER, sample_rows

from larf_curate import clear_caches
from larf_curate.deciding.layout import METADATA_KEY
from larf_curate.deciding.results import Results
from larf_curate.deciding.thresholds import Threshold
from larf_curate.errors import DataError
from larf_curate.publishing.build_report import build_report
from larf_curate.publishing.card import CardRequest, render_card
from larf_curate.publishing.excerpts import highest_rows, own_columns
from larf_curate.publishing.plots import _content, draw_plots
from larf_curate.publishing.report import REPORT, Report, RowCounts, SampleSize
from larf_curate.publishing.rerun import command_for
from larf_curate.publishing.sample import draw_places, draw_sample
from larf_curate.publishing.words import describe_rule, describe_unscored
from larf_curate.publishing.write_report import write_report
from larf_curate.scoring.spec import ScorerSpec
from larf_curate.scoring.statistics import difference_of_shares, ratio_of_means, spearman
from larf_curate.written import claim


def frame(run) -> pd.DataFrame:
    parts = {outcome: pd.read_parquet(run / outcome) for outcome in ("kept", "removed", "unscorable")}
    return pd.concat([part.assign(outcome=outcome) for outcome, part in parts.items()], ignore_index=True)


def test_the_figures_are_those_of_the_rows(plain_run):
    report, rows = build_report(Results.open(plain_run)), frame(plain_run)
    scored = rows.dropna(subset="larf_score")
    assert report.rows == RowCounts(kept=176, removed=19, unscorable=5, scored=195)
    assert report.issues == {"empty_answer": 5}
    scores = scored["larf_score"].to_numpy(np.float64)
    for name, share in {"lowest": 0, "5%": 0.05, "median": 0.5, "99%": 0.99, "highest": 1}.items():
        assert report.quantiles["larf_score"][name] == pytest.approx(np.quantile(scores, share), abs=1e-12)
    assert report.quantiles["larf_tokens"]["median"] == np.median(rows["larf_tokens"])
    edges = np.array(report.histogram.edges)
    assert (edges[0], edges[-1]) == (scores.min(), scores.max())
    both = (np.array(report.histogram.kept) > 0) & (np.array(report.histogram.removed) > 0)
    assert not both.any(), "a bin that holds kept and removed rows"
    assert report.threshold.value in report.histogram.edges
    for outcome, bins in {"kept": report.histogram.kept, "removed": report.histogram.removed}.items():
        own = scored.loc[scored.outcome == outcome, "larf_score"]
        expected = pd.cut(own, edges, include_lowest=True).value_counts(sort=False).to_numpy()
        assert list(bins) == expected.tolist()
    assert report.scorer == SCORER
    assert report.threshold.removed == 19


def test_groups_are_those_of_the_rows(plain_run):
    report, rows = build_report(Results.open(plain_run)), frame(plain_run)
    assert {group.value for group in report.groups} == {"a", "b", "c"}
    bin_width = (rows["larf_score"].max() - rows["larf_score"].min()) / 1000
    for group in report.groups:
        own = rows[rows["category"] == group.value]
        assert asdict(group.rows) == {
            name: int((own["outcome"] == name).sum()) for name in ("kept", "removed", "unscorable")
        }
        assert group.share_removed == pytest.approx((own["outcome"] == "removed").mean())
        assert group.median == group.quantiles[2]
        expected = own["larf_score"].quantile([0.05, 0.25, 0.5, 0.75, 0.95], interpolation="lower")
        above = own["larf_score"].quantile([0.05, 0.25, 0.5, 0.75, 0.95], interpolation="higher")
        assert (np.array(group.quantiles) >= expected.to_numpy() - 2 * bin_width).all()
        assert (np.array(group.quantiles) <= above.to_numpy() + 2 * bin_width).all()


def test_confounds_are_those_of_the_rows(plain_run):
    report, rows = build_report(Results.open(plain_run)), frame(plain_run)
    scored = rows.dropna(subset="larf_score")
    length, lists = scored["answer"].str.rstrip().str.len(), scored["answer"].str.startswith("1. ")
    figures = report.confounds
    expected = stats.spearmanr(scored["larf_score"], length).statistic
    assert figures.score_and_characters.value == pytest.approx(expected, abs=1e-12)
    assert figures.score_and_characters.high < 0  # planted: longer answers score lower
    expected = stats.spearmanr(scored["larf_score"], lists).statistic
    assert figures.score_and_lists.value == pytest.approx(expected, abs=1e-12)
    gone = scored["outcome"] == "removed"
    ratio = stats.gmean(length[gone]) / stats.gmean(length[~gone])
    assert figures.removed_to_kept_characters.value == pytest.approx(ratio, rel=1e-12)
    share = lists[gone].mean() - lists[~gone].mean()
    assert figures.removed_less_kept_lists.value == pytest.approx(share, abs=1e-12)
    assert report.conversations.lists == pytest.approx(lists.mean(), abs=1e-12)
    assert report.sample == SampleSize(kept=176, removed=19)


def test_what_the_conversations_look_like(make_run):
    """Every figure counted by hand from rows of messages."""
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}

    def answered(text: str, *before: dict[str, str]) -> list[dict[str, str]]:
        return [*before, user, {"role": "assistant", "content": text}]

    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
    conversations = [
        answered("x" * 10, system),
        answered("x" * 20, *answered("Yes?", system)),
        answered("x" * 30, *answered("Yes?")),
        answered("I'm sorry, but I can't help with that."),
        answered("1. one\n2. two\n3. three"),
        *([answered("x" * 25)] * 15),
    ]
    rows = [{"messages": turns, "tools": tools if number == 7 else None} for number, turns in enumerate(conversations)]
    scores = [number / 20 for number in range(20)]
    report = build_report(Results.open(make_run(rows, scores, Threshold.drop_top(10))))
    assert asdict(report.conversations) == pytest.approx(
        {
            "lists": 1 / 20,
            "refusals": 1 / 20,
            "system": 2 / 20,
            "tools": 1 / 20,
            "several_turns": 2 / 20,
            "median_characters": 25,
        }
    )
    assert report.confounds.removed_less_kept_refusals.value == pytest.approx(-1 / 10)
    tokens = 10 + np.arange(20)  # as `make_run` counts them
    expected = stats.gmean(tokens[10:]) / stats.gmean(tokens[:10])
    assert report.confounds.removed_to_kept_tokens.value == pytest.approx(expected)


def test_which_columns_make_groups(make_run):
    """Few values, in text or booleans, that are not the conversation's own texts; at most three columns."""
    count = 200
    rows, scores = sample_rows(count)
    columns = {
        "many": [f"value {number % 31}" for number in range(count)],
        "one": ["same"] * count,
        "number": [number % 2 for number in range(count)],
        "a.path": ["a" if number % 2 else "b" for number in range(count)],
        "yes": [number % 4 == 0 for number in range(count)],
        "source": [None if number % 5 == 0 else "w" * 300 for number in range(count)],
        "fourth": ["a" if number % 2 else "b" for number in range(count)],
    }
    rows = [{**row, **{name: values[number] for name, values in columns.items()}} for number, row in enumerate(rows)]
    report = build_report(Results.open(make_run(rows, scores)))
    by_column = report.groups_by_column()
    assert list(by_column) == ["category", "yes", "source"]
    assert [(group.value, group.rows.total) for group in by_column["yes"]] == [("false", 150), ("true", 50)]
    assert [(group.value, group.rows.total) for group in by_column["source"]] == [("w" * 200, 160), (None, 40)]


def test_a_report_is_of_the_score_that_decided(make_run):
    """Of three scores: two more stand beside it, which are neither grouped by nor lost, and are shown on the page."""
    rows, scores = sample_rows()
    beside = [f"{prefix}_{end}" for prefix in ("larf", "b") for end in ("score", "tokens", "issue")]
    for place, row in enumerate(rows):
        row |= dict(zip(beside, [3.0, 5, "truncated" if place % 2 else None] * 2, strict=True))
    spec = replace(SCORER, layers=(3, 4))
    for layer in spec.layers:
        rows = [{**row, f"mine_score_l{layer}": score} for row, score in zip(rows, scores, strict=True)]
    mine = Results.open(make_run(rows, scores, scorer=spec, prefix="mine"))
    report, same = build_report(mine), build_report(Results.open(make_run(*sample_rows(), name="plain")))
    assert list(report.quantiles) == ["mine_score", "mine_score_l3", "mine_score_l4", "mine_tokens"]
    assert report.score_quantiles == same.score_quantiles
    assert report.quantiles["mine_score_l4"] == pytest.approx(same.score_quantiles, abs=1e-6)
    for figures in ("rows", "issues", "threshold", "histogram", "groups", "confounds", "sample", "length_points"):
        assert getattr(report, figures) == getattr(same, figures), figures
    assert report.scorer == spec
    assert own_columns(mine) == ["category", *beside]
    highest = sorted((score for score in scores if score is not None), reverse=True)[:3]
    assert [row.score for row in highest_rows(mine, "removed", 3)] == pytest.approx(highest)
    assert Report.from_json(report.to_json()) == report
    with pytest.raises(DataError, match="not a report"):
        Report.from_json(report.to_json().replace('"prefix": "mine"', '"prefix": "<b>"'))
    card = render_card(CardRequest("acme/clean", report, (), None, ["kept"]))
    assert "the columns `mine_score`, `mine_tokens` and `mine_issue` were added" in card
    assert "… `mine_issue`: `empty_answer`" in card
    assert "larf_" not in card.partition("## Figures")[0].replace("larf_curate", "")
    assert command_for(mine, "drop_top").endswith(" --prefix mine --drop-top ")
    assert _content(report).by_layer == dict.fromkeys((3, 4), report.quantiles["mine_score_l3"])


@pytest.mark.parametrize("outcome", ["kept", "removed", "unscorable"])
def test_the_highest_rows_are_those_of_pandas(outcome, make_run):
    rows, scores = sample_rows()
    scores = [score and round(score, 2) for score in scores]  # with ties: the first of them counts as higher
    run = make_run(rows, scores, Threshold.drop_fraction(0.2))
    expected = pd.read_parquet(run / outcome).sort_values("larf_score", ascending=False, kind="stable")[:15]
    excerpts = highest_rows(Results.open(run), outcome, 15)
    assert [f"question {excerpt.row}?" for excerpt in excerpts] == expected["question"].tolist()  # as in the source
    assert [excerpt.prompt for excerpt in excerpts] == expected["question"].tolist()
    assert [excerpt.answer for excerpt in excerpts] == expected["answer"].str.rstrip().tolist()
    assert {excerpt.outcome for excerpt in excerpts} == {outcome}


def test_a_sample_stands_for_the_whole(make_run):
    """With few rows read, and most of the removed ones among them, the weighted figures still aim at the same."""
    run = make_run(*sample_rows(3000), Threshold.drop_fraction(0.05))
    results = Results.open(run)
    whole = build_report(results)
    part = draw_sample(results, 150)
    assert (int(part.removed.sum()), len(part)) == (146, 296)
    estimate = spearman(part.score, part.characters, part.weight)
    exact = whole.confounds.score_and_characters.value
    assert estimate.low < exact < estimate.high
    assert abs(estimate.value - spearman(part.score, part.characters).value) > 0.02  # weights matter
    assert (draw_places(10**9, 5) == draw_places(10**9, 5)).all()
    assert len(set(draw_places(1000, 300).tolist())) == 300


def test_spearman_and_its_interval_against_scipy():
    generator = np.random.default_rng(3)
    x = generator.normal(size=400).round(1)  # with ties
    y = (0.5 * x + generator.normal(size=400)).round(1)
    found = spearman(x, y)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    drawn = stats.bootstrap(
        (x, y), lambda a, b: stats.spearmanr(a, b).statistic, paired=True, vectorized=False, n_resamples=999, rng=0
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.03)
    doubled = spearman(np.repeat(x, 2), np.repeat(y, 2))
    weighted = spearman(x, y, np.full(400, 2.0))
    assert doubled.value == pytest.approx(weighted.value, abs=1e-12)
    assert spearman(x, np.ones(400)) is None
    assert spearman(x[:5], y[:5]) is None
    assert spearman(x, x).value == 1.0


def test_intervals_hold_what_they_promise():
    """Of 400 draws with a known truth, about 95 in 100 intervals hold it."""
    generator, held = np.random.default_rng(5), {"ratio": 0, "share": 0, "rank": 0}
    for _ in range(400):
        a, b = np.exp(generator.normal(0.3, 1, 60)), np.exp(generator.normal(0.0, 1, 200))
        ratio = ratio_of_means(a, b)
        held["ratio"] += ratio.low < np.exp(0.3) < ratio.high
        share = difference_of_shares((generator.random(50) < 0.3) * 1.0, (generator.random(300) < 0.1) * 1.0)
        held["share"] += share.low < 0.2 < share.high
        x, y = generator.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 100).T
        rank = spearman(x, y)
        held["rank"] += rank.low < 6 / np.pi * np.arcsin(0.25) < rank.high
    assert all(0.92 <= count / 400 <= 0.98 for count in held.values()), held


def test_the_report_reads_back_and_repeats(plain_run):
    report = write_report(plain_run)
    text = (plain_run / REPORT).read_text(encoding="utf-8")
    assert Report.from_json(text) == report
    assert build_report(Results.open(plain_run)).to_json() == text
    assert json.loads(text)["report_version"] == 1
    with pytest.raises(DataError, match="version 2"):
        Report.from_json(text.replace('"report_version": 1', '"report_version": 2', 1))
    for wrong in ("", "[]", "{}", '{"report_version": 1}', text.replace('"kept": 176', '"kept": "many"')):
        with pytest.raises(DataError, match="report"):
            Report.from_json(wrong)


ESTIMATE = {"value", "low", "high", "rows"}
KEYS = {
    "report_version": None,
    "rows": {"rows", "scored", "kept", "removed", "unscorable"},
    "issues": {"empty_answer"},
    "source": None,
    "audit": None,
    "scorer": {field.name for field in fields(ScorerSpec)} - {"chat_template"},
    "threshold": {"rule", "amount", "value", "rows", "removed", "unscorable", "tied", "harmless", "nulls"}
    | {"spared_score", "spared_from"},
    "quantiles": {"larf_score", "larf_tokens"},
    "histogram": {"edges", "kept", "removed", "unscorable"},
    "form": {"lists", "refusals", "system", "tools", "several_turns", "median_characters"},
    "groups": None,
    "confounds": {
        "score_and_characters",
        "score_and_lists",
        "removed_to_kept_characters",
        "removed_to_kept_tokens",
        "removed_less_kept_lists",
        "removed_less_kept_refusals",
    },
    "sample": {"kept", "removed"},
    "dots": {"kept", "removed"},
    "run": {"packages"},
}


def test_the_file_keeps_the_keys_that_its_readers_know(plain_run):
    report = write_report(plain_run)
    values = json.loads((plain_run / "report.json").read_text(encoding="utf-8"))
    assert {key: set(value) if isinstance(value, dict) else None for key, value in values.items()} == KEYS
    assert all(set(estimate) == ESTIMATE for estimate in values["confounds"].values())
    assert all(set(points) == {"score", "characters"} for points in values["dots"].values())
    assert [set(group) for group in values["groups"]] == [{"column", "value", "rows", "quantiles"}] * 3
    assert values["groups"][0]["quantiles"][2] == report.groups[0].median
    assert values["quantiles"]["larf_score"]["median"] == report.score_quantiles["median"]
    assert values["rows"]["rows"] == 200
    assert repr(report) == "Report(200 rows: 176 kept, 19 removed, 5 unscorable)"


def test_the_text_of_a_chat_template_stays_here(plain_run):
    results = Results.open(plain_run)
    report = build_report(replace(results, scorer=replace(SCORER, chat_template="our own template")))
    assert "our own template" not in report.to_json()
    assert Report.from_json(report.to_json()) == report


def test_a_scorer_that_nothing_describes_is_unknown(make_run):
    rows, scores = sample_rows()
    run = make_run(rows, scores)
    for path in run.glob("*/*.parquet"):
        table = pq.read_table(path)
        described = json.loads(table.schema.metadata[METADATA_KEY])
        described["dtype"] = "<script>"  # whoever wrote this, it was not a scorer
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(described).encode()}), path)
    assert build_report(Results.open(run)).scorer is None
    assert build_report(Results.open(make_run(rows, scores, name="other", scorer=None))).scorer is None


@pytest.mark.process
def test_pictures_repeat_and_old_ones_go(plain_run):
    report = write_report(plain_run)
    plots = draw_plots(report)
    assert [plot.name for plot in plots] == ["scores.png", "length.png", "groups-0.png"]
    clear_caches()
    assert plots == draw_plots(report)
    assert all(plot.png.startswith(b"\x89PNG") for plot in plots)
    claim(plain_run, ["plots/groups-9.png"])
    (plain_run / "plots" / "groups-9.png").write_bytes(b"old")
    write_report(plain_run)
    written = {path.name: path.read_bytes() for path in (plain_run / "plots").iterdir()}
    assert written == {plot.name: plot.png for plot in plots}
    moved, far, further = (
        replace(report, threshold=replace(report.threshold, value=value))
        for value in (report.threshold.value - 0.02, 1e6, 2e6)
    )
    (scores,) = draw_plots(replace(moved, groups=(), length_points=None))
    assert scores.png != plots[0].png
    fewer = replace(report.rows, removed=report.rows.removed - 1)
    (scores,) = draw_plots(replace(report, groups=(), length_points=None, rows=fewer))
    assert scores.png != plots[0].png, "the legend says how many rows"
    # A threshold far from all scores is not drawn: beside it they would be one line.
    assert draw_plots(far) == draw_plots(further)


@pytest.mark.usefixtures("blank_pictures")
def test_pictures_are_drawn_once_for_the_directory_and_for_the_hub(plain_run, monkeypatch):
    drawn = []
    print_png = FigureCanvasAgg.print_png

    def count(canvas, *given, **named):
        drawn.append(canvas)
        print_png(canvas, *given, **named)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", count)
    monkeypatch.setattr("larf_curate.publishing.plots._drawn", [])
    report = write_report(plain_run)
    assert len(drawn) == 3
    assert draw_plots(report.without_directories()) == draw_plots(report)
    assert len(drawn) == 3
    draw_plots(replace(report, rows=replace(report.rows, removed=report.rows.removed - 1)))
    assert len(drawn) == 6


@pytest.mark.parametrize(
    ("threshold", "unscorable", "said"),
    [
        (Threshold.drop_top(7), "separate", "5 set apart"),
        (Threshold.drop_top(7), "remove", "5 removed"),
        (Threshold.drop_top(7), "keep", "5 kept"),
    ],
)
def test_where_unscored_rows_went(make_run, threshold, unscorable, said):
    report = build_report(Results.open(make_run(*sample_rows(), threshold, unscorable=unscorable)))
    assert describe_unscored(report) == said
    assert describe_rule(report.threshold) == "the 7 highest-scoring rows"
    assert report.rows.total == 200


@pytest.mark.parametrize(
    ("rows", "scores"),
    [
        ([{"question": "q", "answer": "a"}] * 3, [None] * 3),
        ([{"question": "q", "answer": "a"}] * 3, [0.5] * 3),
        ([{"question": "q", "answer": "a"}], [0.1]),
        ([{"text": "no known format", "category": "x"}] * 20, [number / 20 for number in range(20)]),
    ],
    ids=["none scored", "all equal", "one row", "no format"],
)
def test_runs_with_little_to_say(make_run, rows, scores):
    report = build_report(Results.open(make_run(rows, scores, Threshold.max_score(0.3), scorer=None)))
    assert Report.from_json(report.to_json()) == report
    assert {plot.name for plot in draw_plots(report)} <= {"scores.png", "length.png"}


def test_what_is_no_run_is_told(plain_run, tmp_path):
    with pytest.raises(DataError, match="holds no finished run"):
        Results.open(tmp_path)
    kept = next((plain_run / "kept").iterdir())
    content = kept.read_bytes()
    kept.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"kept/data.parquet cannot be read .*run the recipe again"):
        Results.open(plain_run)
    kept.unlink()
    with pytest.raises(DataError, match=r"holds 0 rows and larf_summary\.json says 176"):
        Results.open(plain_run)
