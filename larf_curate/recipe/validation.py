"""The recipe's section `validate`: what is trained on, asked and judged after the run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from ..answering.judges import JudgeEndpoint
from ..errors import DataError, LarfError, ModelError
from ..models.options import declared
from ..validation.judge_choice import guard_named
from ..validation.run_settings import RunValidation
from ..validation.settings import AskingSettings, ComparingSettings, TrainingSettings
from ..validation.words import parse_arms
from .fields import Section, Text, with_settings
from .yaml_text import KeyFaultError

if TYPE_CHECKING:
    from ..models.options import ModelOptions


@with_settings(TrainingSettings)
class TrainingSection(Section):
    """How every arm is trained. See `TrainingSettings`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.settings()
        except ModelError as error:
            raise ValueError(str(error)) from None
        return self

    def settings(self) -> TrainingSettings:
        """The same as the training takes it."""
        return TrainingSettings(**self.model_dump())


@with_settings(ComparingSettings, AskingSettings)
class ValidateSection(Section):
    """What to do after the run to find out whether it helped. See `larf_curate.validate`.

    `model` is the scorer's if it is left out. With `judge_url` and `judge_model` an endpoint judges too, with the key
    in the environment variable that `judge_key_env` names. The other keys are the fields of `ComparingSettings` and
    `AskingSettings`. Each arm and seed is a task of the recipe's executor; arms that begin with the same training share
    one.
    """

    model: Text | None = None
    judge_url: Text | None = None
    judge_model: Text | None = None
    judge_key_env: Text | None = None
    training: TrainingSection = TrainingSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        values = vars(self)
        for key, check in (
            ("arms", lambda: parse_arms(values["arms"])),
            ("judges", lambda: [guard_named(judge) for judge in values["judges"]]),
            ("remedies", lambda: self._settings(ComparingSettings)),
            ("judges", lambda: self._settings(AskingSettings)),
            ("judge_url", self._endpoint),
        ):
            try:
                check()
            except LarfError as error:
                lacking = key == "remedies" and not isinstance(error, DataError)
                raise KeyFaultError("base_model" if lacking else key, str(error)) from None
        return self

    def _endpoint(self) -> JudgeEndpoint | None:
        return JudgeEndpoint.of(self.judge_url, self.judge_model, self.judge_key_env)

    def _settings(self, kind: type[Any]) -> Any:
        return kind(**{name: getattr(self, name) for name in declared(kind)})

    def settings(self, scorers: ModelOptions) -> RunValidation:
        """What is done when the rows are split.

        Args:
            scorers: the scorer's model, and how it is loaded.
        """
        model = scorers if self.model is None else replace(scorers, model=self.model, revision=None, base=None)
        return RunValidation(
            model,
            self._settings(ComparingSettings),
            self.training.settings(),
            self._settings(AskingSettings),
            self._endpoint(),
        )
