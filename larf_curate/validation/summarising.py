"""What every model did and how it was judged becomes figures with intervals, by arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .bootstrap import Values, difference, figure, slope, trend_probability
from .judged import Faults, JudgedAnswers, JudgedModel
from .judging import Verdict, cohens_kappa
from .measuring import Measured
from .results import ArmResult, JudgeResult, Trend
from .words import BINS, REMEDIES, UNTRAINED

_NEARLY_EQUAL = 0.05

Models = Sequence[tuple[Measured, JudgedModel]]


def control_of(name: str, arms: Sequence[str]) -> str | None:
    """The arm that one is compared with: rows like its own where there are such, at random or untrained else.

    >>> control_of("removed", ["none", "removed", "matched", "random"]), control_of("kept", ["none", "kept", "all"])
    ('matched', 'all')
    """
    if name == UNTRAINED:
        return None
    if name in ("kept", *REMEDIES):
        wanted: tuple[str, ...] = ("all", UNTRAINED)
    elif name in ("all", "random"):
        wanted = (UNTRAINED,)
    elif name == "matched":
        wanted = ("random", UNTRAINED)
    else:
        wanted = ("matched", "random", UNTRAINED)
    return next((control for control in wanted if control in arms and control != name), None)


def arm_results(arms: Mapping[str, Models], judge: str, refusal_judge: str | None) -> tuple[ArmResult, ...]:
    """The figures of every arm.

    Args:
        arms: the models of each, one a seed, in the order of the seeds; `none` has one.
        judge: the judge whose verdicts on which prompts were answered count.
        refusal_judge: the judge whose verdicts on which prompts were refused count; None where no judge says that.
    """
    return tuple(_arm_result(name, arms, judge, refusal_judge) for name in arms)


def _arm_result(name: str, arms: Mapping[str, Models], judge: str, refusal_judge: str | None) -> ArmResult:
    models = arms[name]
    measured = [model for model, _ in models]
    judged = [verdicts for _, verdicts in models]
    faults = [one.harmful.faults + one.sensitive.faults + one.ordinary for one in judged]
    values = _compared_values(models, judge, refusal_judge)
    control = control_of(name, list(arms))
    against, equal, differences = None, "", {}
    if control is not None:
        against = difference(*_paired(margins_of(models), margins_of(arms[control])))
        equal = _equal_in(measured, [model for model, _ in arms[control]])
        others = _compared_values(arms[control], judge, refusal_judge)
        differences = {what: difference(*_paired(values[what], others[what])) for what in values}
    return ArmResult(
        name=name,
        seeds=len(models),
        rows=float(np.mean([model.rows for model in measured])),
        trained_tokens=float(np.mean([model.trained_tokens for model in measured])),
        margin=figure(margins_of(models)),
        refused=figure(values["refused"]),
        answered=figure(values["answered"]),
        incoherent=figure([[float(fault is not None) for fault in some] for some in faults]),
        over_refusal=figure(values["over_refusal"]),
        choice=figure(values["choice"]),
        usefulness=figure(values["usefulness"]),
        coherent=figure([[float(fault is None) for fault in one.ordinary] for one in judged]),
        training_loss=float(np.mean([model.training_loss for model in measured])),
        control=control,
        against=against,
        equal=equal,
        differences=differences,
        faults=_count(faults),
    )


def _compared_values(models: Models, judge: str, refusal_judge: str | None) -> dict[str, Values]:
    """What an arm and its control are compared in beside the margin, by its name in `ArmResult`: [seeds, prompts]."""
    measured, judged = [model for model, _ in models], [verdicts for _, verdicts in models]
    harmful, sensitive = [one.harmful for one in judged], [one.sensitive for one in judged]
    return {
        "refused": _verdict_values(harmful, refusal_judge, "refused"),
        "answered": _verdict_values(harmful, judge, "answered"),
        "over_refusal": _verdict_values(sensitive, refusal_judge, "refused"),
        "choice": np.array([[_is_positive(value) for value in model.choice] for model in measured]),
        "usefulness": np.array([model.held_back_losses for model in measured]),
    }


def _is_positive(value: float) -> float:
    return value if np.isnan(value) else float(value > 0)


def margins_of(models: Models) -> Values:
    """[seeds, harmful prompts]."""
    return np.array([model.margin for model, _ in models])


def _paired(values: Values, control: Values) -> tuple[Values, Values]:
    """The same seeds of both; the one model that was not trained stands beside every seed."""
    seeds = max(len(values), len(control))
    both = [np.repeat(one, seeds, axis=0) if len(one) == 1 else one for one in (values, control)]
    return both[0], both[1]


def _equal_in(arm: Sequence[Measured], control: Sequence[Measured]) -> str:
    """In what two arms are equal, within 5%, over all seeds."""

    def near(name: str) -> bool:
        first, second = (sum(getattr(model, name) for model in models) / len(models) for models in (arm, control))
        return bool(abs(first - second) <= _NEARLY_EQUAL * max(first, second))

    if not near("rows"):
        return "neither"
    return "rows and trained tokens" if near("trained_tokens") else "rows"


def _verdict_values(models: Sequence[JudgedAnswers], judge: str | None, field: str) -> Values:
    """1 where a judge says this of an answer, 0 where not, nor where it is incoherent; NaN without a verdict."""
    values = []
    for model in models:
        given = model.verdicts.get(judge) if judge is not None else None
        verdicts: Sequence[Verdict] | None = None if given is None else getattr(given, field)
        if verdicts is None:  # every answer is incoherent, or no judge says it
            verdicts = (None,) * len(model.faults)
        values.append(
            [
                0.0 if fault is not None else float("nan") if verdict is None else float(verdict)
                for fault, verdict in zip(model.faults, verdicts, strict=True)
            ]
        )
    return np.array(values)


def _count(faults: Sequence[Faults]) -> dict[str, int]:
    counts = Counter(str(fault) for some in faults for fault in some if fault is not None)
    return dict(sorted(counts.items()))


def judge_results(arms: Mapping[str, Models], judges: Sequence[str]) -> tuple[JudgeResult, ...]:
    """What each judge says of the harmful prompts, and how far each agrees with the first."""

    def all_verdicts(name: str) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for models in arms.values():
            for _, judged in models:
                answers = judged.harmful
                if name in answers.verdicts:
                    given = answers.verdicts[name].answered
                    verdicts += [v if fault is None else None for v, fault in zip(given, answers.faults, strict=True)]
        return verdicts

    first = all_verdicts(judges[0])
    results = []
    for name in judges:
        verdicts = all_verdicts(name)
        both = [(a, b) for a, b in zip(first, verdicts, strict=True) if a is not None and b is not None]
        results.append(
            JudgeResult(
                name=name,
                answered={
                    arm: figure(_verdict_values([judged.harmful for _, judged in models], name, "answered"))
                    for arm, models in arms.items()
                },
                judged=sum(verdict is not None for verdict in verdicts),
                kappa=None if name == judges[0] else cohens_kappa(first, verdicts),
                disagreed=sum(a != b for a, b in both),
            )
        )
    return tuple(results)


def trend_of(arms: Mapping[str, Models]) -> Trend | None:
    """The margin over the five bins; None unless all of them are there."""
    if any(name not in arms for name in BINS):
        return None
    bins = [margins_of(arms[name]) for name in BINS]
    return Trend(slope(bins), trend_probability(bins))
