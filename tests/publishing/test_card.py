"""The score card: word for word, and over a card that is there already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard

from larf_curate.errors import PublishError
from larf_curate.publishing.card import CardRequest, render_card, split_card
from larf_curate.publishing.plots import draw_plots
from larf_curate.publishing.publication import hub_source, public_recipe, public_report
from larf_curate.publishing.report import Report
from larf_curate.publishing.words import describe_run
from larf_curate.scoring.layer_search.profile import LayerProfile, analyse

SEARCH = analyse(np.random.default_rng(0).random((3, 2, 30)) < np.array([0.2, 0.8])[:, None], (0.9, 1.1), [4, 5, 6])
GOLDEN = Path(__file__).with_name("golden_card.md")
POINTS = {"lowest": -0.2, "5%": -0.1, "median": 0.01, "95%": 0.12, "highest": 0.2}
RECIPE = """source: {path: acme/base, revision: 0123456789abcdef0123456789abcdef01234567}
scorer: {model: acme/model, layer: 12}
threshold: {drop_top: 100}
executor: {kind: slurm, partition: secret-queue, env_command: export KEY=hf_hidden}
output: /home/someone/runs/base
publish: {repo: acme/clean}
"""


def estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "rows": 995}


REPORT = Report(
    rows={"rows": 1000, "scored": 995, "kept": 895, "removed": 100, "unscorable": 5},
    issues={"empty_answer": 5, "truncated": 2},
    source={"name": "/home/someone/base.jsonl", "rows": 1000, "digest": "ab" * 32, "format": "alpaca"},
    scorer={
        "model": "acme/model",
        "version": "89" * 20,
        "layers": [12],
        "blocks": 32,
        "formula": "larf",
        "formula_version": 1,
        "top_k": None,
        "dtype": "bfloat16",
        "max_tokens": 4096,
        "overflow": "truncate",
        "references": {
            "name": "/home/someone/pairs.jsonl",
            "digest": "cd" * 32,
            "pairs": 80,
            "findings": ["length: 2x"],
        },
        "separation": {"auc": 0.91, "pairs": 20, "method": "4-fold cross-validation"},
    },
    threshold={"rule": "drop_top", "amount": 100, "value": 0.1234, "removed": 100, "tied": 2, "harmless": None},
    quantiles={"larf_score": POINTS, "larf_tokens": dict(zip(POINTS, (5, 20, 120, 900, 5000), strict=True))},
    histogram={},
    form={
        "lists": 0.2,
        "refusals": 0.01,
        "system": 0.0,
        "tools": 0.0,
        "several_turns": 0.5,
        "median_characters": 210.0,
    },
    groups=[
        {
            "column": "topic",
            "value": "maths",
            "rows": {"kept": 500, "removed": 90, "unscorable": 0},
            "quantiles": [0.0] * 5,
        },
        {"column": "topic", "value": None, "rows": {"kept": 395, "removed": 10, "unscorable": 5}, "quantiles": None},
    ],
    confounds={
        "score_and_characters": estimate(-0.31, -0.36, -0.25),
        "score_and_lists": estimate(0.02, -0.04, 0.08),
        "removed_to_kept_characters": estimate(0.5, 0.4, 0.6),
        "removed_to_kept_tokens": None,
        "removed_less_kept_lists": estimate(-0.1, -0.15, -0.02),
        "removed_less_kept_refusals": estimate(0.0, -0.01, 0.04),
    },
    sample={"kept": 895, "removed": 100},
    dots={},
    run={"digest": "0" * 16, "packages": {"larf-curate": "0.1.0", "numpy": "2", "pyarrow": "26"}},
)


def request(**changes) -> CardRequest:
    made = {
        "repo": "acme/clean",
        "report": public_report(REPORT),
        "plots": ["scores.png", "groups-0.png"],
        "recipe": public_recipe(RECIPE),
        "outcomes": ["kept", "removed"],
        "source": hub_source(RECIPE),
        "source_metadata": {"license": "cc-by-nc-4.0", "language": ["en"], "pretty_name": "not ours", "configs": [1]},
    }
    return CardRequest(**{**made, **changes})


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
        unscaled=12,
        blocks=blocks,
        p_value=p_value,
        best=best,
        locators={"angle gap (degrees)": [float(number) for number in range(8)]},
    )
    assert best is not None
    searched = replace(REPORT, scorer={**REPORT.scorer, "search": profile.without_decisions()})
    public = public_report(Report.from_json(searched.to_json()))
    assert "/home/someone" not in public.to_json()
    card = render_card(
        CardRequest(repo="acme/clean", report=public, recipe=None, plots=["search.png"], outcomes=["kept"])
    )
    assert f"| layer search | block {best}: kappa" in card
    assert "angle gap (degrees) is highest at block 7" in card
    assert "30 harmless prompts that sound harmful, 12 of them refused as the model is" in card
    assert "![The search for the layer" in card
    assert draw_plots(public)["search.png"].startswith(b"\x89PNG")
    assert ("layer search", profile.verdict()) in list(describe_run(public))
    assert "layer search" not in dict(describe_run(REPORT))
