"""The sections of a recipe: which keys there are, what each may hold, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ..deciding.rules import Rule, UnscorablePolicy
from ..deciding.thresholds import Threshold
from ..errors import DataError, PublishError, ReferencesError, RowFormatError, ThresholdError, unknown_name
from ..models.options import FIT_OPTIONS, RUN_OPTIONS, UNKEPT_OPTIONS, RunOptions, check_run_options
from ..pushing import Destination
from ..rows.formats import FORMAT_NAMES
from ..rows.reading import Reading, check_join
from ..scoring.columns import SCORE
from ..scoring.formula_names import Formula, Turns, find_misplaced
from ..scoring.references import require_one_choice
from ..scoring.weights import WeightRange
from ..validation.limits import LEAST_ROWS
from .fields import Section, Text, with_model_options
from .yaml_text import KeyFaultError

RULES = get_args(Rule)
REPLACED_BY = {
    f"threshold.{rule}": [*(other for other in RULES if other != rule), *([] if rule == "calibrated" else ["harmless"])]
    for rule in RULES
}
"""Keys that go when an override sets another: one that names a rule means that one alone."""

_FITTING = ("references", "unsafe", "safe", "formula", "prompts", "other", "top_k", "rank")
"""Keys of the section `scorer` that are arguments of `LARFScorer.fit`, beside the model, its options and the layer."""


def _require_format(value: str) -> str:
    if value not in FORMAT_NAMES:
        raise ValueError(unknown_name("format", value, FORMAT_NAMES))
    return value


def _require_join(value: str) -> str:
    try:
        return check_join(value)
    except RowFormatError as error:
        raise ValueError(str(error)) from None


def _require_blocks(value: object) -> object:
    if value == "auto":
        return value
    listed = value if isinstance(value, list) else [value]
    wrong = not listed or any(type(block) is not int or block < 0 for block in listed)
    if wrong or len(set(listed)) < len(listed):
        raise ValueError(f"a block from 0, a list of different ones, or auto, not {value!r}")
    return value


Blocks = Annotated[int | list[int] | Literal["auto"], BeforeValidator(_require_blocks)]


class SourceSection(Section):
    """Where the rows are. See `open_source`; `Reading` for `columns` and `join`; `plan_shards` for `shard_rows`."""

    path: Text
    split: Text | None = None
    revision: Text | None = None
    config: Text | None = None
    field: Text | None = None
    format: Annotated[str, AfterValidator(_require_format)] = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    join: Annotated[str, AfterValidator(_require_join)] | None = None
    shard_rows: int | None = Field(None, ge=1)

    def reading(self) -> str:
        """How rows are read, as text."""
        return Reading(self.format, self.columns, self.join).to_text()


@with_model_options
class ScorerSection(Section):
    """How rows are scored: `from` a fitted scorer, or by one fitted now on `model` at `layer`.

    `layer: auto` searches the model first, once; see `find_safety_layers`. With `from`, `model` says where the same
    weights are on this machine, and `revision` is the scorer's. `turns` and `spans` are those of
    `LARFScorer.with_options`. The other keys are the arguments of `LARFScorer.fit`, and the options of `ModelOptions`.
    """

    from_: Text | None = Field(None, alias="from")
    model: Text | None = None
    layer: Blocks | None = None
    revision: Text | None = None
    references: Text | None = None
    unsafe: Text | None = None
    safe: Text | None = None
    strict_references: bool = False
    formula: Formula = "larf"
    prompts: Text | None = None
    other: Text | None = None
    top_k: int | None = Field(None, ge=1)
    rank: int | None = Field(None, ge=1)
    turns: Turns | None = None
    spans: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_trust(cls, values: Any) -> Any:
        """A recipe may be a stranger's: only the user's own command or call lets a model's code run."""
        if isinstance(values, dict) and "trust_remote_code" in values:
            raise KeyFaultError(
                "trust_remote_code",
                "no recipe can allow a model's own code; if you trust it, pass --trust-remote-code to "
                "`larf-curate run` (from Python: trust_remote_code=True)",
            )
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.from_ is not None:
            fit_alone = {"layer", "strict_references", *_FITTING, *FIT_OPTIONS} - {"revision", *RUN_OPTIONS}
            for name in type(self).model_fields:
                if name in fit_alone & self.model_fields_set:
                    raise KeyFaultError(name, "belongs to fitting; a scorer that comes `from` somewhere is fitted")
            return self
        if self.model is None or (self.layer is None and self.formula in ("larf", "subspace")):
            raise ValueError("give model and layer, or from (a fitted scorer); influence and loss_gap need no layer")
        if misplaced := find_misplaced(self.formula, vars(self)):
            raise KeyFaultError(*misplaced)
        try:
            require_one_choice(self.references, self.unsafe, self.safe)
        except ReferencesError as error:
            key = next(name for name in ("references", "unsafe", "safe") if getattr(self, name) is not None)
            raise KeyFaultError(key, str(error)) from None
        return self

    @property
    def layers(self) -> list[int]:
        """The blocks to read; none if a search is to find one."""
        return self.layer if isinstance(self.layer, list) else [self.layer] if isinstance(self.layer, int) else []

    def fit_arguments(self) -> dict[str, Any]:
        """The arguments of `LARFScorer.fit` that a recipe may hold, without those that are left out."""
        layer = {} if self.layer is None else {"layer": self.layers or "auto"}
        named = {"model": self.model, **layer, "revision": self.revision}
        return named | self._present((*_FITTING, *FIT_OPTIONS))

    def model_options(self) -> dict[str, Any]:
        """The arguments of `ModelOptions.of`, without those that are left out."""
        return self._present(("model", *FIT_OPTIONS))

    def run_options(self) -> RunOptions:
        """Those for the loading of the scorer. One that is fitted now is loaded as it was fitted."""
        return check_run_options(self._present(UNKEPT_OPTIONS if self.from_ is None else RUN_OPTIONS))

    def _present(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: value for name in names if name in type(self).model_fields and (value := getattr(self, name))}


class WeightSection(Section):
    """The scores between which the training weights of rows fall from 1 to 0. See `WeightRange`."""

    lower: float = Field(allow_inf_nan=False)
    upper: float = Field(allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.to_range()
        except ThresholdError as error:
            raise KeyFaultError("upper", str(error)) from None
        return self

    def to_range(self) -> WeightRange:
        """The same as the scores are weighed by."""
        return WeightRange(self.lower, self.upper)


class ThresholdSection(Section):
    """What is removed: one rule. See `Threshold`; `harmless` are scored rows for `calibrated`.

    With `per_split`, the rule is fitted to each split of `source: {split: all}` by itself. With
    `weight`, rows also get a training weight: the column `larf_weight`.
    """

    max_score: float | None = Field(None, allow_inf_nan=False)
    drop_top: int | None = Field(None, ge=0)
    drop_fraction: float | None = Field(None, ge=0, le=1)
    calibrated: float | None = Field(None, gt=0, lt=1)
    harmless: Text | None = None
    per_split: bool = False
    weight: WeightSection | None = None
    unscorable: UnscorablePolicy = "separate"

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = [rule for rule in RULES if getattr(self, rule) is not None]
        if len(named) != 1:
            raise ValueError(f"give one of {', '.join(RULES)}" + (f", not {' and '.join(named)}" if named else ""))
        if self.harmless is not None and self.calibrated is None:
            raise KeyFaultError("harmless", "belongs to calibrated")
        return self

    @property
    def rule(self) -> tuple[Rule, float]:
        """Name and amount."""
        return next((rule, getattr(self, rule)) for rule in RULES if getattr(self, rule) is not None)

    def to_threshold(self) -> Threshold:
        """The rule as a `Threshold`. One that is calibrated without `harmless` rows is given the scorer's own later.

        Raises:
            DataError: `harmless` cannot be read, or has no scores.
            ThresholdError: it has too few of them.
        """
        from ..engines.local_files import read_scores
        from ..sources.files import open_source

        rule, amount = self.rule
        if rule != "calibrated":
            make: Callable[..., Threshold] = getattr(Threshold, rule)
            return make(amount, unscorable=self.unscorable)
        if self.harmless is None:
            return Threshold(rule, amount, unscorable=self.unscorable)
        source = open_source(self.harmless)
        if SCORE not in source.schema.names:
            raise DataError(
                f"threshold.harmless: {self.harmless} has no column {SCORE!r}: run `larf-curate score` first"
            )
        return Threshold.calibrated(amount, read_scores(source), unscorable=self.unscorable)


class AuditSection(Section):
    """Whether the score says which rows do damage is measured when the run has ended. See `larf_curate.audit`.

    `model` is the one on which damage is measured: that of the scorer if it is left out.
    """

    rows: int = Field(500, ge=LEAST_ROWS)
    model: Text | None = None
    prompts: Text | None = None

    def in_words(self) -> str:
        """What is measured on which model."""
        return f"{self.rows:,} rows, on {self.model or 'the model of the scorer'}"


class PublishSection(Section):
    """Where the results go on the Hub when the run has ended. See `larf_curate.publishing.push_run`."""

    repo: Text
    private: bool = True
    removed: bool = False
    examples: int = Field(0, ge=0, le=100)
    revision: Text | None = None
    create_pr: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.destination()
        except PublishError as error:
            raise KeyFaultError("repo", str(error)) from None
        return self

    def in_words(self) -> str:
        """What is published where, and who can read it."""
        readers = "private, if it is new" if self.private else "PUBLIC, if it is new"
        removed = "kept and removed rows" if self.removed else "kept rows, without the removed ones"
        examples = f", and {self.examples} removed rows as examples on the card" if self.examples else ""
        return f"to {self.repo} ({readers}): {removed}{examples}"

    def destination(self) -> Destination:
        """The dataset on the Hub."""
        return Destination(self.repo, private=self.private, revision=self.revision, create_pr=self.create_pr)
