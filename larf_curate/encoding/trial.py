"""Which of the fast passes give a model the states that it gives each row alone: found by trying them on a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError, one_line
from .fused import fused_blocks
from .limits import limits_of
from .memory import is_out_of_memory
from .packed_batch import PackingSettings
from .packing import PackedPass
from .padding import PaddedPass
from .readout import LastTokenStates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..models.loading import LoadedModel

_LENGTHS = (1, 9, 9, 20)  # tokens of the rows that every model is tried on, behind the prefix that they share
_PREFIX = 5


def fastest_pass(loaded: LoadedModel, settings: PackingSettings | None = None) -> PackedPass | PaddedPass:
    """The fastest pass of those that give the states of one row at a time with this model.

    Args:
        loaded: the model; the caller holds its lock.
        settings: the settings of a packed pass.

    Raises:
        ModelError: the model does not run at all.
    """
    if loaded.one_by_one:
        return PaddedPass(loaded, one_by_one=True)
    rows = trial_rows(loaded, _LENGTHS)
    expected = _states_alone(loaded, rows)
    packed = PackedPass(loaded, settings=settings)
    if not _gives(packed, rows, expected):
        padded = PaddedPass(loaded)
        return padded if _gives(padded, rows, expected) else PaddedPass(loaded, one_by_one=True)
    options = packed.attention_options()
    decoder = loaded.model.config.get_text_config(decoder=True)
    packed.limits = limits_of(decoder, len(loaded.blocks), [each.window for each in options.values()])
    blocks = fused_blocks(loaded.blocks, options)
    if not blocks:
        return packed
    fused = PackedPass(loaded, blocks, settings)
    fused.limits = packed.limits
    return fused if _gives(fused, rows, expected) else packed


def gives_plain_states(forward: PackedPass | PaddedPass, lengths: Sequence[int] = _LENGTHS) -> bool:
    """Whether a pass gives the states of one row at a time, on rows with a shared prefix.

    Args:
        forward: the pass.
        lengths: the lengths of the rows, in tokens behind the prefix.
    """
    rows = trial_rows(forward.loaded, lengths)
    return _gives(forward, rows, _states_alone(forward.loaded, rows))


def keeps_window(forward: PackedPass, window: int) -> bool:
    """Whether a packed pass keeps a sliding window of so many tokens, on rows that are shorter and longer than it."""
    beyond = window + max(8, window // 8)
    return gives_plain_states(forward, [9, max(1, window - _PREFIX - 8), beyond])


def trial_rows(loaded: LoadedModel, lengths: Sequence[int]) -> list[list[int]]:
    """Random rows of so many tokens each behind a prefix that they share."""
    vocabulary = loaded.model.config.get_text_config(decoder=True).vocab_size
    draw, ids = np.random.default_rng(0), range(min(3, vocabulary - 1), min(400, vocabulary))
    prefix, *own = ([int(token) for token in draw.choice(ids, length)] for length in [_PREFIX, *lengths])
    return [prefix + row for row in own]


def _readout(loaded: LoadedModel) -> LastTokenStates:
    return LastTokenStates(sorted({0, len(loaded.blocks) - 1}))


def _states_alone(loaded: LoadedModel, rows: Sequence[list[int]]) -> NDArray[np.float32]:
    """States [rows, layers, hidden size] of the model's own code, one row at a time."""
    one_by_one = PaddedPass(loaded, one_by_one=True)
    try:
        with one_by_one.reading(_readout(loaded)):
            return np.concatenate([one_by_one([row], 0).cpu().numpy() for row in rows])
    except ModelError:
        raise
    except Exception as error:  # the code of hundreds of architectures, and of models that bring their own
        if is_out_of_memory(error):
            raise
        name = type(loaded.model).__name__
        raise ModelError(f"{name} does not run on text alone: {type(error).__name__}: {one_line(error)}") from error


def _gives(forward: PackedPass | PaddedPass, rows: Sequence[list[int]], expected: NDArray[np.float32]) -> bool:
    """Whether a pass gives these states for these rows in one batch."""
    loaded = forward.loaded
    prefix = _PREFIX if isinstance(forward, PackedPass) else 0
    try:
        with forward.reading(_readout(loaded)):
            actual: Any = forward(rows, prefix).cpu().numpy()
    except Exception:  # an architecture with attention or blocks of its own kind may fail anywhere in there
        return False
    error = np.linalg.norm(actual - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return bool((error < (1e-4 if loaded.dtype_name == "float32" else 3e-2)).all())
