"""Whoever publishes a scorer, or a run for others to report on, brings numbers and texts, and nothing that acts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from safetensors.numpy import load_file, save
from support.made_runs import SCORER, run_maker, sample_rows

from larf_curate import LARFScorer, Threshold
from larf_curate.deciding.layout import SUMMARY
from larf_curate.deciding.results import Results
from larf_curate.deciding.summary import Summary
from larf_curate.errors import DataError, LarfError, ModelError, ScorerError, ThresholdError
from larf_curate.publishing.card import END, CardRequest, render_card
from larf_curate.publishing.report import REPORT, Report
from larf_curate.publishing.write_report import write_report
from larf_curate.scoring.layer_search.profile import BlockProfile, LayerProfile
from larf_curate.scoring.model_card import render_model_card

CONFIG, TENSORS = "larf_scorer.json", "larf_scorer.safetensors"
HTML = f"<script>alert(1)</script> {END} [a](javascript:b) | x"
DEEP = "[" * 100_000

BLOCK = BlockProfile(
    1, {"0.9": 3, "1.1": 5}, {"0.9": 9, "1.1": 9}, {"0.1": 2}, kappa=20.0, low=1.0, high=30.0, first=0.9, apart=False
)
SEARCH = LayerProfile(
    "m", "v", 5, "float32", 9, "d", "wording", 32, (0.9, 1.1), 0.05, 4, (BLOCK,), p_value=0.01, best=1,
    locators={"angle of means": [1.0, 2.0, 3.0, 4.0, 5.0]},
)  # fmt: skip


@pytest.fixture
def saved(tiny_scorer: LARFScorer, tmp_path: Path) -> Path:
    scorer = LARFScorer(replace(tiny_scorer.spec, search=SEARCH), tiny_scorer._tensors)
    scorer.save_pretrained(tmp_path / "scorer")
    return tmp_path / "scorer"


def change(values: Any, place: str, value: object) -> None:
    """Put a value at a place like `search.blocks.0.kappa`."""
    *path, last = place.split(".")
    for name in path:
        values = values[int(name)] if isinstance(values, list) else values[name]
    values[int(last) if isinstance(values, list) else last] = value


def edit(saved: Path, place: str, value: object) -> None:
    values = json.loads((saved / CONFIG).read_text())
    change(values, place, value)
    (saved / CONFIG).write_text(json.dumps(values))


def test_a_scorer_with_a_search_is_read(saved: Path) -> None:
    assert LARFScorer.from_pretrained(saved).spec.search == SEARCH


WRONG = [
    ("model", 7), ("model", None), ("model", "m" * 100_000), ("version", ["v"]),
    ("layers", []), ("layers", [1, 1]), ("layers", [1, 5]), ("layers", [-1, 3]), ("layers", ["1", 3]),
    ("layers", [True, 3]), ("layers", {"1": 1}), ("layers", 1),
    ("blocks", 0), ("blocks", 10**30), ("blocks", 5.0), ("hidden_size", -48), ("hidden_size", True),
    ("formula", HTML), ("formula", ["larf"]), ("top_k", 0), ("top_k", "3"), ("rank", 0), ("rank", None),
    ("template_digest", 5), ("chat_template", 5), ("max_tokens", 0), ("max_tokens", "many"), ("dtype", HTML),
    ("packages", ["torch"]), ("packages", {"torch": {"a": 1}}), ("join", 3),
    ("references", None), ("references", "packaged"), ("references.pairs", 0), ("references.pairs", "8"),
    ("references.pairs", 9), ("references.held_back", -1), ("references.figures", {"pairs": HTML}),
    ("references.figures", {"pairs": float("nan")}), ("references.findings", HTML), ("references.findings", [[HTML]]),
    ("references.name", {"a": "b"}), ("references.digest", 3),
    ("separation.auc", 1.5), ("separation.auc", float("inf")), ("separation.auc", "0.9"), ("separation.auc", True),
    ("separation.auc", 0.999), ("separation.pairs", 7), ("separation.pairs", -1), ("separation.method", HTML),
    ("separation.method", "held back"), ("separation.method", None),
    ("quantiles.unsafe", [0.0] * 6), ("quantiles.unsafe", [0.0] * 21), ("quantiles.safe", [3.0] * 21),
    ("quantiles.safe", ["0"] * 21), ("quantiles.safe", None), ("quantiles", []),
    ("search", []), ("search", HTML), ("search.prompts", 0), ("search.prompts", HTML), ("search.unscaled", 10),
    ("search.unscaled", HTML), ("search.p_value", HTML), ("search.p_value", 2), ("search.best", HTML),
    ("search.best", 4), ("search.best", True), ("search.blocks", []), ("search.blocks", None),
    ("search.blocks.0.kappa", HTML), ("search.blocks.0.low", float("-inf")), ("search.blocks.0.first", 2),
    ("search.blocks.0.apart", "no"), ("search.blocks.0.block", 5), ("search.blocks.0.block", HTML),
    ("search.blocks.0.refusals", {HTML: 1}), ("search.blocks.0.refusals", {"0.9": 10}),
    ("search.blocks.0.asked", {"0.9": 10}), ("search.error_rate", HTML), ("search.error_rate", 2),
    ("search.blocks.0.delta", {"0.1": HTML}), ("search.scales", [HTML]), ("search.scales", "0.9"),
    ("search.locators", {HTML: [HTML]}), ("search.locators", {"angle": []}), ("search.locators", [1]),
    ("search.model", 3), ("search.total_blocks", 1), ("search.max_new_tokens", "x"), ("search.novel", 1),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), WRONG, ids=lambda value: repr(value)[:30])
def test_a_field_of_a_scorer_that_cannot_be_is_refused(saved: Path, place: str, value: object) -> None:
    edit(saved, place, value)
    with pytest.raises((ScorerError, ModelError)) as told:
        LARFScorer.from_pretrained(saved)
    assert len(str(told.value)) < 600


@pytest.mark.parametrize("text", [DEEP, '{"a": ' * 5_000, "null", "3", '"x"', "[" + "[]," * 9 + "[]]", "{" * 9])
def test_json_of_any_shape_is_refused_as_what_it_is(saved: Path, plain_run: Path, text: str) -> None:
    (saved / CONFIG).write_text(text)
    with pytest.raises(ScorerError):
        LARFScorer.from_pretrained(saved)
    for read in (Summary.from_json, Report.from_json, LayerProfile.from_json, Threshold.from_json):
        with pytest.raises(LarfError):
            read(text)
    (plain_run / SUMMARY).write_text(text)
    with pytest.raises(DataError):
        Results.open(plain_run)


def same_sides(tensors: dict[str, np.ndarray]) -> None:
    tensors["safe"] = tensors["unsafe"]


def swapped_sides(tensors: dict[str, np.ndarray]) -> None:
    tensors["safe"], tensors["unsafe"] = tensors["unsafe"], tensors["safe"]


def no_pairs(tensors: dict[str, np.ndarray]) -> None:
    for side in ("unsafe", "safe"):
        tensors[side] = tensors[side][:0]


def not_a_number(tensors: dict[str, np.ndarray]) -> None:
    tensors["unsafe"] = np.where(np.arange(48) == 3, np.nan, tensors["unsafe"]).astype(np.float32)


def whole_numbers(tensors: dict[str, np.ndarray]) -> None:
    tensors["check"] = tensors["check"].astype(np.int32)


@pytest.mark.parametrize("damage", [same_sides, swapped_sides, no_pairs, not_a_number, whole_numbers])
def test_states_that_cannot_be_a_scorer_s_are_refused(
    saved: Path, damage: Callable[[dict[str, np.ndarray]], None]
) -> None:
    tensors = load_file(saved / TENSORS)
    damage(tensors)
    content = save(tensors)
    (saved / TENSORS).write_bytes(content)
    edit(saved, "tensors_sha256", hashlib.sha256(content).hexdigest())
    with pytest.raises(ScorerError):
        LARFScorer.from_pretrained(saved)


# What is printed -----------------------------------------------------------------------------------------------------


def links_and_tags(card: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2])


@pytest.mark.usefixtures("blank_pictures")
def test_a_search_is_text_in_both_cards(make_run) -> None:
    """Its names are any text; they are escaped where they are printed."""
    hostile = replace(SEARCH, locators={HTML: [1.0, 2.0, 3.0, 4.0, 5.0]}, model=HTML, judge=HTML)
    spec = replace(SCORER, search=hostile)
    assert LayerProfile.of(hostile.without_decisions()) == hostile
    report = write_report(make_run(*sample_rows(), scorer=spec))
    card = render_card(CardRequest("acme/clean", report, [], None, ["kept"]))
    assert card.count(END) == 1
    assert "&lt;script&gt;" in card
    for text in (links_and_tags(card), links_and_tags(render_model_card(spec, "acme/scorer"))):
        assert "<script" not in text
        assert not [address for address in re.findall('href="([^"]*)"', text) if not address.startswith("https://")]


# Summaries, thresholds, reports --------------------------------------------------------------------------------------

WRONG_SUMMARY = [
    ("rows", -1), ("rows", "200"), ("rows", 1.5), ("rows", 10**30), ("scored", 201), ("kept", 1), ("kept", -1),
    ("issues", {"empty_answer": -5}), ("issues", {"empty_answer": HTML}), ("issues", []),
    ("score_quantiles", {"median": float("nan")}), ("score_quantiles", {"median": HTML}), ("score_quantiles", [0.5]),
    ("score_quantiles", {HTML: 0.5}), ("highest", [{}]), ("highest.0.score", HTML), ("highest.0.score", float("inf")),
    ("highest.0.row", -1), ("highest.0.row", 200), ("highest.0.prompt", 3), ("highest", None),
    ("faults", [{"issue": "x", "row": -1}]), ("faults", [{"issue": "x", "row": HTML}]), ("how", 3),
    ("threshold", 3), ("threshold.amount", HTML), ("threshold.amount", float("nan")), ("threshold.amount", True),
    ("threshold.value", HTML), ("threshold.value", float("nan")), ("threshold.rule", HTML), ("threshold.tied", HTML),
    ("threshold.tied", -1), ("threshold.rows", HTML), ("threshold.removed", 1.5), ("threshold.harmless", HTML),
    ("threshold.harmless", -3), ("threshold.nulls", HTML), ("threshold.nulls", ["keep"]), ("threshold.novel", 1),
    ("threshold.unscorable", HTML), ("threshold.spared_from", -1), ("run", HTML), ("run", {}),
    ("highest.0.place", 3), ("filtered", HTML), ("filtered", {"source": "--out"}), ("filtered", {"source": 3}),
    ("filtered.columns", HTML), ("filtered.split", 3),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), WRONG_SUMMARY, ids=lambda value: repr(value)[:30])
def test_a_field_of_a_summary_that_cannot_be_is_refused(plain_run: Path, place: str, value: object) -> None:
    values = json.loads((plain_run / SUMMARY).read_text())
    change(values, place, value)
    (plain_run / SUMMARY).write_text(json.dumps(values))
    with pytest.raises(DataError, match="not the summary of a run"):
        Results.open(plain_run)
    if place.startswith("threshold."):
        with pytest.raises(ThresholdError):
            Threshold.from_json(json.dumps(values["threshold"]))


RUN = {
    "source": {"name": "rows.jsonl", "rows": 200, "shards": 1, "digest": "d"},
    "scorer": {"directory": "scorer/0123", "digest": "0123"}, "scored": "scored/0123", "format": "auto",
    "executor": {"kind": "local", "tasks": 1}, "digest": "d", "started": "now", "model": "m", "version": "v",
    "layers": [3], "formula": "larf", "dtype": "float32", "finished": "then",
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("scorer.directory", "../elsewhere"), ("scorer.directory", "/etc"), ("scored", "a/../../b"), ("layers", [HTML]),
        ("source.rows", -1), ("source.rows", 3), ("executor.tasks", -1), ("source.name", 3), ("layers", [-1]),
    ],
)  # fmt: skip
def test_a_record_of_a_run_speaks_of_its_own_directory(plain_run: Path, place: str, value: object) -> None:
    values = json.loads((plain_run / SUMMARY).read_text()) | {"run": json.loads(json.dumps(RUN))}
    assert Summary.from_json(json.dumps(values)).run is not None
    change(values["run"], place, value)
    with pytest.raises(DataError, match="not the summary of a run"):
        Summary.from_json(json.dumps(values))


@pytest.fixture(scope="module")
def report_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`report.json` of a run, as it was written."""
    home = run_maker(tmp_path_factory.mktemp("report"))(*sample_rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("larf_curate.publishing.write_report.draw_plots", lambda _report: ())
        write_report(home)
    return (home / REPORT).read_text()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("rows.kept", -1), ("rows.kept", HTML), ("issues", {"x": -1}), ("quantiles", {"larf_score": {"median": HTML}}),
        ("quantiles", {"larf_score": {"median": float("inf")}}), ("groups.0.rows.kept", -1), ("groups.0.column", 3),
        ("groups.0.quantiles", [1.0]), ("groups.0.rows", {"kept": 0, "removed": 0, "unscorable": 0}),
        ("histogram.edges", [1.0]), ("histogram.edges", HTML), ("histogram.kept", [-1]), ("form.lists", 7.0),
        ("form.median_characters", float("nan")), ("sample.kept", -1), ("dots.kept.score", [HTML]),
        ("run.packages", [1]), ("source", HTML), ("threshold", None), ("scorer.layers", [HTML]),
        ("confounds.score_and_characters.value", float("nan")), ("confounds", HTML), ("report_version", HTML),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_a_field_of_a_report_that_cannot_be_is_refused(report_text: str, place: str, value: object) -> None:
    values = json.loads(report_text)
    change(values, place, value)
    with pytest.raises(DataError):
        Report.from_json(json.dumps(values))
