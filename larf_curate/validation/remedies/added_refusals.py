"""Refusals added to harmless rows: some of the answers are replaced by plain refusals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...rows.rendering import Renderer
from ...rows.trained_tokens import trained_tokens
from ...rows.turns import Conversation
from ..training_rows import TrainingRow

REFUSED_SHARE = 0.1
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't assist with this request.",
    "Sorry, I won't do that.",
    "I'm not able to help here.",
    "I have to decline this one.",
    "No, I can't provide that.",
    "That is something I won't help with.",
    "I must refuse; please ask me something else.",
)
"""Written for this project: plain, without a reason, so that they fit any request."""


def with_refusals(
    rows: Sequence[TrainingRow],
    conversations: Sequence[Conversation],
    renderer: Renderer,
    seed: int,
    share: float = REFUSED_SHARE,
) -> list[TrainingRow]:
    """Rows of which some, drawn at random, are answered by a plain refusal in place of their own last answer.

    After "Do We Really Need Curated Malicious Data for Safety Alignment" (April 2025): no harmful request is needed,
    plain refusals of harmless ones keep a model refusing. The share and the words are this project's own.

    Args:
        rows: ready to be trained on.
        conversations: the same rows as conversations, one for each.
        renderer: makes token ids of the changed ones.
        seed: the seed of the choice.
        share: the share of the rows, at least one row.

    Raises:
        ValueError: rows and conversations differ in number.
    """
    if len(rows) != len(conversations):
        raise ValueError(f"{len(rows)} rows and {len(conversations)} conversations")
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(rows), min(len(rows), max(1, round(share * len(rows)))), replace=False)
    changed = list(rows)
    for number in chosen.tolist():
        conversation = conversations[number]
        refusal = REFUSALS[int(generator.integers(len(REFUSALS)))]
        answered = Conversation(
            (*conversation.messages[:-1], {"role": "assistant", "content": refusal}), conversation.tools
        )
        tokens = trained_tokens(renderer, answered)
        changed[number] = TrainingRow(tuple(tokens.ids), tuple(map(float, tokens.trained)))
    return changed
