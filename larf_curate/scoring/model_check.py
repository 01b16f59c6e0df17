"""Whether a loaded model is the one that a scorer was fitted on."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Collection, Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..cache import register
from ..encoding.encoder import Encoder
from ..encoding.losses import token_losses
from ..errors import ModelError, ScorerError
from ..models.demo import ALIGNED
from ..models.demo import NAME as DEMO
from ..models.loading import LoadedModel
from ..models.options import DType
from ..rows.rendering import Rendered
from ..rows.trained_tokens import trained_tokens
from ..rows.turns import Conversation
from .formulas import normalise
from .remarks import say_once
from .spec import ScorerSpec

CHECK = Conversation(
    (
        {"role": "user", "content": "What colour is a ripe lemon?"},
        {"role": "assistant", "content": "A ripe lemon is yellow."},
    )
)
"""Its states, or its losses, are stored with every scorer, and computed again where a model is loaded for it."""

_passed: WeakKeyDictionary[LoadedModel, set[str]] = WeakKeyDictionary()
"""For each model in memory, digests of what scorers expected of it and found."""
register(_passed.clear)


def check_losses(encoder: Encoder) -> NDArray[np.float32]:
    """The losses of the trained tokens of `CHECK`, float32 [tokens]: they tell whether a model is the one fitted on.

    Raises:
        ModelError: the model's losses of it are not finite.
    """
    row = trained_tokens(encoder.renderer, CHECK)
    (losses,) = token_losses(encoder.runtime, [row.ids], [row.trained]).values
    if losses is None:
        raise ModelError("the model's losses are not finite; with float16, try bfloat16 or float32")
    return losses


def tried_rows(rows: Sequence[Rendered]) -> list[int]:
    """The numbers of the shortest row, the longest and the last: where a state depends on the batch, theirs do."""
    by_length = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
    return sorted({by_length[0], by_length[-1], len(rows) - 1})


def require_same_alone(
    encoder: Encoder, rows: Sequence[Rendered], layers: Sequence[int], among: NDArray[np.float32]
) -> None:
    """Make sure that states are those that rows have alone: what a model computes of a row may depend on its batch.

    Tried are the shortest row, the longest, and the last, one at a time by the model's own full pass.

    Args:
        encoder: the encoder of the model.
        rows: the rows that were encoded together.
        layers: the blocks.
        among: float32 [rows, layers, hidden size], their states among each other.

    Raises:
        ModelError: a row has another state alone.
    """
    chosen = tried_rows(rows)
    alone = encoder.encode_alone([rows[number].ids for number in chosen], layers)
    apart = np.linalg.norm(alone - among[chosen], axis=-1) / np.linalg.norm(alone, axis=-1)
    if not (apart <= (1e-3 if encoder.loaded.dtype_name == "float32" else 0.1)).all():
        worst = int(apart.max(axis=-1).argmax())
        raise ModelError(
            f"{type(encoder.loaded.model).__name__}: the state of a row depends on the batch that it runs in (a row of "
            f"{len(rows[chosen[worst]].ids):,} tokens differs by {apart.max():.1%} from the same row alone), so its "
            "score would too; no scorer is fitted on such states"
        )


def require_fitted_model(
    spec: ScorerSpec, expected: NDArray[np.float32], encoder: Encoder, moved: Collection[str] = ()
) -> None:
    """Make sure that a model is the one a scorer was fitted on: same version, same template, same states or losses.

    The states or losses are those of one conversation, in which two models may agree that differ elsewhere: so a model
    of another version passes only if the user has said where it is. It costs one forward pass, once for each model in
    memory and scorer.

    Args:
        spec: the scorer's.
        expected: what is expected of `CHECK`: its state at `spec.layers`, float32 [layers, hidden size]; or, if the
            scorer reads losses, those of its trained tokens, float32 [tokens].
        encoder: the encoder of the model.
        moved: names of the options by which the user has said where it is now: `model`, or an adapter's `base`.

    Raises:
        ScorerError: it is another model, or has another chat template.
    """
    _require_version(spec, encoder.loaded.version, moved)
    passed = _passed.setdefault(encoder.loaded, set())
    digest = hashlib.sha256(expected.tobytes() + repr((spec.layers, spec.template_digest)).encode()).hexdigest()
    if digest not in passed:
        _check(spec, expected, encoder)
        say_once(_other_transformers(spec))
        passed.add(digest)


def _require_version(spec: ScorerSpec, version: str, moved: Collection[str]) -> None:
    """Refuse files that have changed under the name of the model, unless the user has said that it is elsewhere now."""
    # The demo model is the same out of a GGUF file and from the Hub, under two versions.
    if "model" in moved or spec.model in (DEMO, ALIGNED):
        return
    before, now = _base_and_model(spec.version), _base_and_model(version)
    changed = ["its base model"] if before[0] != now[0] and "base" not in moved else []
    changed += ["the adapter" if before[0] else "the model"] if before[1] != now[1] else []
    if changed:
        options = "base= (--base) or model= (--model)" if "its base model" in changed else "model= (--model)"
        raise ScorerError(
            f"{spec.model} is not the one this scorer was fitted on: {' and '.join(changed)} changed (fitted at "
            f"{spec.version}, found {version}); fit a scorer on it, or, if it is the same model in other files, say "
            f"where it is by {options}"
        )


def _base_and_model(version: str) -> tuple[str, str]:
    """The versions of an adapter's base and of the adapter; of a model without one, nothing and its own."""
    base, _, model = version.rpartition("+")
    return base, model


def _other_transformers(spec: ScorerSpec) -> str:
    """A line where another release of transformers runs the model than when the scorer was fitted; else nothing."""
    fitted, here = spec.packages.get("transformers", ""), importlib.metadata.version("transformers")
    if not fitted or fitted.split(".")[:2] == here.split(".")[:2]:
        return ""
    return (
        f"the scorer of {spec.model} was fitted with transformers {fitted}, and {here} runs the model here: one "
        "conversation has the same state as then, and scores may differ in their last digits"
    )


def _check(spec: ScorerSpec, expected: NDArray[np.float32], encoder: Encoder) -> None:
    if encoder.renderer.template_digest != spec.template_digest:
        raise ScorerError(f"{spec.model} has another chat template than the one this scorer was fitted with")
    loaded = encoder.loaded
    if not spec.layers:
        losses = check_losses(encoder)
        if losses.shape == expected.shape and np.abs(losses - expected).max() <= _most_apart(spec, loaded):
            return
    elif loaded.hidden_size == spec.hidden_size:
        state = encoder.states_of([CHECK], spec.layers).values[0]
        cosines = (normalise(state) * normalise(expected)).sum(axis=-1)
        if (cosines >= least_cosine(spec.dtype, loaded)).all():
            return
    if loaded.version == spec.version:
        raise ScorerError(
            f"{spec.model} is the very model that this scorer was fitted on ({spec.version}), and gives another state "
            f"for the same conversation now: fitted with {_named(spec.packages)}, in {spec.dtype}; it runs in "
            f"{loaded.dtype_name} now. Its states depend on the packages or on the batch: fit a scorer here"
        )
    raise ScorerError(
        f"the model found now ({loaded.version}) is not the one this scorer was fitted on "
        f"({spec.model}, {spec.version}): fit a scorer on it"
    )


def _most_apart(spec: ScorerSpec, loaded: LoadedModel) -> float:
    """By how much losses may differ, in nats: in float32 by rounding alone."""
    return 1e-3 if spec.dtype == loaded.dtype_name == "float32" else 0.3


def _named(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def least_cosine(fitted: DType, loaded: LoadedModel) -> float:
    """float32 agrees to 1e-6 between machines, bfloat16 to 1e-3; 4 bits are 0.94 from them on the demo model."""
    if fitted == loaded.dtype_name == "float32":
        return 0.9999
    return 0.9 if loaded.quantised and loaded.quantised != fitted else 0.99
