"""The score card: word for word, and over a card that is there already."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from support.made_runs import SCORER

from larf_curate.deciding.summary import OutcomeCounts
from larf_curate.deciding.thresholds import Threshold
from larf_curate.errors import PublishError
from larf_curate.publishing.card import CardRequest, render_card, split_card
from larf_curate.publishing.drawing import Plot
from larf_curate.publishing.plots import draw_plots
from larf_curate.publishing.publication import hub_source, public_recipe
from larf_curate.publishing.report import (
    Confounds,
    ConversationFigures,
    Group,
    Report,
    ReportedRun,
    ReportedSource,
    RowCounts,
    SampleSize,
)
from larf_curate.publishing.words import describe_run
from larf_curate.scoring.layer_search.profile import LayerProfile
from larf_curate.scoring.layer_search.resampling import analyse
from larf_curate.scoring.records import ReferencesRecord, Separation
from larf_curate.scoring.statistics import Estimate

ANSWERS = np.random.default_rng(0).random((3, 2, 30)) < np.array([0.2, 0.8])[:, None]
SEARCH = analyse(ANSWERS.astype(np.int8), (0.9, 1.1), [4, 5, 6])
GOLDEN = Path(__file__).with_name("golden_card.md")
POINTS = {"lowest": -0.2, "5%": -0.1, "median": 0.01, "95%": 0.12, "highest": 0.2}
RECIPE = """source: {path: acme/base, revision: 0123456789abcdef0123456789abcdef01234567}
scorer: {model: acme/model, layer: 12, device: "cuda:secret-queue", batch_tokens: 512}
threshold: {drop_top: 100}
executor: {kind: slurm, partition: secret-queue, env_command: export KEY=hf_hidden}
output: /home/someone/runs/base
publish: {repo: acme/clean}
"""


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, rows=995)


REPORT = Report(
    rows=RowCounts(kept=895, removed=100, unscorable=5, scored=995),
    issues={"empty_answer": 5, "truncated": 2},
    source=ReportedSource("/home/someone/base.jsonl", rows=1000, shards=1, digest="ab" * 32, format="alpaca"),
    scorer=replace(
        SCORER,
        model="acme/model",
        version="89" * 20,
        layers=(12,),
        blocks=32,
        dtype="bfloat16",
        references=ReferencesRecord("/home/someone/pairs.jsonl", "cd" * 32, 80, 20, {}, ("length: 2x",)),
        separation=Separation(0.91, 20, "4-fold cross-validation"),
    ),
    threshold=replace(Threshold.drop_top(100), value=0.1234, rows=1000, removed=100, unscorable_rows=5, tied=2),
    quantiles={"larf_score": POINTS, "larf_tokens": dict(zip(POINTS, (5, 20, 120, 900, 5000), strict=True))},
    histogram=None,
    conversations=ConversationFigures(
        lists=0.2, refusals=0.01, system=0.0, tools=0.0, several_turns=0.5, median_characters=210.0
    ),
    groups=(
        Group("topic", "maths", OutcomeCounts(kept=500, removed=90), (0.0,) * 5),
        Group("topic", None, OutcomeCounts(kept=395, removed=10, unscorable=5), None),
    ),
    confounds=Confounds(
        score_and_characters=estimate(-0.31, -0.36, -0.25),
        score_and_lists=estimate(0.02, -0.04, 0.08),
        removed_to_kept_characters=estimate(0.5, 0.4, 0.6),
        removed_to_kept_tokens=estimate(0.8, 0.73, 0.88),
        removed_less_kept_lists=estimate(-0.1, -0.15, -0.02),
        removed_less_kept_refusals=estimate(0.0, -0.01, 0.04),
    ),
    sample=SampleSize(kept=895, removed=100),
    length_points=None,
    run=ReportedRun({"larf-curate": "0.1.0", "numpy": "2", "pyarrow": "26"}, digest="0" * 16),
)


def request(**changes) -> CardRequest:
    defaults = {
        "repo": "acme/clean",
        "report": REPORT.without_directories(),
        "plots": [
            Plot("scores.png", "Histogram of the scores of kept and removed rows, with the threshold", b""),
            Plot("groups-0.png", "Scores by topic", b""),
        ],
        "recipe": public_recipe(RECIPE),
        "outcomes": ["kept", "removed"],
        "source": hub_source(RECIPE),
        "source_metadata": {"license": "cc-by-nc-4.0", "language": ["en"], "pretty_name": "not ours", "configs": [1]},
    }
    return CardRequest(**{**defaults, **changes})


def test_the_card_of_a_filter_which_knows_no_source_names_no_format():
    card = render_card(request(report=replace(REPORT, source=None)))
    assert "Of the rows, 20.0% answer with a list" in " ".join(card.split())
    assert "unknown" not in card


def test_the_card_word_for_word():
    """Changed the card on purpose? Read the new one, then: python tests/publishing/test_card.py."""
    assert render_card(request()) == GOLDEN.read_text(encoding="utf-8")


def test_the_card_tells_no_secrets_of_this_machine():
    card = render_card(request())
    for private in ("/home", "someone", "secret-queue", "hf_hidden", "slurm"):
        assert private not in card
    assert yaml.safe_load(public_recipe(RECIPE)) == {
        "source": {"path": "acme/base", "revision": "0123456789abcdef0123456789abcdef01234567"},
        "scorer": {"model": "acme/model", "layer": 12},
        "threshold": {"drop_top": 100},
        "output": "base",
    }


@pytest.mark.parametrize(
    ("source", "hub_id"),
    [
        ("{path: acme/base, revision: 0123456789abcdef0123456789abcdef01234567}", "acme/base"),
        ("{path: acme/base, revision: main}", None),  # it may be another dataset tomorrow
        ("{path: acme/base}", None),
        ("{path: data/rows.jsonl, revision: null}", None),
        ("{path: /data/acme/base, revision: 0123456789abcdef0123456789abcdef01234567}", None),
    ],
)
def test_a_source_is_named_if_the_recipe_pins_it(source, hub_id):
    assert hub_source(f"source: {source}\n") == hub_id
    assert hub_source(None) is None


def test_the_client_reads_the_card():
    card = DatasetCard(render_card(request()))
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.language == ["en"]
    assert card.data.source_datasets == ["acme/base"]
    assert [config["config_name"] for config in card.data.configs] == ["default", "removed"]
    assert "license" not in DatasetCard(render_card(request(source_metadata={}))).data.to_dict()


def test_a_card_that_is_there_keeps_what_is_its_own():
    front = "license: mit\ntags:\n- a\nodd: {b: [1, null]}\nsize_categories:\n- n>1T\n"
    mine = f"---\n{front}---\n# Mine\n\nwords\n\n## More\n\nx\n"
    first = render_card(request(), mine)
    metadata, body = split_card(first)
    assert (metadata["license"], metadata["odd"], metadata["size_categories"]) == ("mit", {"b": [1, None]}, ["n>1T"])
    assert metadata["tags"][0] == "a"
    assert body.lstrip().startswith("# Mine\n\nwords\n\n## More\n\nx\n\n<!-- larf-curate:begin")
    edited = first.replace("words", "other words") + "\n## At the end\n"
    second = render_card(request(outcomes=["kept"]), edited)
    assert second.count("<!-- larf-curate:begin") == second.count("<!-- larf-curate:end") == 1
    assert "other words" in second
    assert second.endswith("\n## At the end\n")
    assert [config["config_name"] for config in split_card(second)[0]["configs"]] == ["default"]
    assert render_card(request(), "no metadata, only words\n").count("only words") == 1
    with pytest.raises(PublishError, match="cannot be read"):
        render_card(request(), "---\n- a list\n---\n")


if __name__ == "__main__":
    GOLDEN.write_text(render_card(request()), encoding="utf-8")


def test_the_search_for_the_layer_is_shown() -> None:
    blocks, p_value, best = SEARCH
    profile = LayerProfile(
        model="/home/someone/model",
        version="89" * 20,
        total_blocks=8,
        dtype="float32",
        prompts=30,
        digest="ef" * 32,
        judge="wording",
        max_new_tokens=32,
        scales=(0.9, 1.1),
        error_rate=0.05,
        unscaled=12,
        blocks=blocks,
        p_value=p_value,
        best=best,
        locators={"angle gap (degrees)": [float(number) for number in range(8)]},
    )
    assert best is not None
    searched = replace(REPORT, scorer=replace(REPORT.scorer, search=profile))
    public = Report.from_json(searched.to_json()).without_directories()
    assert "/home/someone" not in public.to_json()
    plots = draw_plots(public)
    card = render_card(CardRequest(repo="acme/clean", report=public, recipe=None, plots=plots, outcomes=["kept"]))
    shown = re.sub(r"\\(\W)", r"\1", card)  # all of it is escaped
    assert f"| layer search | block {best}: kappa" in shown
    assert "angle gap (degrees) is highest at block 7" in shown
    assert "30 harmless prompts that sound harmful, 12 of them refused as the model is" in shown
    assert "![The search for the layer" in card
    assert {plot.name: plot.png[:4] for plot in plots} == {"search.png": b"\x89PNG", "groups-0.png": b"\x89PNG"}
    assert ("layer search", profile.verdict()) in list(describe_run(public))
    assert "layer search" not in dict(describe_run(REPORT))
