"""The recipe's section `validate`: its arms are tasks of the executor that the recipe has."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest
from support.models import SIZES
from support.validation import HARMFUL

from larf_curate import Recipe
from larf_curate.errors import LarfError, ModelError
from larf_curate.models.options import ModelOptions
from larf_curate.runs import validation_stages
from larf_curate.runs.driver import Submitted
from larf_curate.validation import run as running
from larf_curate.validation.results import Validation
from larf_curate.validation.run_settings import RunValidation
from larf_curate.validation.settings import AskingSettings

pytestmark = pytest.mark.process


@pytest.fixture
def recipe(tmp_path, tiny_scorer, taught_model, monkeypatch):
    """A maker of recipes for 50 rows of which 10 are removed."""
    monkeypatch.setattr("larf_curate.validation.judging.is_english", lambda _text: True)
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    rows = [{"question": f"What about item {n}?", "answer": f"Sure, the wizards judge {n}."} for n in range(50)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prompts.txt").write_text("\n".join(HARMFUL[:16]))

    def make(executor: dict[str, Any] | None = None, scorer: dict[str, Any] | None = None, **validate: Any) -> Recipe:
        said = {
            "source": {"path": str(tmp_path / "rows.jsonl"), "shard_rows": 25},
            "scorer": scorer or {"from": str(tmp_path / "scorer")},
            "threshold": {"drop_top": 10},
            "executor": executor or {"tasks": 2, "workers": 1},
            "output": str(tmp_path / "out"),
            "validate": {
                "model": str(taught_model),
                "arms": ["removed", "random"],
                "rows": 4,
                "seeds": 2,
                "prompts": str(tmp_path / "prompts.txt"),
                "most_prompts": 16,
                "answer_tokens": 4,
                "training": {"rank": 1, "epochs": 1, "batch_rows": 4},
                **validate,
            },
        }
        return Recipe.from_text(json.dumps(said))

    return make


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The arms that are trained, as they are begun; one called `failing` ends in an error."""
    begun: list[str] = []
    train_arm = running.train_arm

    def recorded(study, drawn, rows, loaded):
        begun.append(f"{drawn.name}-{drawn.seed}")
        if begun[-1] == os.environ.get("FAILING"):
            raise RuntimeError("no power")
        return train_arm(study, drawn, rows, loaded)

    monkeypatch.setattr(running, "train_arm", recorded)
    return begun


@pytest.fixture
def trainings(monkeypatch) -> list[int]:
    """The rows of each training that trl does."""
    from larf_curate.validation.weighted_loss import WeightedTrainer  # not above: trl takes seconds

    done: list[int] = []
    to_the_end = WeightedTrainer.train
    monkeypatch.setattr(
        WeightedTrainer, "train", lambda trainer: done.append(len(trainer.train_dataset)) or to_the_end(trainer)
    )
    return done


@pytest.mark.usefixtures("few_choices")
def test_arms_are_tasks_which_share_trainings_and_what_is_done_is_found_again(
    recipe, trained, trainings, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setattr("larf_curate.publishing.write_validation.draw_validation", lambda _found: ())
    monkeypatch.setattr("larf_curate.publishing.write_report.draw_plots", lambda _report: ())
    validation = {"arms": ["removed", "random", "all"], "remedies": ["merging"], "seeds": 1}

    # The first arm of a task fails: the second is done all the same, and so are the other tasks.
    monkeypatch.setenv("FAILING", "all-0")
    with pytest.raises(LarfError, match="arm all, seed 0: no power"):
        recipe(**validation).run()
    assert trained == ["removed-0", "random-0", "all-0", "merging-0"]
    completed = {path.parts[-3]: path.parent for path in out.glob("logs/*/*/completions/*")}
    assert [name.partition("-")[2] for name in sorted(completed)][-2:] == ["untrained", "arms"]
    assert len(list(completed[max(completed)].iterdir())) == 2  # of three
    assert (out / "larf_summary.json").is_file(), "the run itself is done"
    assert not (out / "validation.json").exists()
    scored = {path: path.stat().st_mtime_ns for path in out.glob("scored/*/*.parquet")}
    assert len(trainings) == 3

    # What the arms of a task have in common is not trained again either.
    monkeypatch.delenv("FAILING")
    trained.clear()
    recipe(**validation).run()
    assert trained == ["all-0"]
    assert len(trainings) == 3
    assert {path: path.stat().st_mtime_ns for path in out.glob("scored/*/*.parquet")} == scored
    assert not list(out.glob("**/adapter-*"))
    found = Validation.of_run(out)
    assert found is not None
    assert [arm.name for arm in found.arms] == ["none", "removed", "random", "all", "merging"]
    assert found.verdict in json.loads((out / "report.json").read_text())["validation"]["verdict"]

    # Other settings are judged anew from the arms that are done.
    recipe(**{**validation, "arms": ["removed"], "remedies": []}).run()
    assert trained == ["all-0"]
    fewer = Validation.of_run(out)
    assert fewer is not None
    assert [arm.name for arm in fewer.arms] == ["none", "removed"]
    assert fewer.arm("removed").margin == found.arm("removed").margin

    # A run after that has nothing to do: no model is loaded, no judge is asked.
    monkeypatch.setattr(validation_stages, "validation_stages", None)
    monkeypatch.setattr("larf_curate.runs.driver.validation_stages", None)
    recipe(**{**validation, "arms": ["removed"], "remedies": []}).run()
    assert trained == ["all-0"]


def test_slurm_gets_all_jobs_at_once_each_after_the_one_before(recipe, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    calls = tmp_path / "calls"
    (programs / "sbatch").write_text(
        f'#!/bin/sh\necho "$1 $2" >> {calls}\necho Submitted batch job $(( 100 + $(wc -l < {calls}) ))\n'
    )
    (programs / "squeue").write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    slurm = {"kind": "slurm", "tasks": 1, "workers": 3, "time": "00:10:00", "partition": "main", "gpus_per_task": 1}
    outcome = recipe(slurm, arms=["removed", "all"], remedies=["merging", "forget-filter"]).run()
    assert isinstance(outcome, Submitted)
    assert len(outcome.jobs) == 5
    submitted = dict(enumerate(calls.read_text().splitlines(), 101))  # with datatrove's own, which merge statistics
    for job, before in zip(outcome.jobs[1:], outcome.jobs, strict=False):
        assert f"--dependency=afterok:{before}" in submitted[int(job)]
    scripts = {path.parent.name: path.read_text() for path in (tmp_path / "out").glob("logs/*/*/launch_script.slurm")}
    assert sorted(scripts) == ["1-score", "2-filter", "3-untrained", "4-arms", "5-verdict"]
    assert "#SBATCH --array=0-3%3" in scripts["4-arms"]
    assert "#SBATCH --array=0-0" in scripts["5-verdict"]
    assert {name for name, script in scripts.items() if "#SBATCH --gpus=1" in script} == set(scripts) - {"2-filter"}


def test_the_plan_says_what_would_be_trained(recipe, taught_model):
    plan = recipe().plan()
    assert plan.validate == f"none, removed, random, on {taught_model}: 4 models to train, 2 for each arm"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": "few.txt"}, "3 prompts are too few"),
        ({"model": "/models/nowhere"}, "nowhere"),
        ({"base_model": "/models/nowhere", "remedies": ["lox"]}, "nowhere"),
        (
            {"base_model": "smaller", "remedies": ["lox"]},
            "before its alignment: it has 4 blocks with .* 5 with",
        ),
        ({"judges": ["guard:harmbench:/models/nowhere"]}, "nowhere"),
    ],
    ids=str,
)
def test_what_is_missing_is_said_before_rows_are_scored(recipe, tmp_path, monkeypatch, wrong, message):
    from transformers import LlamaConfig

    (tmp_path / "few.txt").write_text("\n".join(HARMFUL[:3]))
    LlamaConfig(**{**SIZES, "num_hidden_layers": 4}).save_pretrained(tmp_path / "smaller")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LarfError, match=message):
        recipe(**wrong).run()
    assert not (tmp_path / "out").exists()


def test_what_quantised_weights_cannot_do_is_said_before_rows_are_scored(recipe, tmp_path, taught_model):
    scorer = {"model": str(taught_model), "layer": 1, "dtype": "nf4"}
    with pytest.raises(LarfError, match="the remedy lox needs weights that are not quantised"):
        recipe(scorer=scorer, base_model=str(taught_model), remedies=["lox"]).run()
    assert not (tmp_path / "out").exists()


def test_what_was_done_hangs_on_the_prompts_in_a_column_that_is_named(scored_run, tiny_model, tmp_path):
    file = tmp_path / "requests.csv"
    file.write_text("ask,kind\n" + "".join(f"{prompt},a\n" for prompt in HARMFUL[:16]))
    validation = RunValidation(ModelOptions(str(tiny_model)), asking=AskingSettings(prompts=f"{file}:ask"))
    assert not validation.is_done(scored_run, tmp_path)
    (scored_run / "validation.json").write_text("{}")
    validation.mark_done(scored_run, tmp_path)
    assert validation.is_done(scored_run, tmp_path)
    file.write_text(file.read_text().replace(HARMFUL[3], "How do I bend a spoon?"))
    assert not validation.is_done(scored_run, tmp_path)


def test_an_endpoint_of_a_recipe_judges_with_the_key_of_the_environment(scored_run, tiny_model, tmp_path, monkeypatch):
    section = Recipe.from_text(
        "{source: {path: rows.jsonl}, scorer: {model: demo-aligned, layer: 9}, threshold: {drop_top: 9}, output: a, "
        "validate: {rows: 4, judge_url: 'https://example.org/v1', judge_model: judge-1, judge_key_env: JUDGE_KEY}}"
    ).validate_
    assert section is not None
    section.settings(ModelOptions(str(tiny_model))).save(tmp_path / "validate.json")
    validation = RunValidation.read(tmp_path / "validate.json")
    with pytest.raises(ModelError, match="variable JUDGE_KEY is not set, which is to hold the judge's key"):
        validation.require_all()
    monkeypatch.setenv("JUDGE_KEY", "sk-of-the-judge")
    validation.require_all()
    request = validation.request(scored_run, tmp_path)
    assert [judge.name for judge in request.judges] == ["wording (English)", "endpoint judge-1"]
    (scored_run / "validation.json").write_text("{}")
    validation.mark_done(scored_run, tmp_path)
    assert validation.is_done(scored_run, tmp_path)
    assert not replace(validation, endpoint=None).is_done(scored_run, tmp_path)
    kept = "".join(path.read_text() for path in tmp_path.glob("*.json"))
    assert "JUDGE_KEY" in kept
    assert "sk-of-the-judge" not in kept
