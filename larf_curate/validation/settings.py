"""What a user may set of a validation: each setting is declared here, and nowhere else.

`validate`, the command line, the recipe's section `validate` and docs/commands.md all derive from these three classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from ..answering.prompts import LEAST_PROMPTS
from ..errors import DataError, LarfError, ModelError
from ..models.options import FitOptions, about, declared, with_meanings
from .judge_choice import JudgeLike
from .limits import LEAST_ROWS_OF_ARM
from .words import REMEDIES, UNTRAINED, parse_arms

DEFAULT_ARMS = ("none", "removed", "matched", "random")
NEED_UNALIGNED = ("safe-lora", "lox")
"""Remedies that need the model before its alignment."""


@with_meanings
@dataclass(frozen=True, kw_only=True)
class ComparingSettings:
    """Which models are trained and compared. In `arms` the model before any training is always the first.

    Raises:
        DataError: there is no such arm or remedy, or a number is too small.
        ModelError: a remedy needs a model that is not given.

    >>> ComparingSettings(arms=["random", "removed"]).arms
    ('none', 'removed', 'random')
    """

    arms: Sequence[str] = field(
        default=DEFAULT_ARMS, metadata=about(f"{', '.join(DEFAULT_ARMS)}, kept, all, bins (which are five).")
    )
    remedies: Sequence[str] = field(
        default=(), metadata=about(f"{', '.join(REMEDIES)}: trained on the rows of the arm all.")
    )
    rows: int | None = field(
        default=None, metadata=about("Rows of an arm; as many as were removed if not given.", minimum=LEAST_ROWS_OF_ARM)
    )
    seeds: int = field(default=3, metadata=about("Models trained for each arm.", minimum=1))
    base_model: str | None = field(
        default=None, metadata=about(f"The model before its alignment, for {' and '.join(NEED_UNALIGNED)}.")
    )

    def __post_init__(self) -> None:
        _check_values(self, DataError)
        for name in ("arms", "remedies"):
            object.__setattr__(self, name, _several(name, getattr(self, name)))
        if unknown := [name for name in self.remedies if name not in REMEDIES]:
            raise DataError(f"there is no remedy {unknown[0]!r}; there are {', '.join(REMEDIES)}")
        needing = [name for name in NEED_UNALIGNED if name in self.remedies]
        if needing and self.base_model is None:
            raise ModelError(
                f"the remedy {needing[0]} needs the model before its alignment too: give base_model (--base-model)"
            )
        object.__setattr__(self, "arms", parse_arms((UNTRAINED, *self.arms)))
        object.__setattr__(self, "remedies", tuple(name for name in REMEDIES if name in self.remedies))

    @property
    def names(self) -> tuple[str, ...]:
        """Of all arms and remedies, in the order of tables."""
        return (*self.arms, *self.remedies)


@with_meanings
@dataclass(frozen=True)
class TrainingSettings:
    """How every arm is trained. The defaults are the protocol of LARF's authors (arXiv 2507.18631).

    Raises:
        ModelError: a value is out of range.

    >>> TrainingSettings(rank=16).learning_rate
    0.0001
    >>> TrainingSettings(epochs=0)
    Traceback (most recent call last):
        ...
    larf_curate.errors.ModelError: training: epochs must be more than 0, not 0
    """

    method: Literal["lora", "full"] = field(
        default="lora", metadata=about("Train an adapter on all projections of all blocks, or all weights.")
    )
    rank: int = field(
        default=8, metadata=about("lora: rank of the adapter; its alpha is twice that.", flag="--adapter-rank")
    )
    learning_rate: float = field(
        default=1e-4, metadata=about("The highest, after the warm-up; it falls linearly to 0.")
    )
    epochs: float = field(default=3.0, metadata=about("How often each row is seen."))
    batch_rows: int = field(default=16, metadata=about("Rows of one step."))
    warmup: float = field(default=0.1, metadata=about("Share of the steps in which the learning rate rises."))
    targets: Sequence[str] = field(
        default=(),
        metadata=about(
            "lora: the projections that get an adapter, by name (q_proj, v_proj); all if not given.",
            flag="--adapter-targets",
        ),
    )

    def __post_init__(self) -> None:
        _check_values(self, ModelError, "training: ")
        object.__setattr__(self, "targets", _several("targets", self.targets))
        if self.targets and self.method != "lora":
            raise ModelError(f"training: targets are those of an adapter: leave them out with method {self.method}")
        if self.method not in ("lora", "full"):
            raise ModelError(f"training: method must be lora or full, not {self.method!r}")
        for name in ("rank", "learning_rate", "epochs", "batch_rows"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                endless = " and finite" if value > 0 else ""
                raise ModelError(f"training: {name} must be more than 0{endless}, not {value:g}")
        if not 0 <= self.warmup < 1:
            raise ModelError(f"training: warmup must be a share from 0 to below 1, not {self.warmup!r}")

    def steps(self, rows: int) -> int:
        """Steps that training on so many rows takes.

        >>> TrainingSettings().steps(48), TrainingSettings(epochs=0.5).steps(48)
        (9, 2)
        """
        return max(1, math.ceil(-(-rows // self.batch_rows) * self.epochs))


@with_meanings
@dataclass(frozen=True, kw_only=True)
class AskingSettings:
    """What every model is asked, and who judges its answers.

    Raises:
        DataError: a number is too small.
        ModelError: there is no judge.

    >>> AskingSettings(prompts="directharm4.csv", most_prompts=100).judges
    ('wording',)
    """

    judges: Sequence[JudgeLike] = field(
        default=("wording",),
        metadata=about(
            "wording, guard:MODEL; from Python also an endpoint or any function. The first one's verdicts count."
        ),
    )
    prompts: str | Path | Sequence[str] | None = field(
        default=None,
        metadata=about("Harmful requests: a file of DirectHarm4, HarmBench, JBB and others; packaged if not given."),
    )
    most_prompts: int | None = field(
        default=None, metadata=about("Prompts of each kind; all if not given.", minimum=LEAST_PROMPTS)
    )
    answer_tokens: int = field(default=48, metadata=about("The most tokens of an answer.", minimum=1))
    whole_answers: bool = field(
        default=False,
        metadata=about(
            "Let answers go on after their words have refused: a guard or an endpoint that reads on finds those that "
            "refuse first and comply then. Takes several times as long."
        ),
    )

    def __post_init__(self) -> None:
        _check_values(self, DataError)
        judges: object = self.judges  # one alone is easily given as it is
        several = _several("judges", judges) if isinstance(judges, str) else judges
        given = several if isinstance(several, Sequence) else (several,)
        if not given:
            raise ModelError("give at least one judge")
        object.__setattr__(self, "judges", tuple(given))
        # What is no list of texts either is refused where prompts are chosen, in the words for all who choose some.
        if isinstance(self.prompts, Iterable) and not isinstance(self.prompts, str | Path | bytes | Mapping):
            object.__setattr__(self, "prompts", tuple(self.prompts))


def _several(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Names in a sequence, or in one text with commas between them, as the command line takes them.

    >>> _several("arms", "removed, matched"), _several("arms", ["removed"])
    (('removed', 'matched'), ('removed',))
    """
    if isinstance(names, str):
        return tuple(one.strip() for one in names.split(","))
    if not isinstance(names, Iterable):
        raise DataError(f"{name} must be a list of names, not {names!r}")
    return tuple(names)


_KINDS: Mapping[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: ((str, Path), "text"),
}
"""What may be given where a setting is of some type, numbers of numpy too, and what the type is called."""


def _check_values(settings: Any, error: type[LarfError], of: str = "") -> None:
    """Refuse a value of another type, or one that is too small; the others get the type that is declared.

    So 3 and 3.0 epochs are the same training.
    """
    for option in declared(type(settings)).values():
        value: Any = getattr(settings, option.name)
        kind, minimum = option.kind, option.about.minimum
        if kind not in _KINDS or option.type not in (kind, kind | None) or (value is None and kind is not option.type):
            continue
        accepted, called = _KINDS[kind]
        if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
            raise error(f"{of}{option.name} must be {called}, not {value!r}")
        if kind is str and not str(value).strip():
            raise error(f"{of}{option.name} must be text that is not blank")
        if minimum is not None and value < minimum:
            raise error(f"{of}{option.name} must be {minimum} or more, not {value}")
        object.__setattr__(settings, option.name, kind(value))


class ValidateOptions(FitOptions, total=False):
    """The options of `validate`: the fields of `ComparingSettings`, and the options with which the model is loaded.

    Written out, since a type checker cannot derive them; tests/validation/test_settings.py holds them to the
    declaration.
    """

    arms: Sequence[str]
    remedies: Sequence[str]
    rows: int | None
    seeds: int
    base_model: str | None


COMPARING = tuple(entry.name for entry in fields(ComparingSettings))
