"""The recipe's section `validate`: what is trained on, asked and judged after the run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ..answering.prompts import LEAST_PROMPTS
from ..errors import DataError, ModelError
from ..validation.arms import parse_arms
from ..validation.request import DEFAULT_ARMS, request_of
from ..validation.training import TrainingSettings
from ..validation.words import Remedy
from .fields import Section, Text
from .yaml_text import KeyFaultError

if TYPE_CHECKING:
    from pathlib import Path

    from ..models.options import ModelOptions
    from ..validation.results import Validation

_DEFAULT = TrainingSettings()


class TrainingSection(Section):
    """How every arm is trained. See `TrainingSettings`."""

    method: Literal["lora", "full"] = _DEFAULT.method
    rank: int = _DEFAULT.rank
    learning_rate: float = _DEFAULT.learning_rate
    epochs: float = _DEFAULT.epochs
    batch_rows: int = _DEFAULT.batch_rows
    warmup: float = _DEFAULT.warmup

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


class ValidateSection(Section):
    """What to do after the run to find out whether it helped. See `larf_curate.validate`.

    `model` is the scorer's if it is left out; `base_model` the same before its alignment, which some remedies need.
    """

    model: Text | None = None
    base_model: Text | None = None
    arms: list[str] = Field(default_factory=lambda: list(DEFAULT_ARMS))
    remedies: list[Remedy] = Field(default_factory=list)
    rows: int | None = Field(None, ge=1)
    seeds: int = Field(3, ge=1)
    judges: list[Text] = Field(default_factory=lambda: ["wording"])
    prompts: Text | None = None
    most_prompts: int | None = Field(None, ge=LEAST_PROMPTS)
    answer_tokens: int = Field(48, ge=1)
    whole_answers: bool = False
    training: TrainingSection = TrainingSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            parse_arms(self.arms)
        except DataError as error:
            raise KeyFaultError("arms", str(error)) from None
        return self

    def require_packages(self) -> None:
        """Say that a package is missing before rows are scored for hours.

        Raises:
            MissingExtraError: trl, peft or accelerate is not installed.
        """
        from ..validation.training import require_training_packages

        require_training_packages()

    def run(self, home: Path, model: ModelOptions) -> Validation:
        """Validate a finished run, and write what came of it beside its rows.

        Args:
            home: directory of the run.
            model: the scorer's model, and how it is loaded.

        Raises:
            LarfError: anything cannot be used.
        """
        from ..publishing.write_validation import write_validation
        from ..validation.run import run_validation
        from ..validation.scored_rows import ScoredRows

        request = request_of(
            ScoredRows.open(home),
            model if self.model is None else replace(model, model=self.model, revision=None),
            arms=self.arms,
            remedies=self.remedies,
            judges=self.judges,
            prompts=self.prompts,
            rows=self.rows,
            seeds=self.seeds,
            most_prompts=self.most_prompts,
            base_model=self.base_model,
            training=self.training.settings(),
            answer_tokens=self.answer_tokens,
            whole_answers=self.whole_answers,
        )
        found = run_validation(request)
        write_validation(found, home)
        return found
