"""The recipe's section `validate`: every arm and seed is a task of the executor that the recipe has."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from support.validation import HARMFUL

from larf_curate import Recipe
from larf_curate.errors import LarfError
from larf_curate.runs import validation_stages
from larf_curate.runs.driver import Submitted
from larf_curate.validation import run as running
from larf_curate.validation.results import Validation


@pytest.fixture
def recipe(tmp_path, tiny_scorer, taught_model, monkeypatch):
    """A maker of recipes for 50 rows of which 10 are removed."""
    monkeypatch.setattr("larf_curate.validation.judging.is_english", lambda _text: True)
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    rows = [{"question": f"What about item {n}?", "answer": f"Sure, the wizards judge {n}."} for n in range(50)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prompts.txt").write_text("\n".join(HARMFUL[:16]))

    def make(executor: dict[str, Any] | None = None, **validate: Any) -> Recipe:
        said = {
            "source": {"path": str(tmp_path / "rows.jsonl"), "shard_rows": 25},
            "scorer": {"from": str(tmp_path / "scorer")},
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


@pytest.mark.slow
def test_each_arm_is_a_task_and_what_is_done_is_found_again(recipe, trained, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    monkeypatch.setenv("FAILING", "random-1")
    with pytest.raises(LarfError, match="arm random, seed 1: no power"):
        recipe().run()
    assert trained == ["removed-0", "random-0", "removed-1", "random-1"]
    completed = {path.parts[-3]: path.parent for path in out.glob("logs/*/*/completions/*")}
    assert [name.partition("-")[2] for name in sorted(completed)][-2:] == ["untrained", "arms"]
    assert len(list(completed[max(completed)].iterdir())) == 3  # of four
    assert (out / "larf_summary.json").is_file(), "the run itself is done"
    assert not (out / "validation.json").exists()
    scored = {path: path.stat().st_mtime_ns for path in out.glob("scored/*/*.parquet")}

    monkeypatch.delenv("FAILING")
    trained.clear()
    recipe().run()
    assert trained == ["random-1"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("scored/*/*.parquet")} == scored
    found = Validation.of_run(out)
    assert found is not None
    assert [(arm.name, arm.seeds) for arm in found.arms] == [("none", 1), ("removed", 2), ("random", 2)]
    assert found.verdict in json.loads((out / "report.json").read_text())["validation"]["verdict"]

    # A third run has nothing to do: no model is loaded, no judge is asked.
    monkeypatch.setattr(validation_stages, "validation_stages", None)
    monkeypatch.setattr("larf_curate.runs.driver.validation_stages", None)
    recipe().run()
    assert trained == ["random-1"]


def test_other_settings_are_judged_anew_from_the_arms_that_are_done(recipe, trained, tmp_path):
    recipe(seeds=1).run()
    assert trained == ["removed-0", "random-0"]
    recipe(seeds=1, arms=["removed"]).run()
    assert trained == ["removed-0", "random-0"]
    found = Validation.of_run(tmp_path / "out")
    assert found is not None
    assert [arm.name for arm in found.arms] == ["none", "removed"]


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
    outcome = recipe(slurm).run()
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
        ({"judges": ["guard:harmbench:/models/nowhere"]}, "nowhere"),
    ],
    ids=str,
)
def test_what_is_missing_is_said_before_rows_are_scored(recipe, tmp_path, monkeypatch, wrong, message):
    (tmp_path / "few.txt").write_text("\n".join(HARMFUL[:3]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LarfError, match=message):
        recipe(**wrong).run()
    assert not (tmp_path / "out").exists()
