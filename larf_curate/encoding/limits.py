"""Lengths at which an architecture begins to compute something else, read from its config.

What is computed of a token should depend on its row alone. There are lengths from which that is not so in a batch:

- LongRoPE and dynamic NTK choose the frequencies of rotary positions by the longest row of a batch.
- Sparse attention (DeepSeek 3.2 and 4, Doge) chooses the keys that score highest: between those that score alike, the
  shape of the batch decides.
- Llama 4 scales attention by a token's index in the sequence that runs, and lets it see a chunk of that sequence. Rows
  that lie end to end share one.
- A window may be in the model's own mask alone, which packed rows do not have.

Rows and batches are kept below these lengths, or rows run one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_LENGTH = re.compile(r"window|chunk|floor|local_attention|block_size")
_CHOICE = re.compile(r"index_topk|keep_window|topk_blocks|compress_rate")
_OTHER = re.compile(r"feed_forward|mamba|ssm|pattern|layers|time_step|num_|freq|offset|^chunk_size$")


@dataclass(frozen=True)
class Limits:
    """Up to which lengths rows may run together with others; None for any length.

    Attributes:
        batched: rows of more tokens run one by one, whatever the pass: the model looks at the longest row of a batch.
        packed: rows of more tokens are not packed, and batches of packed rows have no more tokens.
        windows: the widths of sliding windows that attention is asked for in packed rows too, ascending.
    """

    batched: int | None = None
    packed: int | None = None
    windows: tuple[int, ...] = ()


def limits_of(decoder: Any, blocks: int, asked_windows: Iterable[int | None] = ()) -> Limits:
    """The limits of a model.

    Args:
        decoder: the config of its decoder.
        blocks: how many of its blocks are run.
        asked_windows: for each attention module, the window that it asks our attention for.
    """
    asked = {window for window in asked_windows if window is not None}
    batched = min([*_rope_lengths(decoder), *(length - 1 for _, length in _lengths(decoder, _CHOICE))], default=None)
    lengths = {length for name, length in _lengths(decoder, _LENGTH) if _concerns(name, decoder, blocks)} - asked
    packed = min([length - 1 for length in lengths], default=None)
    return Limits(batched, packed, tuple(sorted(asked)))


def _rope_lengths(decoder: Any) -> Iterator[int]:
    """Rows of up to these many tokens have the same frequencies alone and in a batch."""
    rope = getattr(decoder, "rope_parameters", None) or getattr(decoder, "rope_scaling", None) or {}
    kinds = [kind for kind in rope.values() if isinstance(kind, dict)] or [rope]
    for kind in kinds:
        name = str(kind.get("rope_type", kind.get("type", "")))
        trained = [
            kind.get("original_max_position_embeddings"),
            getattr(decoder, "original_max_position_embeddings", 0),
        ]
        if name == "longrope":
            yield min(length for length in [*trained, decoder.max_position_embeddings] if length)
        elif "dynamic" in name:  # begins at this very length, and is kept until a shorter batch comes
            yield min(length for length in [*trained, decoder.max_position_embeddings] if length) - 1


def _lengths(decoder: Any, wanted: re.Pattern[str]) -> Iterator[tuple[str, int]]:
    """Names and values of the config's entries that are lengths of this kind."""
    for name, value in vars(decoder).items():
        if not wanted.search(name) or _OTHER.search(name):
            continue
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        yield from ((name, length) for length in values if type(length) is int and length > 1)
    rope = getattr(decoder, "rope_parameters", None) or {}
    if wanted is _LENGTH and rope.get(
        "llama_4_scaling_beta"
    ):  # attention is scaled by a token's position: not proven for each architecture
        yield "scaling", int(rope.get("original_max_position_embeddings") or decoder.max_position_embeddings)


def _concerns(name: str, decoder: Any, blocks: int) -> bool:
    """Whether blocks that are run have windows or chunks, as far as the config says."""
    if "window" in name and getattr(decoder, "use_sliding_window", None) is False:
        return False
    kinds = " ".join(map(str, (getattr(decoder, "layer_types", None) or [])[:blocks]))
    for word, of_kind in (("window", ("sliding", "window", "local")), ("chunk", ("chunk",))):
        if word in name and kinds and not any(part in kinds for part in of_kind):
            return False
    return True
