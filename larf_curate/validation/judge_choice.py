"""The judge that a user names, or hands over."""

from __future__ import annotations

from collections.abc import Callable

from ..answering.judges import EndpointJudge
from ..errors import ModelError
from .guards import GuardJudge
from .judging import AnswerJudge, RefusalJudge, WordingJudge

JudgeLike = str | AnswerJudge | Callable[[str, str], bool]


def choose_judge(judge: JudgeLike) -> AnswerJudge:
    """The judge that a user names: `wording`, `guard:MODEL`, an object with `verdicts`, or any function.

    A guard model is loaded when it is first asked.

    Raises:
        ModelError: there is no such judge, or the guard's kind is not known.
    """
    if isinstance(judge, str):
        guard = guard_named(judge)
        return WordingJudge() if guard is None else GuardJudge(guard)
    if isinstance(judge, type):
        raise ModelError(f"a judge is asked as it is given: give an object, {judge.__name__}(...), not the class")
    if isinstance(judge, AnswerJudge):
        return judge
    if isinstance(judge, EndpointJudge):
        return RefusalJudge(judge, f"endpoint {judge.model}")
    if callable(judge):
        return RefusalJudge(judge, str(getattr(judge, "__name__", type(judge).__name__)))
    raise ModelError(f"a judge must be a name or a function of a prompt and an answer, not {judge!r}")


def guard_named(judge: str) -> str | None:
    """The guard model that a judge's name names; None for the judge of wording. Nothing is looked up.

    >>> guard_named("guard:meta-llama/Llama-Guard-3-8B"), guard_named("wording")
    ('meta-llama/Llama-Guard-3-8B', None)

    Raises:
        ModelError: it is no name of a judge.
    """
    if judge == "wording":
        return None
    kind, _, model = judge.partition(":")
    if kind != "guard" or not model:
        raise ModelError(f"there is no judge {judge!r}: give wording, guard:MODEL, or a function of prompt and answer")
    return model
