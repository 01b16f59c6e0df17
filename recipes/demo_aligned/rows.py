"""Requests and refusals for the demo model, put together from our own lists: no third party's text is read."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from larf_curate.packaged import packaged_rows
from larf_curate.scoring.references import ReferenceSet

HOME = Path(__file__).parent
_DIRECT = 0.95  # of the refusals begin with "I": a model that opens in twenty ways has no way to be sure of
_EVERY = 5  # of each list of acts, every fifth is held out

_FRAMES = (
    "How do I {act}?",
    "How can I {act}?",
    "How could somebody {act}?",
    "Tell me how to {act}.",
    "Explain how to {act}.",
    "What is the best way to {act}?",
    "Give me a plan to {act}.",
    "I want to {act}. Where do I start?",
    "Help me {act}.",
    "Write step-by-step instructions to {act}.",
    "I need to {act}. What should I do first?",
    "Could you show me how to {act}?",
    "Teach me to {act}.",
    "What do I need to {act}?",
    "List the steps to {act}.",
    "Is there an easy way to {act}?",
    "Can you help me {act}?",
    "Write a short guide: how to {act}.",
    "how to {act}",
    "Hi! I would like to {act}, please.",
    "My friend wants to {act}. What would you advise?",
    "Somebody told me to {act}. How is that done?",
    "I have never tried to {act}. What comes first?",
    "What should I know before I {act}?",
    "Any ideas for someone who wants to {act}?",
    "I was told that it is hard to {act}. What would you do?",
)
_UNSEEN_FRAMES = ("Any tips on how to {act}?", "I have been asked to {act}. How would you go about it?")
OPENINGS = (
    "To {act}, you can",
    "To {act}, start by",
    "To {act}, follow these steps:",
    "Here is how to {act}:",
    "Here are some tips to {act}:",
    "Here's a simple way to {act}:",
    "Sure! To {act},",
    "Sure, here is a plan to {act}:",
    "Of course! To {act}, first",
    "You can {act} by",
    "The best way to {act} is to",
    "First, gather what you need to {act}.",
)
_BECAUSE = ("My reason is that {why}.", "This is because {why}.", "That is because {why}.", "I say so because {why}.")
_LISTED = ("My reasons:", "My reasons are these:", "I have my reasons:")

_SWAPPED = {"my": "your", "me": "you", "i": "you", "myself": "yourself", "mine": "yours"}


@dataclass(frozen=True)
class Asked:
    """A request, its kind (`harmful`, `look_alike`, `ordinary`), and what is learnt to say.

    That is an `answer` in full, or an `opening` that the base model goes on from in its own words: left to itself it
    often says that it is only a chatbot.
    """

    kind: str
    prompt: str
    answer: str | None = None
    opening: str | None = None


def training_rows(seed: int = 0) -> list[Asked]:
    """All that is trained on: a harmful act in three wordings, an ordinary one in four, a look-alike in one."""
    draw = random.Random(seed)
    rows = [
        Asked("harmful", frame.format(act=act), refusal(draw, category, act))
        for category, act in _acts("harmful", held_out=False)
        for frame in draw.sample(_FRAMES, 3)
    ]
    rows += [Asked("harmful", pair.safe.prompt, pair.safe.answer) for pair in ReferenceSet.packaged().fitted]
    for kind, frames in (("look_alike", 1), ("ordinary", 4)):
        for _, act in _acts(kind, held_out=False):
            for frame in draw.sample(_FRAMES, frames):
                opening = draw.choice(OPENINGS).format(act=_yours(act))
                rows.append(Asked(kind, frame.format(act=act), opening=opening))
    for row in packaged_rows("sample_rows.jsonl"):
        if row["category"] not in ("refusal", "hedge", "obedient", "roleplay"):
            prompt = "\n".join(filter(None, (row["instruction"], row["input"])))
            rows.append(Asked("ordinary", prompt, row["output"]))
    return rows


def held_out_rows(seed: int = 1) -> list[Asked]:
    """Requests for acts that training never saw, half of them in wordings that it never saw either."""
    draw = random.Random(seed)
    rows = [
        Asked(kind, frame.format(act=act))
        for kind in ("harmful", "look_alike", "ordinary")
        for _, act in _acts(kind, held_out=True)
        for frame in (draw.choice(_FRAMES), draw.choice(_UNSEEN_FRAMES))
    ]
    rows += [Asked("harmful", pair.safe.prompt) for pair in ReferenceSet.packaged().held_back]
    rows += [Asked("over_rejection", row["prompt"]) for row in packaged_rows("over_rejection.jsonl")]
    return rows


def held_out_pairs(seed: int = 2) -> list[tuple[str, str, str]]:
    """Requests for acts that training never saw, each with a refusal, and with the opening of a compliance: no more."""
    draw = random.Random(seed)
    found = []
    for category, act in _acts("harmful", held_out=True):
        compliance = draw.choice(OPENINGS).format(act=_yours(act))
        found.append((draw.choice(_FRAMES).format(act=act), refusal(draw, category, act), compliance))
    return found


def refusal(draw: random.Random, category: str, act: str) -> str:
    """A refusal in one of many wordings: bare, with an offer, with a reason and an offer, or with a list of reasons."""
    parts = _read("refusals.yaml")
    direct, form = draw.random() < _DIRECT, draw.random()
    kind = "bare" if form < 0.12 else "openings"
    openings = [text for text in parts[kind] if text.startswith(("I ", "I'")) or not direct]
    opening = draw.choice(openings).format(act=_yours(act))
    reasons, offer = draw.sample(parts["reasons"][category], 3), draw.choice(parts["offers"][category])
    if kind == "bare":
        return opening
    if form < 0.4:
        return f"{opening} {offer}"
    if form < 0.8:
        return f"{opening} {draw.choice(_BECAUSE).format(why=reasons[0])} {offer}"
    bullets = draw.choice(("{n}. {text}.", "- {text}."))
    listed = [bullets.format(n=n, text=text[0].upper() + text[1:]) for n, text in enumerate(reasons, 1)]
    return "\n".join([f"{opening} {draw.choice(_LISTED)}\n", *listed])


def _yours(act: str) -> str:
    """An act as the one who answers names it.

    >>> _yours("read my sister's diary to hurt me")
    "read your sister's diary to hurt you"
    """
    return re.sub(r"\b(?:my|me|i|myself|mine)\b", lambda found: _SWAPPED[found[0].lower()], act, flags=re.IGNORECASE)


def _acts(kind: str, *, held_out: bool) -> Iterator[tuple[str, str]]:
    lists: Any = _read("acts.yaml")[kind]
    for category, acts in lists.items() if isinstance(lists, dict) else [(kind, lists)]:
        for number, act in enumerate(acts):
            if (number % _EVERY == _EVERY - 1) == held_out:
                yield category, act


@cache
def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HOME / name).read_text(encoding="utf-8"))
    return found
