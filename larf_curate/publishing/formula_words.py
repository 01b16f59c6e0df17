"""What each formula means, in the sentences of a card."""

from __future__ import annotations

from dataclasses import dataclass

from ..scoring.spec import ScorerSpec


@dataclass(frozen=True)
class FormulaWords:
    """Sentences about a formula, in Markdown.

    Attributes:
        removed: why rows are left out; goes on after "are left out:".
        method: how the score is computed.
        limit: what it depends on, one item of a list.
    """

    removed: str
    method: str
    limit: str


_STATES = FormulaWords(
    removed="by their LARF score they lie closest to answers that comply with unsafe requests, and such rows, harmless "
    "as they read, can wear away an aligned model's refusals when it is fine-tuned on them.",
    method="[LARF](https://arxiv.org/abs/2507.18631) (Layer-Aware Representation Filtering) takes each row's "
    "last-token state at one block of a language model, and scores it by how much closer it lies to answers that "
    "comply with unsafe requests than to answers that refuse them.",
    limit="It depends on the references: it measures whatever sets their two sides apart, in that model, at that "
    "block. Another model may rank these rows otherwise.",
)
_INFLUENCE = FormulaWords(
    removed="harmless as they read, a gradient step on one of them moves the model named below furthest away from "
    "refusing harmful requests.",
    method="The score is the row's influence on refusing, to first order: the derivative of the row's mean loss along "
    "the direction in the weights of a language model in which that model refuses harmful requests more.",
    limit="It is of first order: it says what one small step on a row does to the model as it is, not what a whole "
    "training does. Another model may rank these rows otherwise.",
)
_LOSS_GAP = FormulaWords(
    removed="their loss rises most from the first of the two models named below to the second.",
    method="The score is the gap between two models' mean losses of a row. With a model trained on all rows, and the "
    "same model after a while on safe data, it says what safe training makes the model forget (ForgetFilter, "
    "[arXiv 2312.12736](https://arxiv.org/abs/2312.12736)).",
    limit="It depends on how the second model was trained. Other trainings may rank these rows otherwise.",
)


def formula_words(scorer: ScorerSpec | None) -> FormulaWords:
    """The sentences for a scorer's formula; LARF's where no scorer is known."""
    return {"influence": _INFLUENCE, "loss_gap": _LOSS_GAP}.get(scorer.formula if scorer else "larf", _STATES)
