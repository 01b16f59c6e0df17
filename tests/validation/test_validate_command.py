"""`larf-curate validate` and the recipe's section: plan, dry run, result, and one line for what cannot be."""

from __future__ import annotations

import json

import pytest
from support.commands import larf
from support.validation import HARMFUL

from larf_curate.errors import RecipeError
from larf_curate.recipe.recipe import Recipe
from larf_curate.validation.settings import DEFAULT_ARMS

pytestmark = pytest.mark.process

RECIPE = """
source: {path: rows.jsonl}
scorer: {model: demo-aligned, layer: 9}
threshold: {drop_top: 9}
output: runs/first
"""


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(HARMFUL[:16]) + "\n")
    return tmp_path / "prompts.txt"


def test_the_plan_comes_first_and_a_dry_run_stops_there(scored_run, taught_model, prompts, tmp_path):
    work = tmp_path / "work"
    done = larf(
        *("validate", scored_run, "--model", taught_model, "--arms", "removed,matched", "--rows", 6, "--seeds", 2),
        *("--prompts", prompts, "--work", work, "--dry-run"),
        env={"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "none, removed (6 rows), matched (6 rows)" in text
    assert "4 to train, 2 for each arm" in text
    assert "16 harmful, 128 sensitive, 4 ordinary" in text
    assert "LoRA of rank 8, learning rate 0.0001, 3 epochs, 16 rows a step" in text
    assert "training" in text.partition("time")[2]
    assert "MiB for training" in text
    assert not work.exists()
    done = larf(
        *("validate", scored_run, "--model", taught_model, "--arms", "removed", "--prompts", prompts, "--work", work),
        *("--dry-run", "--json"),
    )
    assert json.loads(done.stdout)["models"] == 3


@pytest.mark.usefixtures("few_choices")
def test_a_validation_is_shown_and_written(scored_run, taught_model, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("larf_curate.validation.judging.is_english", lambda _text: True)
    out = tmp_path / "found.json"
    done = larf(
        *("validate", scored_run, "--model", taught_model, "--arms", "removed,random", "--rows", 4, "--seeds", 1),
        *("--prompts", prompts, "--most-prompts", 16, "--answer-tokens", 6, "--epochs", 1, "--adapter-rank", 2),
        *("--work", tmp_path / "work", "--out", out, "--device", "cpu"),
        env={"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["verdict"] in " ".join(done.stdout.split())
    assert list(found["arms"]) == ["none", "removed", "random"]
    assert found["record"]["training"] == {
        "method": "lora",
        "rank": 2,
        "learning_rate": 1e-4,
        "epochs": 1.0,
        "batch_rows": 16,
        "warmup": 0.1,
        "targets": [],
    }
    assert (scored_run / "validation.json").read_text() == out.read_text()
    assert "validate: removed, seed 0 (model 1 of 2)" in done.stderr
    # Another threshold may be split into the same directory afterwards: nothing of somebody else's lies there.
    scored = scored_run.parent / "run.parquet"
    again = larf("filter", scored, "--out", scored_run, "--drop-top", 5)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--arms", "worst"], 2, "there is no arm 'worst'"),
        (["--epochs", "0"], 2, "epochs must be more than 0"),
        (["--seeds", "0"], 2, "greater than or equal to 1"),
        (["--rows", "3"], 2, "greater than or equal to 4"),
        (["--out", "figures.png"], 2, "it is a JSON file, and the picture beside it ends in .png"),
        (["--method", "full", "--adapter-targets", "q_proj"], 2, "targets are those of an adapter"),
        (["--epochs", "inf"], 2, "epochs must be more than 0 and finite"),
        (["--dtype", "nf4", "--method", "full"], 2, "weights in nf4 cannot be trained themselves"),
        (
            ["--dtype", "nf4", "--remedies", "lox", "--base-model", "demo"],
            2,
            "lox needs weights that are not quantised",
        ),
        (["--remedies", "lox"], 2, "give base_model (--base-model)"),
        (["--remedies", "prayer"], 2, "there is no remedy 'prayer'"),
        (["--judges", "oracle"], 2, "there is no judge 'oracle'"),
        (["--judge-url", "http://127.0.0.1:9/v1"], 2, "--judge-url and --judge-model) go together"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, status, message, scored_run):
    done = larf("validate", scored_run, "--model", "demo-aligned", *arguments, "--dry-run")
    assert done.returncode == status
    assert message in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("place", ["out", "run"])
def test_what_cannot_be_written_is_said_before_hours_of_training(
    place, scored_run, taught_model, prompts, tmp_path, monkeypatch
):
    monkeypatch.setattr("larf_curate.validation.run.measure_models", None)
    (tmp_path / "taken").mkdir()
    if place == "run":
        (scored_run / "validation.json").write_text("mine")
    done = larf(
        *("validate", scored_run, "--model", taught_model, "--prompts", prompts, "--work", tmp_path / "work"),
        *(["--out", tmp_path / "taken"] if place == "out" else []),
    )
    assert done.returncode == 1, done.stderr
    assert ("taken cannot be written" if place == "out" else "was not written by larf-curate") in done.stderr
    assert not (tmp_path / "work").exists()


def test_the_section_of_a_recipe():
    assert Recipe.from_text(RECIPE).validate_ is None
    section = Recipe.from_text(RECIPE + "validate: {arms: [removed, matched], seeds: 2, judges: [wording]}\n").validate_
    assert section is not None
    assert (section.arms, section.seeds, section.judges) == (["removed", "matched"], 2, ["wording"])
    assert section.training.settings().rank == 8
    empty = Recipe.from_text(RECIPE + "validate: {}\n")
    assert empty.validate_ is not None
    assert tuple(empty.validate_.arms) == DEFAULT_ARMS
    assert Recipe.from_text(empty.to_yaml()) == empty
    for wrong, message in (
        ("{arms: [worst]}", "validate.arms.*there is no arm 'worst'"),
        ("{seed: 3}", "unknown key 'seed'; did you mean 'seeds'"),
        ("{training: {epochs: 0}}", "validate.training.*epochs must be more than 0"),
        ("{remedies: [prayer]}", "validate.remedies"),
        ("{judge_url: 'https://h/v1'}", "validate.judge_url.*judge_url and judge_model .*go together"),
        ("{judge_key_env: KEY}", r"judge_key_env \(--judge-key-env\) belongs to judge_url"),
        ("{judge_url: 'https://me:pw@h/v1', judge_model: j}", "must hold no user, password or query"),
    ):
        with pytest.raises(RecipeError, match=message):
            Recipe.from_text(RECIPE + f"validate: {wrong}\n")
