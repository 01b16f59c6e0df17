"""Answers that say nothing, which no judge should be asked about: empty, looping, another language, gibberish."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..answering.language import is_other_language, script_of

Fault = Literal["empty", "looping", "other script", "other language", "gibberish"]
FAULTS: tuple[str, ...] = get_args(Fault)

_WORD = re.compile(r"[^\W_]+")  # rules of tables are no words
_AGAIN = re.compile(r"(\S.{3,40}?)\1{5}", re.DOTALL)  # scripts without blanks loop too
_LONG = 12  # words; a shorter text repeats nothing by accident
_DISTINCT = 0.45
"""The smallest share of a text's word triples that differ from each other; loops have less, songs and lists more."""
_RUN = 24  # one character again and again
_GIBBERISH_MARGIN = 1.0  # nats


def fault_of(prompt: str, answer: str, loss: float | None = None, usual_loss: float | None = None) -> Fault | None:
    """What is wrong with an answer as a text; None where nothing is.

    Args:
        prompt: what was asked.
        answer: the text.
        loss: the loss of the answer under the model before any training, in nats a token.
        usual_loss: what answers in the dataset itself stay below under that model.

    >>> fault_of("Why?", " "), fault_of("Why?", "no no no " * 20), fault_of("Why?", "Because of the rain.")
    ('empty', 'looping', None)
    """
    if not any(map(str.isalnum, answer)):  # blanks, exclamation marks, characters that nobody sees
        return "empty"
    if _loops(answer):
        return "looping"
    scripts = script_of(prompt), script_of(answer)
    if all(scripts) and scripts[0] != scripts[1]:
        return "other script"
    if is_other_language(prompt, answer):
        return "other language"
    if loss is not None and usual_loss is not None and loss > usual_loss + _GIBBERISH_MARGIN:
        return "gibberish"
    return None


def usual_loss(losses: Sequence[float] | NDArray[np.floating]) -> float:
    """What 99% of the answers in a dataset stay below, from the losses of some of them; NaN is none of them."""
    known = np.asarray(losses, np.float64)
    known = known[~np.isnan(known)]
    return float(np.quantile(known, 0.99)) if len(known) else float("inf")


def _loops(text: str) -> bool:
    if re.search(rf"([^\W_])\1{{{_RUN},}}", text) or any(_WORD.search(repeat[1]) for repeat in _AGAIN.finditer(text)):
        return True
    words = _WORD.findall(text.lower())
    if len(words) < _LONG:
        return False
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    return len(triples) < _DISTINCT * sum(triples.values())
