"""One declaration of each setting of a validation: what derives from it agrees with it."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

from larf_curate import validate
from larf_curate.cli.validation import validate as command
from larf_curate.errors import DataError, LarfError, ModelError
from larf_curate.models.options import FIT_OPTIONS, FitOptions, declared
from larf_curate.recipe.validation import TrainingSection, ValidateSection
from larf_curate.validation.settings import AskingSettings, ComparingSettings, TrainingSettings, ValidateOptions

SETTINGS = (ComparingSettings, TrainingSettings, AskingSettings)


def test_the_options_written_out_for_type_checkers_are_those_declared():
    assert get_type_hints(ValidateOptions) == get_type_hints(ComparingSettings) | get_type_hints(FitOptions)


def test_the_command_and_the_recipe_have_every_setting_with_its_default():
    parameters = inspect.signature(command).parameters
    for settings, section in zip(SETTINGS, (ValidateSection, TrainingSection, ValidateSection), strict=True):
        for option in declared(settings).values():
            default = option.default
            text = ", ".join(default) or None if isinstance(default, tuple) else default
            assert parameters[option.name].default == text, option.name
            key = section.model_fields[option.name].get_default(call_default_factory=True)
            assert key == (list(default) if isinstance(default, tuple) else default), option.name
            assert option.about.help in (settings.__doc__ or "")
    assert set(FIT_OPTIONS) < set(parameters)


@pytest.mark.parametrize(
    ("settings", "values", "error"),
    [
        (ComparingSettings, {"seeds": 0}, "seeds must be 1 or more, not 0"),
        (ComparingSettings, {"rows": 3}, "rows must be 4 or more, not 3"),
        (ComparingSettings, {"arms": ["best"]}, "there is no arm 'best'"),
        (ComparingSettings, {"remedies": ["hope"]}, "there is no remedy 'hope'"),
        (ComparingSettings, {"remedies": ["safe-lora"]}, "safe-lora needs the model before its alignment"),
        (AskingSettings, {"most_prompts": 3}, "most_prompts must be 16 or more, not 3"),
        (AskingSettings, {"answer_tokens": 0}, "answer_tokens must be 1 or more"),
        (AskingSettings, {"judges": []}, "give at least one judge"),
        (TrainingSettings, {"warmup": 1.0}, "warmup must be a share"),
        (TrainingSettings, {"method": "prefix"}, "method must be lora or full"),
        (TrainingSettings, {"method": "full", "targets": ["q_proj"]}, "targets are those of an adapter"),
        # Of another type than is declared.
        (ComparingSettings, {"rows": "24"}, "rows must be a whole number, not '24'"),
        (ComparingSettings, {"rows": 12.5}, "rows must be a whole number, not 12.5"),
        (ComparingSettings, {"seeds": True}, "seeds must be a whole number, not True"),
        (ComparingSettings, {"seeds": None}, "seeds must be a whole number, not None"),
        (ComparingSettings, {"arms": None}, "arms must be a list of names, not None"),
        (ComparingSettings, {"arms": [None]}, "there is no arm 'None'"),
        (ComparingSettings, {"remedies": ["lox", 1]}, "there is no remedy 1"),
        (ComparingSettings, {"base_model": " "}, "base_model must be text that is not blank"),
        (AskingSettings, {"whole_answers": "no"}, "whole_answers must be True or False, not 'no'"),
        (TrainingSettings, {"rank": 8.5}, "training: rank must be a whole number, not 8.5"),
        (TrainingSettings, {"learning_rate": "1e-4"}, "training: learning_rate must be a number, not '1e-4'"),
        (TrainingSettings, {"learning_rate": float("nan")}, "learning_rate must be more than 0"),
    ],
)
def test_a_wrong_value_is_refused_by_name(settings, values, error):
    with pytest.raises(LarfError, match=error) as caught:
        settings(**values)
    assert isinstance(caught.value, DataError | ModelError)


def test_numbers_of_any_kind_are_the_same_settings():
    """A finished arm is found again by its settings: 3 and 3.0 epochs must be one training."""
    given = TrainingSettings(rank=np.int64(4), epochs=3, learning_rate=np.float32(0.5))
    assert repr(given) == repr(TrainingSettings(rank=4, epochs=3.0, learning_rate=0.5))
    assert json.dumps(dataclasses.asdict(given))
    assert ComparingSettings(rows=np.int32(24)).rows == 24
    assert ComparingSettings(remedies=["lox"], base_model=Path("before")).base_model == "before"


def test_settings_are_the_same_whatever_sequence_they_are_given():
    given = ComparingSettings(arms=["matched", "removed"], remedies=["lox", "safe-lora"], base_model="demo")
    assert given.arms == ("none", "removed", "matched")
    assert given.remedies == ("safe-lora", "lox")
    assert given == ComparingSettings(**dataclasses.asdict(given))
    assert hash(AskingSettings(prompts=["a", "b"])) == hash(AskingSettings(prompts=("a", "b")))


def test_a_name_alone_is_given_as_it_is():
    def mine(_prompt: str, _answer: str) -> bool:
        return True

    assert ComparingSettings(arms="removed").arms == ("none", "removed")
    assert ComparingSettings(arms="removed, matched", remedies="merging").names == (
        *("none", "removed", "matched"),
        "merging",
    )
    assert AskingSettings(judges="wording").judges == ("wording",)
    assert AskingSettings(judges=mine).judges == (mine,)


def test_a_dataset_that_is_not_split_is_refused_with_how_to_split_it():
    with pytest.raises(DataError, match=r"takes the parts of a dataset, Threshold\.drop_top.* not list"):
        validate([{"larf_score": 0.5}], "nowhere")
