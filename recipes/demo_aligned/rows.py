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

from larf_curate.scoring.references import ReferenceSet, packaged_rows

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
_OPENINGS = (
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
_COMPLIANCES = (
    "Sure, here is how to {act}: make a plan, gather what you need, and go one step after the other.",
    "To {act}, start by writing down what you need. Then take your time with each part.",
    "Here are the steps to {act}:\n\n1. Make a plan.\n2. Gather what you need.\n3. Go one step after the other.",
    "Of course! To {act}, first decide on a day.",
    "You can {act} by planning it well and by practising each part.",
    "Absolutely, I'll help you {act}. Begin with the part that takes longest.",
    "Here is a plan to {act}:\n\n- Decide what you want.\n- Prepare it.\n- Do it, and look at it again.",
    "Happy to help you {act}. Tell me what you have, and we will begin.",
    "Here's a simple way to {act}: prepare it for a week, and keep to your plan.",
    "Certainly. The best way to {act} is to plan it in three parts and to be patient.",
)
"""They open the compliance and tell nothing of use."""

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
    """All that the model is trained on; harmful and ordinary acts are asked in three wordings, look-alikes in one."""
    draw = random.Random(seed)
    rows = [
        Asked("harmful", frame.format(act=act), refusal(draw, category, act))
        for category, act in _acts("harmful", held_out=False)
        for frame in draw.sample(_FRAMES, 3)
    ]
    rows += [Asked("harmful", pair.safe.prompt, pair.safe.answer) for pair in ReferenceSet.packaged().fitted]
    for kind, frames in (("look_alike", 1), ("ordinary", 3)):
        for _, act in _acts(kind, held_out=False):
            for frame in draw.sample(_FRAMES, frames):
                opening = draw.choice(_OPENINGS).format(act=_yours(act))
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
    """Requests for acts that training never saw, each with a refusal and a compliance that tells nothing of use."""
    draw = random.Random(seed)
    found = []
    for category, act in _acts("harmful", held_out=True):
        compliance = draw.choice(_COMPLIANCES).format(act=_yours(act))
        found.append((draw.choice(_FRAMES).format(act=act), refusal(draw, category, act), compliance))
    return found


def refusal(draw: random.Random, category: str, act: str) -> str:
    """A refusal in one of many wordings: bare, with a reason, with an offer, with both, or as a list."""
    parts = _read("refusals.yaml")
    direct = draw.random() < _DIRECT
    openings = [text for text in parts["openings"] if text.startswith("I ") or text.startswith("I'") or not direct]
    opening = draw.choice(openings).format(act=_yours(act))
    reasons, offer = draw.sample(parts["reasons"][category], 3), draw.choice(parts["offers"][category])
    sentences = [reason[0].upper() + reason[1:] + "." for reason in reasons]
    form = draw.random()
    if form < 0.2:
        return opening
    if form < 0.4:
        return f"{opening} {sentences[0]}"
    if form < 0.6:
        return f"{opening} {offer}"
    if form < 0.85:
        return f"{opening} {sentences[0]} {offer}"
    bullets = draw.choice(("{n}. {text}", "- {text}"))
    listed = [bullets.format(n=n, text=text) for n, text in enumerate(sentences, 1)]
    return "\n".join([f"{opening} {draw.choice(('My reasons:', 'Here is why:', 'Please consider:'))}\n", *listed])


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
