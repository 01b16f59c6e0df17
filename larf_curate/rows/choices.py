"""Multiple-choice questions: the choices as lines of the question, and the answer as one of them."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import Issue, Unscorable
from .values import kind_of_value, structure_of, text_of


def choices_of(value: Any) -> list[str]:
    """The choices as lettered lines: of a list of texts, or of an object with `text` and `label` (ARC).

    Raises:
        Unscorable: they are something else.

    >>> choices_of(["Mars", "Venus"])
    ['A. Mars', 'B. Venus']
    >>> choices_of({"text": ["Mars", "Venus"], "label": ["1", "2"]})
    ['1. Mars', '2. Venus']
    """
    choices, _ = structure_of(value)
    labels: Sequence[Any] = string.ascii_uppercase
    if isinstance(choices, Mapping):
        labels, choices = choices.get("label") or labels, choices.get("text")
    if choices is None:
        return []
    if not isinstance(choices, list) or not isinstance(labels, str | list) or len(choices) > len(labels):
        raise Unscorable(Issue.WRONG_TYPE, f"column 'choices' holds {kind_of_value(choices)}")
    pairs = zip(labels, choices, strict=False)
    return [f"{text_of(label, 'choices')}. {text_of(choice, 'choices')}" for label, choice in pairs]


def answer_with_choice(answer: Any, choices: Sequence[str]) -> Any:
    """The line that an answer names by its place from 0 or by its letter; any other answer as it is.

    >>> answer_with_choice(1, ["A. Mars", "B. Venus"]), answer_with_choice("A", ["A. Mars", "B. Venus"])
    ('B. Venus', 'A. Mars')
    >>> answer_with_choice("Venus", ["A. Mars", "B. Venus"])
    'Venus'
    """
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return choices[answer]
    if isinstance(answer, str):
        return next((line for line in choices if line.partition(". ")[0] == answer.strip()), answer)
    return answer
