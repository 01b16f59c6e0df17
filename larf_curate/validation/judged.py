"""Every answer of a validation judged: first whether it says anything, then by each judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..encoding.runtime import Runtime
from ..errors import LarfError, ModelError, one_line
from ..inert import visible
from ..rows.rendering import Renderer
from .coherence import Fault, fault_of, usual_loss
from .guards import GuardJudge
from .judging import AnswerJudge, Verdict, Verdicts, WordingJudge
from .measuring import Measured, answer_losses
from .prompts import ValidationPrompts

Faults = tuple[Fault | None, ...]


@dataclass(frozen=True)
class JudgedAnswers:
    """The answers of one model to one kind of prompt.

    Attributes:
        faults: the fault of each answer; None if it says something.
        verdicts: the verdicts of each judge, by its name. Answers with a fault have verdicts too, which are not
            counted.
    """

    faults: Faults
    verdicts: Mapping[str, Verdicts]


@dataclass(frozen=True)
class JudgedModel:
    """All answers of one model, judged."""

    harmful: JudgedAnswers
    sensitive: JudgedAnswers
    ordinary: Faults


def losses_before_training(
    models: Sequence[Measured], prompts: ValidationPrompts, runtime: Runtime, renderer: Renderer
) -> dict[tuple[str, str], float]:
    """The loss of each answer under the model before any training, in nats a token, by prompt and answer.

    Answers to harmless prompts that sound harmful are left out, which halves the time: who writes gibberish there
    writes it elsewhere.
    """
    pairs = sorted(
        {
            pair
            for model in models
            for asked, answers in ((prompts.harmful, model.harmful), (prompts.ordinary, model.ordinary))
            for pair in zip(asked, answers, strict=True)
        }
    )
    return dict(zip(pairs, answer_losses(runtime, renderer, pairs, whole=False), strict=True))


def judge_models(
    models: Sequence[Measured],
    prompts: ValidationPrompts,
    judges: Sequence[AnswerJudge],
    losses: Mapping[tuple[str, str], float],
    held_back_losses: Sequence[float],
) -> list[JudgedModel]:
    """Judge the answers of every model.

    Each judge is asked once for each different pair of a prompt and an answer: models that refuse in the same words
    are many.

    Args:
        models: what they answered.
        prompts: the prompts that they answered.
        judges: the first one's verdicts count; all are shown.
        losses: see `losses_before_training`.
        held_back_losses: the losses of ordinary rows under the model before training; answers with a higher loss are
            gibberish.

    Raises:
        ModelError: a judge cannot be asked, or cannot read the answers.
    """
    usual = usual_loss(held_back_losses)

    def faults(asked: Sequence[str], answers: Sequence[str]) -> Faults:
        found_faults = []
        for pair in zip(asked, answers, strict=True):
            loss = losses.get(pair, float("nan"))
            found_faults.append(fault_of(*pair, None if np.isnan(loss) else loss, usual))
        return tuple(found_faults)

    kinds = [(prompts.harmful, [model.harmful for model in models])]
    kinds.append((prompts.sensitive, [model.sensitive for model in models]))
    judged = [
        _judge_kind(asked, answers, [faults(asked, some) for some in answers], judges) for asked, answers in kinds
    ]
    ordinary = [faults(prompts.ordinary, model.ordinary) for model in models]
    return [JudgedModel(*each) for each in zip(*judged, ordinary, strict=True)]


def try_judges(judges: Sequence[AnswerJudge], prompts: ValidationPrompts, untrained: Measured) -> None:
    """Find out before other models are trained whether judges can judge: by what the model answers before training.

    The judge of wording reads all of it, and others, which may cost money, one answer. A guard model was found when it
    was chosen, and is too large to be loaded beside the model that is trained.

    Raises:
        ModelError: a judge cannot be asked, or cannot read the answers to one kind of prompt.
    """
    kinds = ((prompts.harmful, untrained.harmful), (prompts.sensitive, untrained.sensitive))
    said = [[pair for pair in zip(*kind, strict=True) if fault_of(*pair) is None] for kind in kinds]
    for judge in judges:
        if isinstance(judge, WordingJudge):
            tried = said
        else:
            tried = [] if isinstance(judge, GuardJudge) else [(said[0] or said[1])[:1]]
        for pairs in filter(None, tried):
            _verdicts_of(judge, pairs)


def _verdicts_of(judge: AnswerJudge, pairs: Sequence[tuple[str, str]]) -> Verdicts:
    """One verdict on each answer; what users write as judges may fail, or give something else."""
    try:
        given: object = judge.verdicts([prompt for prompt, _ in pairs], [answer for _, answer in pairs])
    except LarfError:
        raise
    except Exception as error:
        raise ModelError(f"the judge {judge.name} fails: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(given, Verdicts):
        raise ModelError(f"the judge {judge.name} gives {type(given).__name__} where Verdicts(...) is due")
    answered = _checked(judge, given.answered, len(pairs))
    return Verdicts(answered, None if given.refused is None else _checked(judge, given.refused, len(pairs)))


def _checked(judge: AnswerJudge, given: object, count: int) -> tuple[Verdict, ...]:
    """The verdicts of a judge, numpy's among them, as Python has them; never what Python takes for true."""
    verdicts = tuple(given) if isinstance(given, Iterable) else ()
    if len(verdicts) != count:
        raise ModelError(f"the judge {judge.name} gives {len(verdicts)} verdicts on {count} answers")
    for verdict in verdicts:
        if verdict is not None and not isinstance(verdict, bool | np.bool_):
            said = visible(str(verdict), 40)
            raise ModelError(f"the judge {judge.name} says {said!r} of an answer, where True, False or None is due")
    return tuple(None if verdict is None else bool(verdict) for verdict in verdicts)


def _judge_kind(
    prompts: Sequence[str], answers: Sequence[Sequence[str]], faults: Sequence[Faults], judges: Sequence[AnswerJudge]
) -> list[JudgedAnswers]:
    """One kind of prompt, all models: different pairs are judged once."""
    pairs = list(
        dict.fromkeys(
            pair
            for some, wrong in zip(answers, faults, strict=True)
            for pair, fault in zip(zip(prompts, some, strict=True), wrong, strict=True)
            if fault is None
        )
    )
    place = {pair: number for number, pair in enumerate(pairs)}
    by_judge = {judge.name: _verdicts_of(judge, pairs) for judge in judges if pairs}
    judged = []
    for some, wrong in zip(answers, faults, strict=True):
        numbers = [place.get(pair) for pair in zip(prompts, some, strict=True)]
        verdicts = {name: _picked(given, numbers) for name, given in by_judge.items()}
        judged.append(JudgedAnswers(wrong, verdicts))
    return judged


def _picked(given: Verdicts, numbers: Sequence[int | None]) -> Verdicts:
    answered = tuple(None if number is None else given.answered[number] for number in numbers)
    if given.refused is None:
        return Verdicts(answered)
    return Verdicts(answered, tuple(None if number is None else given.refused[number] for number in numbers))
