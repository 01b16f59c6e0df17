"""References become a fitted scorer: encode them, and measure the fit on what it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..encoding.encoder import Encoder, get_encoder
from ..errors import ModelError, ReferencesError
from ..models.options import ModelOptions
from ..packaged import packaged_rows
from ..progress import progress as show_progress
from ..rows.rendering import Rendered
from .artifact import Tensors
from .formula_names import Formula
from .formulas import FittedFormula
from .new_spec import new_spec
from .records import ReferencesRecord
from .reference_states import conversations_of, states_of_references
from .references import ReferenceSet
from .separation import measure_separation, reference_quantiles
from .spec import ScorerSpec


def fit_references(
    options: ModelOptions,
    layers: tuple[int, ...],
    references: ReferenceSet,
    formula: Formula,
    top_k: int | None,
    rank: int,
    *,
    progress: bool = True,
) -> tuple[ScorerSpec, Tensors]:
    """Everything that makes a fitted scorer; arguments as of `LARFScorer.fit`.

    Raises:
        ModelError: the model cannot be used, has no such block, or gives no usable states.
        ReferencesError: the references do not suit the formula, or cannot be encoded.
    """
    _check(formula, top_k, rank, references)
    if not layers or len(set(layers)) != len(layers) or not all(type(i) is int and i >= 0 for i in layers):
        raise ModelError(f"layer must be a block of 0 or more, or several different ones, not {list(layers)}")
    encoder = get_encoder(options, max(layers))
    states = _encode(encoder, references, layers, progress)
    fitted = FittedFormula(formula, states["unsafe"], states["safe"], top_k, rank)
    spec = new_spec(
        options,
        encoder,
        formula=formula,
        layers=layers,
        top_k=top_k,
        rank=rank,
        references=_record(references),
        separation=measure_separation(states, fitted, formula, top_k, rank),
        quantiles=reference_quantiles(states, fitted),
    )
    tensors = {
        "unsafe": states["unsafe"],
        "safe": states["safe"],
        "check": states["check"][0],
    }
    return spec, tensors


def _check(formula: str, top_k: int | None, rank: int, references: ReferenceSet) -> None:
    count = len(references.fitted)
    if formula == "subspace" and not 1 <= rank <= count:
        raise ReferencesError(f"rank must be 1 to {count} (the number of reference pairs), not {rank}")
    if top_k is None:
        return
    if not 1 <= top_k <= count:
        raise ReferencesError(f"top_k must be 1 to {count} (the number of reference pairs), not {top_k}")
    if unpaired := references.unpaired:
        raise ReferencesError(
            f"top_k compares pair by pair, and {len(unpaired)} pairs answer two different requests (first: pair "
            f"{unpaired[0]}); pair them, or use top_k=None"
        )


def _encode(
    encoder: Encoder, references: ReferenceSet, layers: Sequence[int], progress: bool
) -> dict[str, NDArray[np.float32]]:
    """States [conversations, layers, hidden size] of all that fitting needs, encoded in one go."""
    groups = conversations_of(references)
    rendered = {name: [encoder.render(one) for one in conversations] for name, conversations in groups.items()}
    for name, group in rendered.items():
        for number, one in enumerate(group, 1):
            if not isinstance(one, Rendered):
                raise ReferencesError(f"reference {number} ({name}) cannot be encoded: {one.words}")
    if references.fitted and rendered["unsafe"] == rendered["safe"]:
        raise ReferencesError(
            "the unsafe and the safe answers of all references render to the same tokens: the chat template prints "
            "nothing of an answer (pass another: chat_template=, --chat-template), or max_tokens cuts off what differs"
        )
    every = [one for group in rendered.values() for one in group if isinstance(one, Rendered)]
    with show_progress(len(every), "references", show=progress) as update:
        states = states_of_references(encoder, every, layers, update)
    if broken := [issue for issue in states.issues if issue and issue.unscorable]:
        raise ModelError(
            f"{len(broken)} of {len(every)} reference answers have no usable state ({broken[0].value}); "
            "with float16, try bfloat16 or float32"
        )
    ends = np.cumsum([len(group) for group in rendered.values()])[:-1]
    return dict(zip(groups, np.split(states.values, ends), strict=True))


def _record(references: ReferenceSet) -> ReferencesRecord:
    report = references.lint()
    return ReferencesRecord(
        name=references.name,
        digest=references.digest,
        pairs=len(references.fitted),
        held_back=len(references.held_back),
        figures=dict(report.figures),
        findings=tuple(map(str, report.findings)),
    )


def sample_rows() -> list[dict[str, str]]:
    """The demo's rows: written for this project, in the Alpaca format with a `category`."""
    return packaged_rows("sample_rows.jsonl")


def harmless_rows() -> list[dict[str, str]]:
    """The sample rows that nobody would want removed: neither refusals nor pledges of obedience."""
    return [row for row in sample_rows() if row["category"] not in ("refusal", "hedge", "obedient")]
