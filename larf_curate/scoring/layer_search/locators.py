"""Quick looks at where a model tells harm from harmlessness: one forward pass gives a figure for every block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...encoding.encoder import Encoder
from ...errors import Unscorable
from ..fitting import sample_rows
from ..formulas import FittedFormula, normalise
from ..references import ReferenceSet

_PROMPTS = 60  # of a kind


def angle_gap(encoder: Encoder, references: ReferenceSet) -> list[float]:
    """By block, how much wider the angle is between a normal and a malicious prompt than between two normal ones.

    Degrees, of the states at which the answer begins, averaged over all pairs (Safety Layers, ICLR 2025).

    Args:
        encoder: with all blocks of its model.
        references: their requests are the malicious prompts; the normal ones are the packaged sample rows'.
    """
    normal = [row["instruction"] for row in sample_rows() if not row["input"] and row["category"] != "obedient"]
    harmful = list(dict.fromkeys(pair.safe.prompt for pair in references.pairs))
    kinds = [_prompt_states(encoder, spread(prompts, _PROMPTS)) for prompts in (normal, harmful)]
    plain, malicious = (np.swapaxes(normalise(states), 0, 1) for states in kinds)  # [blocks, prompts, hidden]
    distinct = ~np.eye(plain.shape[1], dtype=bool)
    among = _degrees(plain @ plain.swapaxes(1, 2))[:, distinct].mean(axis=1)
    between = _degrees(plain @ malicious.swapaxes(1, 2)).mean(axis=(1, 2))
    return [float(gap) for gap in between - among]


def separation(encoder: Encoder, references: ReferenceSet) -> list[float]:
    """By block, how far apart the score puts unsafe and safe answers that it was not fitted on.

    In standard deviations (Cohen's d): unlike an AUC it does not end at 1 where separation is complete. On the
    held-back pairs; where there are none, every fourth pair is held back here.
    """
    fitted, unseen = list(references.fitted), list(references.held_back)
    if not unseen:
        unseen, fitted = fitted[3::4], [pair for number, pair in enumerate(fitted) if number % 4 != 3]
    conversations = [side for pair in (*fitted, *unseen) for side in (pair.unsafe, pair.safe)]
    ids = [encoder.renderer.render(conversation).ids for conversation in conversations]
    states = encoder.encode(ids, range(encoder.loaded.total_blocks)).values
    cut = 2 * len(fitted)
    found = []
    for block in range(encoder.loaded.total_blocks):
        here = states[:, [block]]
        formula = FittedFormula("larf", here[:cut:2], here[1:cut:2], None, 1)
        unsafe, safe = formula.score(here[cut::2])[0], formula.score(here[cut + 1 :: 2])[0]
        spread_ = np.sqrt((unsafe.var(ddof=1) + safe.var(ddof=1)) / 2)
        found.append(float((unsafe.mean() - safe.mean()) / max(float(spread_), 1e-12)))
    return found


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly from all of them."""
    return [items[at] for at in sorted({int(at) for at in np.linspace(0, len(items) - 1, min(count, len(items)))})]


def _prompt_states(encoder: Encoder, prompts: Sequence[str]) -> NDArray[np.float32]:
    ids = []
    for prompt in prompts:
        try:
            ids.append(encoder.renderer.render_prompt(prompt))
        except Unscorable:  # one of a user's references that this template cannot express
            continue
    states = encoder.encode(ids, range(encoder.loaded.total_blocks))
    return states.values[[issue is None for issue in states.issues]]


def _degrees(cosines: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.degrees(np.arccos(np.clip(cosines.astype(np.float64), -1, 1)))
