"""Quick looks at where a model tells harm from harmlessness: one forward pass gives a figure for every block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...encoding.encoder import Encoder
from ...errors import ReferencesError
from ...progress import Update
from ...progress import progress as show_progress
from ...rows.rendering import Rendered
from ..fitting import sample_rows
from ..formulas import FittedFormula, normalise
from ..reference_states import MOST_BYTES, conversations_of, states_of_references
from ..references import ReferenceSet

_PROMPTS = 60  # of a kind


def angle_gap(encoder: Encoder, references: ReferenceSet, *, progress: bool = False) -> list[float]:
    """By block, how much wider the angle is between a normal and a malicious prompt than between two normal ones.

    Degrees, of the states at which the answer begins, averaged over all pairs (Safety Layers, ICLR 2025).

    Args:
        encoder: the encoder, with all blocks of its model.
        references: their requests are the malicious prompts; the normal ones are the packaged sample rows'.
        progress: show how far it is.
    """
    normal = [row["instruction"] for row in sample_rows() if not row["input"] and row["category"] != "obedient"]
    harmful = list(dict.fromkeys(pair.safe.prompt for pair in references.pairs))
    asked = [spread(prompts, _PROMPTS) for prompts in (normal, harmful)]
    with show_progress(sum(map(len, asked)), "angle gap", unit="prompt", show=progress) as update:
        kinds = [_prompt_states(encoder, prompts, update) for prompts in asked]
    plain, malicious = (np.swapaxes(normalise(states), 0, 1) for states in kinds)  # [blocks, prompts, hidden]
    distinct = ~np.eye(plain.shape[1], dtype=bool)
    among = _degrees(plain @ plain.swapaxes(1, 2))[:, distinct].mean(axis=1)
    between = _degrees(plain @ malicious.swapaxes(1, 2)).mean(axis=(1, 2))
    return [float(gap) for gap in between - among]


def separation(encoder: Encoder, references: ReferenceSet, *, progress: bool = False) -> list[float]:
    """By block, how far apart the score puts unsafe and safe answers that it was not fitted on.

    In standard deviations (Cohen's d): unlike an AUC it does not end at 1 where separation is complete. On the
    held-back pairs; where there are none, every fourth pair is held back here. Pairs that this model cannot encode are
    left out, as `angle_gap` leaves out prompts.

    Raises:
        ReferencesError: too few pairs can be encoded.
    """
    fitted, unseen = _pair_states(encoder, references, progress)
    if not references.held_back:
        held_back = np.arange(len(fitted.usable)) % 4 == 3
        fitted, unseen = fitted.where(~held_back), fitted.where(held_back)
    fitted_states, unseen_states = fitted.usable_states, unseen.usable_states
    if len(fitted_states) < 1 or len(unseen_states) < 2:
        raise ReferencesError(
            f"of {len(references.pairs)} reference pairs, {len(fitted_states)} to fit on and {len(unseen_states)} to "
            "measure on can be encoded by this model: it needs 1 and 2 at least"
        )
    distances = []
    for block in range(encoder.loaded.total_blocks):
        formula = FittedFormula("larf", fitted_states[:, 0, [block]], fitted_states[:, 1, [block]], None, 1)
        unsafe, safe = (formula.score(unseen_states[:, side, [block]])[0] for side in (0, 1))
        deviation = np.sqrt((unsafe.var(ddof=1) + safe.var(ddof=1)) / 2)
        distances.append(float((unsafe.mean() - safe.mean()) / max(float(deviation), 1e-12)))
    return distances


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly from all of them."""
    return [items[at] for at in sorted({int(at) for at in np.linspace(0, len(items) - 1, min(count, len(items)))})]


def _prompt_states(encoder: Encoder, prompts: Sequence[str], progress: Update) -> NDArray[np.float32]:
    """States [prompts, blocks, hidden size] of those that this model can encode."""
    states = encoder.states_of_prompts(prompts, range(encoder.loaded.total_blocks), progress)
    return states.values[[issue is None for issue in states.issues]]


@dataclass(frozen=True)
class _PairStates:
    """States of pairs.

    Attributes:
        values: float32 [pairs, 2 (unsafe, safe), blocks, hidden size].
        usable: bool [pairs]: both sides can be encoded.
    """

    values: NDArray[np.float32]
    usable: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> _PairStates:
        """Those of some of the pairs."""
        return _PairStates(self.values[chosen], self.usable[chosen])

    @property
    def usable_states(self) -> NDArray[np.float32]:
        """The values of the pairs that are usable."""
        return self.values[self.usable]


def _pair_states(encoder: Encoder, references: ReferenceSet, progress: bool) -> tuple[_PairStates, _PairStates]:
    """States of the pairs to fit on, and of those held back. They are kept as a fit keeps them, so that one is enough.

    Raises:
        ModelError: the state of a conversation depends on those that are encoded with it.
    """
    blocks = range(encoder.loaded.total_blocks)
    groups = conversations_of(references)
    rendered = [encoder.render(conversation) for group in groups.values() for conversation in group]
    whole = [item for item in rendered if isinstance(item, Rendered)]
    shape = (len(rendered), len(blocks), encoder.loaded.hidden_size)
    with show_progress(len(rendered), "separation", unit="reference", show=progress) as update:
        if len(whole) == len(rendered) and 4 * math.prod(shape) <= MOST_BYTES:
            states = states_of_references(encoder, whole, blocks, update)
        else:
            states = encoder.states_of(rendered, blocks, update)
    encoded = np.array([issue is None or not issue.unscorable for issue in states.issues], bool)
    ends = np.cumsum([len(group) for group in groups.values()])[:-1]
    unsafe, safe, held_unsafe, held_safe, _ = zip(np.split(states.values, ends), np.split(encoded, ends), strict=True)
    fitted, held_back = (
        _PairStates(np.stack([one[0], other[0]], axis=1), one[1] & other[1])
        for one, other in ((unsafe, safe), (held_unsafe, held_safe))
    )
    return fitted, held_back


def _degrees(cosines: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.degrees(np.arccos(np.clip(cosines.astype(np.float64), -1, 1)))
