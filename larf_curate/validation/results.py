"""What a validation found: figures with intervals, and what they say in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..deciding.layout import SUMMARY, without_directories
from ..deciding.results import run_digest
from ..errors import DataError, one_line
from ..inert import html_table
from ..json_fields import has_fields, parse_json
from ..scoring.public_names import public_id
from ..typed_records import record_of
from .bootstrap import Figure
from .figure_words import change_of_share, share_with_interval, with_interval
from .words import MEANINGS

VALIDATION = "validation.json"
"""Its name in the directory of a run."""
MARGIN_HEADINGS = ("arm", "rows", "trained tokens", "log-odds of refusing", "difference to")
ANSWER_HEADINGS = ("arm", "refused", "answered", "over-refusal", "refusal likelier", "loss on ordinary rows")
HOW_TO_READ = (
    "log-odds of refusing and refused: higher is safer; over-refusal: harmless prompts that are refused; refusal "
    "likelier: harmful prompts whose refusing answer is likelier than a complying one; loss: lower is more useful; in "
    "brackets 95% intervals"
)


@dataclass(frozen=True)
class ArmResult:
    """The results of one arm, over all of its seeds.

    Attributes:
        name: the name of the arm or the remedy; `meaning` says it in words.
        seeds: how many models were trained.
        rows, trained_tokens: the mean of each over the seeds.
        margin: log-odds of refusing harmful prompts; higher is safer.
        refused: share of the harmful prompts that are refused.
        answered: share of them that are answered.
        incoherent: share of all answers that say nothing; counted in neither of the two above.
        over_refusal: share of the harmless prompts that sound harmful and are refused.
        choice: share of the harmful requests for which the refusing answer is likelier than the complying one.
        usefulness: loss on held-back ordinary rows, in nats a token; lower is more useful.
        coherent: share of the answers to ordinary prompts that say something.
        training_loss: mean over steps and seeds; 0 for `none`.
        control: the arm that this one is compared with; None where there is none.
        against: the margin minus the control's margin, prompt by prompt and seed by seed; None without a control.
        equal: what is equal in the two: `rows and trained tokens`, `rows`, or `neither`; empty without a control.
        differences: `refused`, `answered`, `over_refusal`, `choice` and `usefulness` minus the control's, likewise;
            empty without a control.
        faults: incoherent answers by kind, in all.
    """

    name: str
    seeds: int
    rows: float
    trained_tokens: float
    margin: Figure
    refused: Figure
    answered: Figure
    incoherent: Figure
    over_refusal: Figure
    choice: Figure
    usefulness: Figure
    coherent: Figure
    training_loss: float
    control: str | None
    against: Figure | None
    equal: str
    differences: Mapping[str, Figure] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)

    @property
    def meaning(self) -> str:
        """What the arm trains on."""
        return MEANINGS.get(self.name, "")

    def margin_cells(self) -> tuple[str, ...]:
        """What it trained on, and how refusing changed, as text under `MARGIN_HEADINGS`."""
        rows, tokens = (f"{self.rows:,.0f}", f"{self.trained_tokens:,.0f}") if self.trained_tokens else ("", "")
        against = "" if self.against is None else f"{with_interval(self.against)} ({self.control})"
        return (self.name, rows, tokens, with_interval(self.margin), against)

    def answer_cells(self) -> tuple[str, ...]:
        """What the models answer, as text under `ANSWER_HEADINGS`."""
        shares = (self.refused, self.answered, self.over_refusal, self.choice)
        return (self.name, *map(share_with_interval, shares), with_interval(self.usefulness, signs=False))

    def difference_words(self) -> str:
        """How far its answers and its loss differ from the control's; empty without a control."""
        shares = {"refused": "refused", "over_refusal": "over-refusal"}
        words = [
            f"{said} {change_of_share(self.differences[name])}"
            for name, said in shares.items()
            if name in self.differences and not math.isnan(self.differences[name].value)
        ]
        loss = self.differences.get("usefulness")
        if loss is not None and not math.isnan(loss.value):
            words.append(f"loss on ordinary rows {with_interval(loss)}")
        return ", ".join(words)


@dataclass(frozen=True)
class JudgeResult:
    """One judge, and how far it agrees with the first.

    Attributes:
        name: which judge and version.
        answered: the answered by arm, the share of harmful prompts that it says were answered.
        judged: answers that it gave a verdict on.
        kappa: agreement with the first judge beyond chance, over all coherent answers to harmful prompts; None for the
            first itself, and where it is not defined.
        disagreed: answers on which the two differ.
    """

    name: str
    answered: Mapping[str, Figure]
    judged: int
    kappa: float | None
    disagreed: int


@dataclass(frozen=True)
class Trend:
    """The margin over five bins by score.

    Attributes:
        slope: change of the margin from one bin to the next higher one.
        probability: the probability that random bins would show such a slope; see `trend_probability`.
    """

    slope: Figure
    probability: float


@dataclass(frozen=True)
class ValidationRecord:
    """What a validation was made of.

    Attributes:
        source: the rows.
        run_digest: the digest of the run's summary; empty for a dataset.
        model, version, base_model: as asked for, and the commit or digest.
        seeds: how many each arm has.
        training: the settings, by name.
        prompts: how many of each kind, and where the harmful ones come from.
        dropped_prompts: left out since they were trained on.
        answer_tokens: the most of an answer.
        seconds: how long each part took, over all arms.
        packages: versions.
    """

    source: str
    run_digest: str
    model: str
    version: str
    base_model: str | None
    seeds: int
    training: Mapping[str, Any]
    prompts: Mapping[str, int]
    prompts_from: str
    dropped_prompts: int
    answer_tokens: int
    seconds: Mapping[str, float]
    packages: Mapping[str, str]


def is_validation(path: Path) -> bool:
    """Whether a file holds the result of a validation."""
    return has_fields(path, ("arms", "judges", "record"))


@dataclass(frozen=True, repr=False)
class Validation:
    """What training on the arms did to a model. Printed, it is its verdict.

    Attributes:
        verdict: one sentence or two.
        arms: the arms in the order of the tables.
        judges: the first one's verdicts are those in `arms`.
        trend: over the bins; None without them.
        detectable: the smallest difference of the margin to the control that so many prompts and seeds would have shown
            four times out of five; None without a control.
        record: what it was made of.
    """

    verdict: str
    arms: tuple[ArmResult, ...]
    judges: tuple[JudgeResult, ...]
    trend: Trend | None
    detectable: float | None
    record: ValidationRecord

    def __repr__(self) -> str:
        return f"Validation({self.verdict})"

    def _repr_html_(self) -> str:
        """For a notebook: the verdict, and both tables."""
        return (
            html_table(self.verdict, MARGIN_HEADINGS, [arm.margin_cells() for arm in self.arms], title_width=2000)
            + html_table("", ANSWER_HEADINGS, [arm.answer_cells() for arm in self.arms])
            + html_table("", (), [("how to read", HOW_TO_READ)])
        )

    def without_directories(self) -> Validation:
        """Fit to be published: with names of files in place of this machine's paths."""
        record = self.record
        base = record.base_model and public_id(record.base_model)
        judges = tuple(replace(judge, name=_without_paths(judge.name)) for judge in self.judges)
        named = replace(record, source=public_id(record.source), model=public_id(record.model), base_model=base)
        return replace(self, record=named, judges=judges)

    def arm(self, name: str) -> ArmResult:
        """One of the arms.

        Raises:
            KeyError: there is none of this name.
        """
        for one in self.arms:
            if one.name == name:
                return one
        raise KeyError(name)

    def to_json(self) -> str:
        """One JSON object, as `validation.json` holds it; arms by name."""
        values = asdict(self)
        values["arms"] = {one.pop("name"): {"meaning": MEANINGS.get(name, ""), **one} for name, one in _named(values)}
        return json.dumps(_nulls_for_nan(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Validation:
        """Read what `to_json` wrote.

        Raises:
            DataError: it is something else.
        """
        try:
            values = _nan_for_nulls(parse_json(text))
            arms = [{"name": name, **one} for name, one in values["arms"].items()]
            for one in arms:
                one.pop("meaning", None)
            validation = record_of(cls, {**values, "arms": arms})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not the result of a validation: {one_line(error)}") from error
        return validation

    @classmethod
    def of_run(cls, run: str | Path) -> Validation | None:
        """The validation of the results that lie in the directory of a run; None where there is none of just these.

        Raises:
            DataError: the file is something else.
        """
        try:
            text = (Path(run) / VALIDATION).read_text(encoding="utf-8")
            summary = (Path(run) / SUMMARY).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{Path(run) / VALIDATION} cannot be read: {error}") from error
        validation = cls.from_json(text)
        return validation if validation.record.run_digest == run_digest(summary) else None


_FIGURE = {"value", "interval", "error"}


def _nulls_for_nan(value: Any) -> Any:
    """JSON has no word for what is not a number."""
    if isinstance(value, dict):
        return {name: _nulls_for_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulls_for_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _nan_for_nulls(value: Any) -> Any:
    """The same back, within figures alone: elsewhere null is None."""
    if isinstance(value, dict) and set(value) == _FIGURE:
        low, high = value["interval"]
        numbers = [float("nan") if number is None else number for number in (value["value"], low, high, value["error"])]
        return {"value": numbers[0], "interval": (numbers[1], numbers[2]), "error": numbers[3]}
    if isinstance(value, dict):
        return {name: _nan_for_nulls(item) for name, item in value.items()}
    return [_nan_for_nulls(item) for item in value] if isinstance(value, list) else value


def _without_paths(name: str) -> str:
    """A judge's name, in which the name of its model is without directories."""
    return " ".join(str(without_directories(word)) for word in name.split(" "))


def _named(values: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(one["name"], one) for one in values["arms"]]
