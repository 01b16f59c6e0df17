"""What a validation is to do, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..cache import cache_directory
from ..errors import DataError, ModelError
from ..models.options import ModelOptions
from .arms import REMEDIES, UNTRAINED, RowCounts, count_rows, parse_arms
from .finished import digest_of
from .judge_choice import JudgeLike, choose_judge
from .judging import AnswerJudge
from .measuring import AnswerLimits
from .scored_rows import ScoredRows
from .training import TrainingSettings

DEFAULT_ARMS = ("none", "removed", "matched", "random")
NEED_UNALIGNED = ("safe-lora", "lox")


@dataclass(frozen=True, eq=False)
class ValidationRequest:
    """What is to be trained, asked and judged.

    Attributes:
        scored: the rows.
        model: the model that is trained.
        arms, remedies: names; the model before training is always among the arms.
        rows: of an arm; None for as many as were removed.
        seeds: models trained for each arm.
        judges: the first one's verdicts count.
        prompts: harmful requests, or a file of them; None for the packaged ones.
        most_prompts: of each kind; None for all.
        base_model: the model before its alignment, which some remedies need.
        training: how.
        answer_tokens: the most of an answer.
        whole_answers: whether an answer goes on after its words have refused; see `AnswerLimits`.
        work: directory of finished arms; None for one in the cache.

    Raises:
        DataError: an arm is not known, or there are fewer rows than it needs.
        ModelError: a judge, a remedy or a number cannot be had.
    """

    scored: ScoredRows
    model: ModelOptions
    arms: tuple[str, ...] = DEFAULT_ARMS
    remedies: tuple[str, ...] = ()
    rows: int | None = None
    seeds: int = 3
    judges: tuple[AnswerJudge, ...] = field(default_factory=lambda: (choose_judge("wording"),))
    prompts: str | Path | tuple[str, ...] | None = None
    most_prompts: int | None = None
    base_model: str | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    answer_tokens: int = 48
    whole_answers: bool = False
    work: Path | None = None

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("seeds", self.seeds), ("answer_tokens", self.answer_tokens)):
            if value is not None and value < 1:
                raise DataError(f"{name} must be 1 or more, not {value}")
        if unknown := sorted(set(self.remedies) - set(REMEDIES)):
            raise ModelError(f"there is no remedy {unknown[0]!r}; there are {', '.join(REMEDIES)}")
        needing = [name for name in self.remedies if name in NEED_UNALIGNED]
        if needing and self.base_model is None:
            raise ModelError(
                f"the remedy {needing[0]} needs the model before its alignment too: give base_model (--base-model)"
            )
        if not self.judges:
            raise ModelError("give at least one judge")
        names = [judge.name for judge in self.judges]
        if len(set(names)) < len(names):
            raise ModelError(f"two judges have one name: {', '.join(names)}")
        _ = self.counts

    @property
    def counts(self) -> RowCounts:
        """Rows of the arms."""
        return count_rows(self.scored, (*self.arms, *self.remedies), self.rows)

    @property
    def trained(self) -> tuple[tuple[str, int], ...]:
        """Every model that is to be trained: name and seed, all arms of a seed together."""
        names = [name for name in (*self.arms, *self.remedies) if name != UNTRAINED]
        return tuple((name, seed) for seed in range(self.seeds) for name in names)

    @property
    def limits(self) -> AnswerLimits:
        """How long answers are."""
        return AnswerLimits(self.answer_tokens, stop_at_refusal=not self.whole_answers)

    @property
    def home(self) -> Path:
        """Where finished arms are kept."""
        if self.work is not None:
            return self.work
        return (
            cache_directory() / "validations" / digest_of(str(Path(self.scored.name).resolve()), self.model.model)[:16]
        )


def request_of(
    scored: ScoredRows,
    model: ModelOptions,
    *,
    arms: Sequence[str] = DEFAULT_ARMS,
    remedies: Sequence[str] = (),
    judges: Sequence[JudgeLike] = ("wording",),
    prompts: str | Path | Sequence[str] | None = None,
    **others: object,
) -> ValidationRequest:
    """A request from what a user writes; the other arguments are those of `ValidationRequest`.

    Raises:
        LarfError: as for `ValidationRequest`.
    """
    given = prompts if prompts is None or isinstance(prompts, str | Path) else tuple(prompts)
    return ValidationRequest(
        scored,
        model,
        arms=parse_arms((UNTRAINED, *arms)),
        remedies=tuple(name for name in REMEDIES if name in remedies) + tuple(sorted(set(remedies) - set(REMEDIES))),
        judges=tuple(choose_judge(judge) for judge in judges),
        prompts=given,
        **others,  # type: ignore[arg-type] # pydantic and typer have checked them, or Python raises
    )
