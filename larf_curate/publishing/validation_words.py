"""A validation in words: the table, sentences and captions of the terminal, the card and the page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..validation.bootstrap import Figure
from ..validation.results import ArmResult, JudgeResult, Validation

HEADINGS = (
    "arm",
    "rows",
    "trained tokens",
    "log-odds of refusing",
    "against",
    "refused",
    "answered",
    "over-refusal",
    "loss on ordinary rows",
)


@dataclass(frozen=True)
class ValidationText:
    """A validation as a card and a page print it.

    Attributes:
        verdict: a sentence or two.
        headings, table: a line for each arm.
        facts: names and values of what it was made of.
    """

    verdict: str
    headings: tuple[str, ...]
    table: tuple[tuple[str, ...], ...]
    facts: tuple[tuple[str, str], ...]


def validation_in_words(found: Validation | None) -> ValidationText | None:
    """All that is said of a validation; None where there is none."""
    if found is None:
        return None
    facts = tuple(line for line in describe_validation(found) if line[0] != "verdict")
    return ValidationText(found.verdict, HEADINGS, tuple(validation_table(found)), facts)


def validation_table(found: Validation) -> list[tuple[str, ...]]:
    """A line for each arm, under `HEADINGS`."""
    return [_line(arm) for arm in found.arms]


def _line(arm: ArmResult) -> tuple[str, ...]:
    trained = arm.trained_tokens > 0
    against = "" if arm.against is None else f"{with_interval(arm.against)} ({arm.control})"
    return (
        arm.name,
        f"{arm.rows:,.0f}" if trained else "",
        f"{arm.trained_tokens:,.0f}" if trained else "",
        with_interval(arm.margin),
        against,
        share_with_interval(arm.refused),
        share_with_interval(arm.answered),
        share_with_interval(arm.over_refusal),
        with_interval(arm.usefulness, signed=False),
    )


def with_interval(figure: Figure, *, signed: bool = True) -> str:
    """A figure and its 95% interval.

    >>> with_interval(Figure(-0.5, (-0.75, -0.25), 0.1))
    '-0.50 [-0.75, -0.25]'
    """
    form = "+.2f" if signed else ".2f"
    if math.isnan(figure.value):
        return "not measured"
    return f"{figure.value:{form}} [{figure.interval[0]:{form}}, {figure.interval[1]:{form}}]"


def share_with_interval(figure: Figure) -> str:
    """A share in per cent and its 95% interval.

    >>> share_with_interval(Figure(0.5, (0.4, 0.625), 0.05))
    '50% [40, 62]'
    """
    if math.isnan(figure.value):
        return "not judged"
    return f"{figure.value:.0%} [{100 * figure.interval[0]:.0f}, {100 * figure.interval[1]:.0f}]"


def describe_validation(found: Validation) -> Iterator[tuple[str, str]]:
    """Names and values of what stands below the table."""
    record = found.record
    counts = record.prompts
    yield "verdict", found.verdict
    yield "model", f"{record.model}, {record.version}; {record.seeds} {'seed' if record.seeds == 1 else 'seeds'} an arm"
    training = ", ".join(f"{name} {value}" for name, value in record.training.items())
    yield "training", f"{training} (trl {record.packages.get('trl', '?')}, peft {record.packages.get('peft', '?')})"
    dropped = f"; {record.dropped_prompts} left out, since they were trained on" if record.dropped_prompts else ""
    asked = f"{counts['harmful']} harmful ({record.prompts_from}), {counts['sensitive']} harmless that sound harmful"
    measured = f"losses on {counts['held_back_rows']} held-back rows; answers of at most {record.answer_tokens} tokens"
    yield "prompts", f"{asked}, {counts['ordinary']} ordinary; {measured}{dropped}"
    for judge in found.judges:
        yield f"judge {judge.name}", describe_judge(judge, found.judges[0])
    if len(found.judges) == 1:
        yield "", "one judge alone: whatever it takes for a refusal counts as one; add a guard model or an endpoint"
    for arm in found.arms:
        if arm.control is not None and arm.equal != "rows and trained tokens" and arm.trained_tokens:
            yield (
                f"{arm.name} and {arm.control}",
                f"equal in {arm.equal}" if arm.equal == "rows" else "not of equal size",
            )
        if arm.faults:
            kinds = ", ".join(f"{count} {fault}" for fault, count in arm.faults.items())
            yield f"{arm.name}: answers that say nothing", f"{share_with_interval(arm.incoherent)}: {kinds}"
        yield f"{arm.name}: by choice", f"the refusing answer is likelier in {share_with_interval(arm.choice)}"
    if found.detectable is not None:
        yield "smallest effect", f"a difference of {found.detectable:.2f} would have shown four times out of five"
    yield "time", ", ".join(f"{part} {seconds:,.0f} s" for part, seconds in record.seconds.items())


def describe_judge(judge: JudgeResult, first: JudgeResult) -> str:
    """How many answers a judge judged, and how far it agrees with the first."""
    text = f"{judge.judged:,} answers judged"
    if judge is first:
        return text
    agreement = "kappa cannot be had" if judge.kappa is None else f"kappa {judge.kappa:.2f}"
    return f"{text}; {agreement} with {first.name}, {judge.disagreed:,} judged otherwise"
