"""A validation in words: the tables, sentences and captions of the terminal, the card and the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..validation.figure_words import share_with_interval, size
from ..validation.results import (
    ANSWER_HEADINGS,
    HOW_TO_READ,
    MARGIN_HEADINGS,
    ArmResult,
    JudgeResult,
    Validation,
)


@dataclass(frozen=True)
class ArmTable:
    """A table with a line for each arm.

    Attributes:
        headings: the headings of its columns.
        lines: cells under these.
    """

    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ValidationText:
    """A validation as a card and a page print it.

    Attributes:
        verdict: a sentence or two.
        tables: what training did to refusing, and what the models answer.
        facts: names and values of what it was made of.
    """

    verdict: str
    tables: tuple[ArmTable, ...]
    facts: tuple[tuple[str, str], ...]


def validation_in_words(validation: Validation | None) -> ValidationText | None:
    """All that is said of a validation; None where there is none."""
    if validation is None:
        return None
    facts = tuple(line for line in describe_validation(validation) if line[0] != "verdict")
    return ValidationText(validation.verdict, validation_tables(validation), facts)


def validation_tables(validation: Validation) -> tuple[ArmTable, ...]:
    """Two tables with a line for each arm, each narrow enough for a terminal of 80 columns."""
    return (
        ArmTable(MARGIN_HEADINGS, tuple(arm.margin_cells() for arm in validation.arms)),
        ArmTable(ANSWER_HEADINGS, tuple(arm.answer_cells() for arm in validation.arms)),
    )


def describe_validation(validation: Validation) -> Iterator[tuple[str, str]]:
    """Names and values of what stands below the table."""
    record = validation.record
    counts = record.prompts
    yield "verdict", validation.verdict
    yield "how to read", HOW_TO_READ
    yield "model", f"{record.model}, {record.version}; {record.seeds} {'seed' if record.seeds == 1 else 'seeds'} an arm"
    training = ", ".join(f"{name} {_setting(value)}" for name, value in record.training.items())
    yield "training", f"{training} (trl {record.packages.get('trl', '?')}, peft {record.packages.get('peft', '?')})"
    dropped = f"; {record.dropped_prompts} left out, since they were trained on" if record.dropped_prompts else ""
    asked = f"{counts['harmful']} harmful ({record.prompts_from}), {counts['sensitive']} harmless that sound harmful"
    measured = f"losses on {counts['held_back_rows']} held-back rows; answers of at most {record.answer_tokens} tokens"
    yield "prompts", f"{asked}, {counts['ordinary']} ordinary; {measured}{dropped}"
    for judge in validation.judges:
        yield f"judge {judge.name}", describe_judge(judge, validation.judges[0])
    if len(validation.judges) == 1:
        yield "one judge alone", "whatever it takes for a refusal counts as one; add a guard model or an endpoint"
    trained = {arm.name: arm for arm in validation.arms if arm.trained_tokens}
    for arm in trained.values():
        control = trained.get(arm.control or "")
        if control is not None and arm.equal != "rows and trained tokens":
            yield f"{arm.name} and {control.name}", _sizes(arm, control)
    for arm in validation.arms:
        if words := arm.difference_words():
            yield f"{arm.name} minus {arm.control}", words
    if told := "; ".join(_faults(arm) for arm in validation.arms if arm.faults):
        yield "answers that say nothing", told
    if validation.detectable is not None:
        alone = ", as far as prompts go; how much other seeds differ is not known from one" if record.seeds == 1 else ""
        yield (
            "smallest effect",
            f"a difference of {size(validation.detectable)} would have shown four times out of five{alone}",
        )
    yield "time", ", ".join(f"{part} {seconds:,.0f} s" for part, seconds in record.seconds.items())


def _setting(value: object) -> str:
    """A setting of the training in words: of no names all are meant."""
    return (" and ".join(map(str, value)) or "all") if isinstance(value, list | tuple) else str(value)


def _faults(arm: ArmResult) -> str:
    """How many answers of an arm say nothing, and in what way."""
    kinds = ", ".join(f"{count} {fault}" for fault, count in arm.faults.items())
    return f"{arm.name} {share_with_interval(arm.incoherent)} ({kinds})"


def _sizes(arm: ArmResult, control: ArmResult) -> str:
    """In what two arms that are compared differ."""
    rows = f"{arm.rows:,.0f} rows each" if arm.equal == "rows" else f"{arm.rows:,.0f} and {control.rows:,.0f} rows"
    return f"{rows}, {arm.trained_tokens:,.0f} and {control.trained_tokens:,.0f} trained tokens"


def describe_judge(judge: JudgeResult, first: JudgeResult) -> str:
    """How many answers a judge judged, and how far it agrees with the first."""
    text = f"{judge.judged:,} answers judged"
    if judge is first:
        return text
    agreement = "kappa is not defined" if judge.kappa is None else f"kappa {judge.kappa:.2f}"
    return f"{text}; {agreement} with {first.name}, {judge.disagreed:,} judged otherwise"
