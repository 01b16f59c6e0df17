"""Keys of a recipe that are declared elsewhere: the options of a model, and those of the executors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from support import model_options

from larf_curate import Recipe
from larf_curate.errors import RecipeError
from larf_curate.models.options import FIT_OPTIONS, OPTIONS, RUN_OPTIONS, ModelOptions, Option
from larf_curate.runs.executor_request import ExecutorRequest

VALUES = {name: value for name, value in model_options.VALUES.items() if name != "trust_remote_code"}
"""For each option that a recipe may hold, a value that is not its default."""


def recipe(scorer: str, executor: str = "{}") -> Recipe:
    sections = ("source: {path: rows.jsonl}", f"scorer: {{{scorer}}}", "threshold: {drop_top: 1}")
    return Recipe.from_text("\n".join((*sections, f"executor: {executor}", "output: out")), "r.yaml")


def with_values(*names: str) -> str:
    return ", ".join(f"{name}: {VALUES[name]!r}" for name in names).replace("True", "true")


def test_every_option_has_a_value_here() -> None:
    assert VALUES.keys() == OPTIONS.keys() - {"trust_remote_code"}
    assert not any(value == OPTIONS[name].default for name, value in VALUES.items())


def test_every_option_of_a_model_is_a_key_and_reaches_the_fit() -> None:
    scorer = recipe(f"layer: 3, {with_values(*VALUES)}").scorer
    arguments = scorer.fit_arguments()
    assert {name: arguments[name] for name in VALUES} == VALUES
    assert ModelOptions.of(**scorer.model_options()) == ModelOptions(**VALUES)


@pytest.mark.parametrize("name", FIT_OPTIONS)
def test_an_option_that_is_left_out_is_the_default(name: str) -> None:
    arguments = recipe("model: m, layer: 3").scorer.fit_arguments()
    assert arguments.get(name, OPTIONS[name].default) == OPTIONS[name].default


def test_every_option_that_may_be_given_again_reaches_a_fitted_scorer() -> None:
    assert recipe("from: fitted").scorer.run_options() == {}
    names = [name for name in RUN_OPTIONS if name in VALUES]
    chosen = recipe(f"from: fitted, {with_values(*names)}").scorer.run_options()
    assert chosen == {name: VALUES[name] for name in names}


@pytest.mark.parametrize("name", sorted(FIT_OPTIONS.keys() - RUN_OPTIONS.keys() - {"revision"}))
def test_every_other_option_is_refused_with_a_fitted_scorer(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"^r.yaml, line 2: scorer.{name}: belongs to fitting"):
        recipe(f"from: fitted, {with_values(name)}")


@pytest.mark.parametrize("option", [OPTIONS[name] for name in VALUES], ids=VALUES)
def test_a_wrong_value_of_an_option_is_told_with_its_line(option: Option) -> None:
    wrong = "[1]"
    if get_origin(option.kind) is Literal:
        wrong = "".join(get_args(option.kind))
    elif option.about.minimum is not None:
        wrong = str(option.about.minimum - 1)
    with pytest.raises(RecipeError, match=rf"^r.yaml, line 2: scorer.{option.name} must be "):
        recipe(f"layer: 3, model: m, {option.name}: {wrong}" if option.name != "model" else "layer: 3, model: [1]")


# The digest by which scored shards are found again --------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted((FIT_OPTIONS.keys() & VALUES.keys()) - {"revision", "base"}))
def test_shards_are_found_again_unless_an_option_changes_scores(name: str, tiny_model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Why?", "answer": "Because."}\n')

    def digest(scorer: str) -> str:
        sections = (f"source: {{path: {rows}}}", f"scorer: {{model: {tiny_model}, layer: 1{scorer}}}")
        text = "\n".join((*sections, "threshold: {drop_top: 1}", f"output: {tmp_path / 'out'}"))
        return Recipe.from_text(text).request().scorer_digest()

    same = digest("") == digest(f", {with_values(name)}")
    # The device decides the precision if dtype is auto.
    assert same is not (OPTIONS[name].about.changes_scores or name == "device")


# The executor ---------------------------------------------------------------------------------------------------------


def test_an_executor_becomes_the_request_that_runs_take() -> None:
    assert recipe("from: s").executor == ExecutorRequest()
    assert recipe("from: s", "{tasks: 4}").executor == ExecutorRequest("local", 4)
    slurm = recipe("from: s", "{kind: slurm, tasks: 9, wait: true, partition: cpu, time: '1:00'}").executor
    assert slurm == ExecutorRequest("slurm", 9, wait=True, options={"partition": "cpu", "time": "1:00"})
    ray = recipe("from: s", "{kind: ray, address: 'ray://head', cpus_per_task: 2}").executor
    assert ray == ExecutorRequest("ray", address="ray://head", options={"cpus_per_task": 2})


@pytest.mark.parametrize("executor", ["{kind: ray, workers: 3, cpus_per_task: 2}", "{tasks: 2}", "{}"])
def test_an_executor_is_written_as_it_is_read(executor: str) -> None:
    first = recipe("from: s", executor)
    assert Recipe.from_text(first.to_yaml()) == first


def test_an_executor_that_is_no_mapping_is_told() -> None:
    with pytest.raises(RecipeError, match=r"^r.yaml, line 4: executor must be a mapping of keys$"):
        recipe("from: s", "[1]")


# What a notebook shows ------------------------------------------------------------------------------------------------


def test_a_recipe_is_shown_in_one_line() -> None:
    shown = repr(recipe("model: demo, layer: 3", "{kind: ray}"))
    assert shown == "Recipe('rows.jsonl' -> 'out', scorer 'demo', drop_top 1, ray)"
