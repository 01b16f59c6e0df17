"""What a validation is to do, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from ..cache import cache_directory
from ..errors import ModelError
from ..models.locating import locate
from ..models.options import ModelOptions
from ..models.quantising import Quantised
from ..models.shape import CustomCodeError, shape_of
from .arms import BEGIN_ALIKE, ArmSizes, count_rows
from .finished import validation_digest
from .judge_choice import choose_judge
from .judging import AnswerJudge
from .measuring import AnswerLimits
from .scored_rows import ScoredRows
from .settings import NEED_UNALIGNED, AskingSettings, ComparingSettings, TrainingSettings
from .words import UNTRAINED

ArmAndSeed = tuple[str, int]


def groups_of(comparing: ComparingSettings, training: TrainingSettings) -> tuple[tuple[ArmAndSeed, ...], ...]:
    """The models that are to be trained, those together that begin with the same training, which is then done once.

    An adapter is what can be taken over: where all weights are trained, each model is alone.

    >>> comparing = ComparingSettings(arms=["removed", "all"], remedies=["merging"], seeds=1)
    >>> groups_of(comparing, TrainingSettings())
    ((('removed', 0),), (('all', 0), ('merging', 0)))
    """
    names = [name for name in comparing.names if name != UNTRAINED]
    alike = [name for name in names if name in BEGIN_ALIKE] if training.method == "lora" else []
    groups = [alike if name in alike else [name] for name in names if name not in alike[1:]]
    return tuple(tuple((name, seed) for name in group) for seed in range(comparing.seeds) for group in groups)


def require_weights_as_they_are(model: ModelOptions, comparing: ComparingSettings, training: TrainingSettings) -> None:
    """Find out before any work that quantised weights are asked for what cannot be done with them.

    Raises:
        ModelError: they are.
    """
    if model.dtype not in get_args(Quantised):
        return
    needing = [name for name in NEED_UNALIGNED if name in comparing.remedies]
    if needing:
        raise ModelError(f"the remedy {needing[0]} needs weights that are not quantised: take another dtype")
    if training.method == "full":
        raise ModelError(
            f"training: weights in {model.dtype} cannot be trained themselves: take method lora, or another dtype"
        )


def require_models(model: ModelOptions, comparing: ComparingSettings) -> None:
    """Find out before any work that a model is not there, or not the right one, also if only some arms need it.

    Raises:
        ModelError: one of them cannot be found, or the base model has other blocks than the model.
    """
    base_model = comparing.base_model
    locate(model.model, model.revision, model.base)
    if base_model is None:
        return
    locate(base_model)
    if not set(NEED_UNALIGNED).intersection(comparing.remedies):
        return
    try:
        shape, before = shape_of(model.model, model.revision, None, model.base), shape_of(base_model, None, None)
    except CustomCodeError:
        return  # the shapes of their layers are compared once they are loaded
    if (shape.total_blocks, shape.block_parameters) != (before.total_blocks, before.block_parameters):
        raise ModelError(
            f"{base_model} is not {model.model} before its alignment: it has {before.total_blocks} blocks with "
            f"{before.block_parameters:,} weights, {model.model} {shape.total_blocks} with {shape.block_parameters:,}"
        )


@dataclass(frozen=True, eq=False)
class ValidationRequest:
    """What is to be trained, asked and judged.

    Attributes:
        scored: the rows.
        model: the model that is trained.
        comparing, training, asking: see these classes.
        work: directory of finished arms; None for one in the cache.
        judges: the first one's verdicts count.

    Raises:
        DataError: there are fewer rows than an arm needs.
        ModelError: a judge cannot be used, two have the same name, or the weights are quantised and what is asked for
            needs them as they are.
    """

    scored: ScoredRows
    model: ModelOptions
    comparing: ComparingSettings = field(default_factory=ComparingSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    asking: AskingSettings = field(default_factory=AskingSettings)
    work: Path | None = None
    judges: tuple[AnswerJudge, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name, kind in (("training", TrainingSettings), ("asking", AskingSettings)):
            if not isinstance(given := getattr(self, name), kind):
                raise ModelError(f"{name} must be {kind.__name__}(...), not {type(given).__name__}")
        judges = tuple(choose_judge(judge) for judge in self.asking.judges)
        names = [judge.name for judge in judges]
        if len(set(names)) < len(names):
            raise ModelError(f"two judges have one name: {', '.join(names)}")
        object.__setattr__(self, "judges", judges)
        require_weights_as_they_are(self.model, self.comparing, self.training)
        _ = self.counts

    @property
    def counts(self) -> ArmSizes:
        """Rows of the arms."""
        return count_rows(self.scored, self.comparing.names, self.comparing.rows)

    @property
    def groups(self) -> tuple[tuple[ArmAndSeed, ...], ...]:
        """Every model that is to be trained, by name and seed, in the order in which they are; see `groups_of`."""
        return groups_of(self.comparing, self.training)

    @property
    def trained(self) -> tuple[ArmAndSeed, ...]:
        """The same one after the other: all arms of a seed together."""
        return tuple(model for group in self.groups for model in group)

    @property
    def limits(self) -> AnswerLimits:
        """How long answers are."""
        return AnswerLimits(self.asking.answer_tokens, stop_at_refusal=not self.asking.whole_answers)

    @property
    def home(self) -> Path:
        """Where finished arms are kept."""
        if self.work is not None:
            return self.work
        return (
            cache_directory()
            / "validations"
            / validation_digest(str(Path(self.scored.name).resolve()), self.model.model)[:16]
        )
