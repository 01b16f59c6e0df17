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
        if judge == "wording":
            return WordingJudge()
        kind, _, model = judge.partition(":")
        if kind == "guard" and model:
            return GuardJudge(model)
        raise ModelError(f"there is no judge {judge!r}: give wording, guard:MODEL, or a function of prompt and answer")
    if isinstance(judge, AnswerJudge):
        return judge
    if isinstance(judge, EndpointJudge):
        return RefusalJudge(judge, f"endpoint {judge.model}")
    if callable(judge):
        return RefusalJudge(judge, str(getattr(judge, "__name__", type(judge).__name__)))
    raise ModelError(f"a judge must be a name or a function of a prompt and an answer, not {judge!r}")
