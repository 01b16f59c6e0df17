"""What the models of a validation are asked, and that none of it was trained on."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..answering.prompts import LEAST_PROMPTS, choose_prompts, over_rejection_prompts
from ..errors import PromptsError
from ..scoring.references import ReferenceSet

ORDINARY = 24
"""Ordinary prompts whose answers are looked at; the loss is measured on all rows that are held back."""

_SHINGLE = 3  # words
_SAME = 0.7
"""Share of a prompt's word triples that a trained text has to hold for the two to count as one."""
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
"""A word, or one character of Chinese or Japanese, which put no blanks between words."""


@dataclass(frozen=True)
class RefusalChoice:
    """A harmful request with an answer that refuses it and one that complies, of similar length and form."""

    prompt: str
    refusing: str
    complying: str


@dataclass(frozen=True)
class ValidationPrompts:
    """What every model is asked.

    Attributes:
        harmful: requests that an aligned model refuses.
        sensitive: harmless requests that sound harmful: refusing them is over-refusal.
        ordinary: requests out of the dataset itself, of rows that no arm trains on.
        choices: pairs of answers for the second format of the safety questions, in which the model does not have to
            write anything.
        source: where the harmful ones come from, in words.
        dropped: prompts left out since an arm trains on them, or on nearly the same.
    """

    harmful: tuple[str, ...]
    sensitive: tuple[str, ...]
    ordinary: tuple[str, ...]
    choices: tuple[RefusalChoice, ...]
    source: str
    dropped: tuple[str, ...] = ()

    def without(self, trained: Iterable[str]) -> ValidationPrompts:
        """Those that no trained text repeats, word for word or nearly so.

        Args:
            trained: the users' turns of all rows that any arm trains on.

        Raises:
            PromptsError: fewer than `LEAST_PROMPTS` harmful ones are left.
        """
        asked = (*self.harmful, *self.sensitive, *self.ordinary)
        seen = repeated((*asked, *(choice.prompt for choice in self.choices)), trained)
        harmful, sensitive, ordinary = (
            tuple(prompt for prompt in prompts if prompt not in seen)
            for prompts in (self.harmful, self.sensitive, self.ordinary)
        )
        lost = [prompt for prompt in self.harmful if prompt not in set(harmful)]
        if lost and len(harmful) < LEAST_PROMPTS:
            raise PromptsError(
                f"{len(lost)} of {len(self.harmful)} harmful prompts are among the rows that are trained on (the first "
                f"is {lost[0][:60]!r}): give {LEAST_PROMPTS} or more that are not"
            )
        return replace(
            self,
            harmful=harmful,
            sensitive=sensitive,
            ordinary=ordinary,
            choices=tuple(choice for choice in self.choices if choice.prompt not in seen),
            dropped=tuple(prompt for prompt in asked if prompt in seen),
        )


def gather_prompts(
    harmful: str | Path | Sequence[str] | None, ordinary: Sequence[str], limit: int | None = None
) -> ValidationPrompts:
    """The prompts of a validation.

    Args:
        harmful: a file (DirectHarm4, HarmBench, JBB and others, as they come), or the requests; None takes the packaged
            ones.
        ordinary: requests of held-back rows.
        limit: the most prompts of each kind; None takes all.

    Raises:
        PromptsError: the file cannot be read, one of the requests is no text, or they are fewer than `LEAST_PROMPTS`.
    """
    asked = choose_prompts(harmful)
    choices = packaged_choices()
    return ValidationPrompts(
        tuple(_spread(list(asked.prompts), limit)),
        tuple(_spread(over_rejection_prompts(), limit)),
        tuple(_spread(list(ordinary), limit)),
        tuple(choices[:limit]),
        asked.name if asked.name in ("packaged", "given") else Path(asked.name).name,
    )


def packaged_choices() -> list[RefusalChoice]:
    """Of the packaged references those that no fit is made of."""
    return [
        RefusalChoice(pair.safe.prompt, pair.safe.answer, pair.unsafe.answer)
        for pair in ReferenceSet.packaged().held_back
    ]


def _spread(prompts: list[str], limit: int | None) -> list[str]:
    """At most so many, evenly from the whole list: neighbours in it are of one category."""
    if limit is None or len(prompts) <= limit:
        return prompts
    return [prompts[int(place)] for place in np.linspace(0, len(prompts) - 1, limit)]


def repeated(prompts: Iterable[str], texts: Iterable[str]) -> set[str]:
    """The prompts that a text repeats, word for word or nearly so: most of a prompt's word triples are in one text.

    Args:
        prompts: some hundreds.
        texts: any number, looked at one after the other; nothing of them is kept.

    >>> repeated(["How do I bake a loaf of bread?"], ["how do I bake a LOAF of bread"])
    {'How do I bake a loaf of bread?'}
    """
    whole: defaultdict[str, list[str]] = defaultdict(list)
    holders: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    triples: dict[str, int] = {}
    for prompt in dict.fromkeys(prompts):
        words = _words(prompt)
        whole[" ".join(words)].append(prompt)
        shingles = _shingles(words)
        if len(shingles) < _SHINGLE:
            continue  # too short to be told from chance but by the whole text
        triples[prompt] = len(shingles)
        for shingle in shingles:
            holders[shingle].append(prompt)
    trained_on: set[str] = set()
    for text in texts:
        words = _words(text)
        trained_on.update(whole.get(" ".join(words), ()))
        counts = Counter(prompt for shingle in _shingles(words) for prompt in holders.get(shingle, ()))
        trained_on.update(prompt for prompt, count in counts.items() if count >= _SAME * triples[prompt])
    return trained_on


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[place : place + _SHINGLE]) for place in range(len(words) - _SHINGLE + 1)}
