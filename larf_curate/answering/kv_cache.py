"""Keys and values of tokens seen so far, in buffers of fixed size: a new token is written, and nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc,unused-ignore]
    """The cache of one block. transformers' own joins the tokens it has with every new one, which copies all of them.

    Args:
        capacity: tokens that it has room for.

    Attributes:
        length: tokens that it holds.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length = capacity, 0

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Start afresh with these, each [rows, key heads, tokens, head size]."""
        self._buffers = [keys.new_empty((*x.shape[:2], self.capacity, x.shape[3])) for x in (keys, values)]
        self.length, self.is_initialized = 0, True
        self.update(keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add new tokens, and return all keys and values; a block's attention calls this."""
        if not self.is_initialized:
            self.fill(key_states, value_states)
        else:
            end = self.length + key_states.shape[2]
            for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
                buffer[:, :, self.length : end] = new
            self.length = end
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens seen so far; masks are made for them."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep only these rows. A row is copied only if it gets another place; see `places_left`."""
        places = torch.arange(len(beam_idx), device=beam_idx.device)
        moved = (beam_idx != places).nonzero()[:, 0]
        for buffer in self._buffers:
            buffer[moved, :, : self.length] = buffer[beam_idx[moved], :, : self.length]
        self._buffers = [buffer[: len(places)] for buffer in self._buffers]


def places_left(is_left: Sequence[bool]) -> list[int]:
    """Which row each of the first places gets when some rows are left: its own, or one from behind the last place.

    >>> places_left([True, False, True, False, True])
    [0, 4, 2]
    """
    count = sum(is_left)
    behind = (place for place in range(count, len(is_left)) if is_left[place])
    return [place if is_left[place] else next(behind) for place in range(count)]


def growing_cache(blocks: int) -> Cache:
    """An empty cache of transformers' own kind: for one pass over a few tokens."""
    return Cache(layers=[DynamicLayer() for _ in range(blocks)])


def preallocated_cache(blocks: int, capacity: int) -> Cache:
    """An empty cache with room for `capacity` tokens in each block."""
    return Cache(layers=[PreallocatedLayer(capacity) for _ in range(blocks)])
