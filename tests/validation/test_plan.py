"""The plan of a validation says what will not work before anything is loaded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from larf_curate.console import show_validation_plan
from larf_curate.errors import ModelError
from larf_curate.models.options import ModelOptions
from larf_curate.validation import plan as planning
from larf_curate.validation.plan import ValidationPlan, plan_validation
from larf_curate.validation.request import ValidationRequest
from larf_curate.validation.scored_rows import ScoredRows
from larf_curate.validation.settings import ComparingSettings, TrainingSettings
from larf_curate.validation.validate import validate


@pytest.fixture
def plan(scored_run, tiny_model, tmp_path, monkeypatch):
    def make(free: int, rows: int = 6, method: str = "lora", **comparing: Any) -> ValidationPlan:
        monkeypatch.setattr(planning, "free_bytes", lambda _device: free)
        return plan_validation(
            ValidationRequest(
                ScoredRows.open(scored_run),
                ModelOptions(str(tiny_model), device="cpu"),
                ComparingSettings(arms=["removed", "kept"], rows=rows, **comparing),
                TrainingSettings(method=method),
                work=tmp_path / "work",
            )
        )

    return make


def shown(plan: ValidationPlan) -> str:
    console = Console(width=300, record=True)
    show_validation_plan(plan, console)
    return " ".join(console.export_text().split())


def test_memory_that_is_not_there_is_said(plan):
    enough, short = plan(8 << 30), plan(1 << 20)
    assert enough.fits
    assert not short.fits
    assert "it will run out" not in shown(enough)
    assert "1 MiB are free: it will run out; take dtype nf4, method lora, or fewer batch rows" in shown(short)
    assert json.loads(short.to_json())["fits"] is False
    # Gradients and averages of all weights take more than the room that a small model leaves beside it.
    assert plan(8 << 30, method="full").bytes is not None


def test_who_sees_no_plan_is_told_too(scored_run, tiny_model, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("larf_curate.validation.validate.run_validation", lambda _request: None)
    for free, said in ((64 << 30, False), (1 << 20, True)):
        monkeypatch.setattr(planning, "free_bytes", lambda _device, free=free: free)
        validate(scored_run, tiny_model, arms=["removed"], work=tmp_path / "work", device="cpu")
        assert ("1 MiB are free: it will run out; take dtype nf4" in caplog.text) is said


def test_arms_that_get_fewer_rows_than_asked_for_are_said(plan):
    assert plan(8 << 30).arms == {"none": 0, "removed": 6, "kept": 6}
    few = plan(8 << 30, rows=30)
    assert few.arms == {"none": 0, "removed": 12, "kept": 30}
    assert "fewer than asked for: one arm has no more rows" in shown(few)


def test_a_model_that_only_a_remedy_needs_is_looked_for_too(plan):
    with pytest.raises(ModelError, match="/models/nowhere does not exist"):
        plan(8 << 30, remedies=["lox"], base_model="/models/nowhere")


def test_models_that_remedies_keep_beside_the_trained_one_are_counted(plan, tiny_model):
    plain = plan(8 << 30)
    lox, safe_lora = (plan(8 << 30, remedies=[name], base_model=str(tiny_model)) for name in ("lox", "safe-lora"))
    assert lox.bytes - plain.bytes > 0
    assert safe_lora.bytes - plain.bytes == pytest.approx(2 * (lox.bytes - plain.bytes), abs=2)


def test_as_many_ordinary_prompts_as_rows_are_held_back(plan):
    assert plan(8 << 30).prompts == "200 harmful, 128 sensitive, 4 ordinary"


def test_the_time_of_each_part_and_of_shared_trainings_is_in_the_plan(plan, tiny_model):
    base = {"base_model": str(tiny_model)}
    kept, merging, refusals = (plan(8 << 30, rows=30, remedies=names) for names in ((), ("merging",), ("refusals",)))
    assert set(kept.seconds) == {"training", "asking", "losses", "judging"}
    assert all(seconds > 0 for seconds in kept.seconds.values())
    one = merging.tokens - kept.tokens  # of 30 rows
    assert refusals.tokens - kept.tokens == pytest.approx(one, abs=2)
    shared = plan(8 << 30, rows=30, remedies=["merging", "safe-lora"], **base)
    assert shared.tokens - kept.tokens == pytest.approx(one, abs=2)
    apart = plan(8 << 30, rows=30, remedies=["merging", "safe-lora"], method="full", **base)
    assert apart.tokens - kept.tokens == pytest.approx(2 * one, abs=2)
    # Of three trainings of its own, ForgetFilter shares the first.
    alone, beside = (
        plan(8 << 30, rows=30, remedies=names).tokens for names in (["forget-filter"], ["forget-filter", "merging"])
    )
    assert alone == beside
    assert alone - kept.tokens > 2 * one
