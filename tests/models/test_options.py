"""One declaration of each option: what derives from it agrees with it, and a wrong value is refused by name."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest

from larf_curate import LARFScorer
from larf_curate.errors import ModelError, ScorerError
from larf_curate.models.options import (
    FIT_OPTIONS,
    OPTIONS,
    RUN_OPTIONS,
    EncodingOptions,
    FitOptions,
    ModelOptions,
    RunOptions,
    check_run_options,
)
from larf_curate.scoring.artifact import ScorerSpec


def without_none(annotation: Any) -> Any:
    either = get_args(annotation)
    return either[0] if NoneType in either else annotation


def test_the_types_written_out_for_type_checkers_are_those_declared() -> None:
    declared = get_type_hints(ModelOptions)
    assert get_type_hints(FitOptions) == {name: kind for name, kind in declared.items() if name != "model"}
    assert get_type_hints(FitOptions).keys() == FIT_OPTIONS.keys()
    run = get_type_hints(RunOptions)
    assert run.keys() == RUN_OPTIONS.keys()
    assert {name: without_none(run[name]) for name in run} == {name: without_none(declared[name]) for name in run}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dtype", "float64"),
        ("dtype", None),
        ("dtype", ["float32"]),
        ("overflow", "cut"),
        ("max_tokens", 15),
        ("max_tokens", "4096"),
        ("max_tokens", None),
        ("batch_tokens", 0),
        ("batch_tokens", -3),
        ("batch_tokens", True),
        ("batch_tokens", 8.0),
        ("device", 0),
        ("device", ""),
        ("revision", b"main"),
        ("chat_template", " "),
        ("trust_remote_code", "no"),
        ("trust_remote_code", None),
        ("model", ""),
        ("model", None),
    ],
)
def test_a_wrong_value_is_named_with_its_option(option: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf"^{option} must be .*, not ") as caught:
        ModelOptions(**{"model": "m", option: value})
    assert str(caught.value).endswith(f"not {value!r}")


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_left_out_is_right(name: str) -> None:
    option = OPTIONS[name]
    assert option.required == (name == "model")
    if not option.required:
        option.check(option.default)
    assert option.about.help.endswith(".")
    assert f"\n    {name}: {option.about.help}" in inspect.getdoc(ModelOptions)


def test_a_template_is_text_or_a_file_of_it(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages }}")
    assert ModelOptions.of(tmp_path, chat_template=str(file)) == ModelOptions(
        str(tmp_path), chat_template="{{ messages }}"
    )
    assert ModelOptions.of("m", chat_template="{{ messages }}").chat_template == "{{ messages }}"
    with pytest.raises(ModelError, match="chat template nowhere is neither Jinja text, nor a file"):
        ModelOptions.of("m", chat_template="nowhere")


def test_a_model_that_is_no_name_is_refused_before_anything_is_looked_up() -> None:
    no_name: Any = None
    with pytest.raises(ModelError, match="model must be text, not None"):
        LARFScorer.fit(no_name, 1)


def test_a_repr_shows_what_is_not_as_always() -> None:
    assert repr(ModelOptions("demo")) == "ModelOptions('demo')"
    long = repr(ModelOptions("demo", dtype="nf4", chat_template="{{ messages }}" * 999))
    assert long.startswith("ModelOptions('demo', dtype='nf4', chat_template='{{")
    assert len(long) < 100


# Where a fitted scorer is loaded ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, not 0"),
        ({"dtype": "float64"}, "dtype must be auto, .* or nf4, not 'float64'"),
        ({"trust_remote_code": "no"}, "trust_remote_code must be True or False, not 'no'"),
        ({"model": ""}, "model must be text that is not blank, not ''"),
    ],
    ids=str,
)
def test_a_scorer_refuses_a_wrong_option_before_it_runs(
    tiny_scorer: LARFScorer, tmp_path: Path, options: Any, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        tiny_scorer.with_options(**options)
    tiny_scorer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=words):
        LARFScorer.from_pretrained(tmp_path, **options)


def test_an_option_that_is_not_given_is_not_there() -> None:
    assert check_run_options({"device": None, "trust_remote_code": False, "dtype": "auto"}) == {"dtype": "auto"}
    with pytest.raises(TypeError, match=r"unknown model option 'max_tokens'; did you mean 'batch_tokens'"):
        check_run_options({"max_tokens": 4096})


def test_a_misspelt_option_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(TypeError, match="unknown model option 'maxtokens'; did you mean 'max_tokens'"):
        LARFScorer.fit("demo", 2, maxtokens=3)  # type: ignore[call-arg]


def test_a_scorer_keeps_how_it_encodes_and_goes_on_with_how_it_runs(tiny_scorer: LARFScorer) -> None:
    kept = {field.name for field in dataclasses.fields(EncodingOptions)}
    spec = dataclasses.replace(tiny_scorer.spec, max_tokens=99, overflow="reject", chat_template="{{ 1 }}")
    again = ScorerSpec.from_json(spec.to_json(), "spec")
    assert again == spec
    run = check_run_options({"device": "cpu", "batch_tokens": 7, "dtype": "bfloat16"})
    options = again.model_options(run)
    assert (options.max_tokens, options.overflow, options.chat_template) == (99, "reject", "{{ 1 }}")
    assert (options.model, options.device, options.batch_tokens) == (spec.model, "cpu", 7)
    assert (spec.dtype, options.dtype) == ("float32", "bfloat16")
    moved = dataclasses.replace(spec, version="0" * 40)
    assert moved.model_options({}).revision == "0" * 40
    assert moved.model_options({"model": "elsewhere"}).revision is None
    assert kept < set(json.loads(spec.to_json()))


def test_a_scorer_that_lacks_an_option_it_was_fitted_with_is_refused(tiny_scorer: LARFScorer) -> None:
    """A default in its place might not be what its scores were computed with."""
    for option in dataclasses.fields(EncodingOptions):
        written = json.loads(tiny_scorer.spec.to_json())
        del written[option.name]
        with pytest.raises(ScorerError, match=f"not a fitted scorer: '{option.name}'"):
            ScorerSpec.from_json(json.dumps(written), "spec")
