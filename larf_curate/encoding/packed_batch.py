"""A packed batch: where the tokens of each row lie, and the keys and values that attention sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .hooks import RunningBatch, StopForward, running_batch
from .memory import to_device

if TYPE_CHECKING:
    import torch

_SIMILAR_LENGTH = 0.85  # a segment's shortest row has at least this share of the tokens of its longest


@dataclass(frozen=True)
class PackingSettings:
    """What decides between ways of computing the same states: speed alone depends on it.

    Attributes:
        prefix_overhead: a shared prefix is split off only if that saves at least this many tokens of work, since it
            makes batches of its own.
        chunk_queries: tokens, about, whose attention is computed at once. On a CPU their scores stay in its cache; on
            an accelerator the scores are the largest tensor of all.
        chunk_queries_accelerator: the same on an accelerator.
        sdpa_tokens: seen tokens from which torch's own attention is the faster one on a CPU.
    """

    prefix_overhead: int = 512
    chunk_queries: int = 64
    chunk_queries_accelerator: int = 512
    sdpa_tokens: int = 768


@dataclass(frozen=True)
class AttentionOptions:
    """What else a block's attention does.

    Attributes:
        scale: factor of the products of queries and keys.
        window: how many tokens back a token sees, itself included; None for all.
        softcap: scores are squashed to (-softcap, softcap) by a tanh; None leaves them.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class Segment:
    """Rows of similar length that attention computes together, padded to the longest by their own last tokens.

    Attributes:
        first_row, rows: which rows of the batch these are.
        start, stop: where their tokens lie in the sequence of the batch.
        prefix: tokens of the shared prefix.
        length: tokens of the longest row, without the prefix.
        lengths: tokens of each row, without the prefix, int64 [rows].
        queries: index of the rows' tokens in the sequence, int64 [rows * length]; None where no row needs pads.
        keys: index of the tokens that the rows see, in the prefix and the sequence behind it, int64 [rows * (prefix +
            length)].
        unpadded: index of what are not pads in `queries`; None where no row needs pads.
    """

    first_row: int
    rows: int
    start: int
    stop: int
    prefix: int
    length: int
    lengths: torch.Tensor
    queries: torch.Tensor | None
    keys: torch.Tensor
    unpadded: torch.Tensor | None

    @classmethod
    def of(cls, first_row: int, lengths: Sequence[int], start: int, prefix: int, device: torch.device) -> Segment:
        """Rows from `first_row` on with so many tokens each behind the prefix; the first of them lies at `start`."""
        import torch

        own = torch.tensor(lengths)
        length, rows = int(own.max()), len(lengths)
        places = torch.arange(length)
        index = start + (own.cumsum(0) - own)[:, None] + places.minimum(own[:, None] - 1)
        ragged = bool((own < length).any())
        keys = torch.cat([torch.arange(prefix).expand(rows, -1), index + prefix], dim=1)
        return cls(
            first_row=first_row,
            rows=rows,
            start=start,
            stop=start + sum(lengths),
            prefix=prefix,
            length=length,
            lengths=to_device(own, device),
            queries=to_device(index.flatten(), device) if ragged else None,
            keys=to_device(keys.flatten(), device),
            unpadded=to_device((places < own[:, None]).flatten().nonzero()[:, 0], device) if ragged else None,
        )


KeysValues = tuple["torch.Tensor", "torch.Tensor"]
"""Keys and values, each [tokens, key heads, head size]."""
PrefixCache = Mapping[Any, KeysValues]
"""Those of a shared prefix, by attention module."""


class Step(Enum):
    """What a block computes of a packed batch."""

    ALL_TOKENS = "all tokens"
    KEYS_AND_VALUES = "keys and values of all tokens, nothing else"
    LAST_TOKENS = "last tokens alone, which see the keys and values computed in the step before"


@dataclass(kw_only=True)
class PackedBatch(RunningBatch):
    """Rows whose tokens lie end to end behind a shared prefix, and what a pass makes of them on the way up.

    Attributes:
        segments: the rows, in the order of the batch.
        prefix_cache: keys and values of the shared prefix; empty where the rows share none.
        is_prefix: the batch is itself a shared prefix of others: `keys_values` are wanted of it, and no states.
        settings: how attention is computed.
        step: what the block that runs now computes.
        keys_values: the keys values by attention module, the keys and values of a batch with `is_prefix`.
        last_keys_values: keys and values of prefix and rows, computed in the step KEYS_AND_VALUES.
        attention_options: what each attention module asked for.
        masks: attention masks, which the blocks share.
        used_kernels: compiled kernels took part.
    """

    segments: list[Segment]
    prefix_cache: PrefixCache
    is_prefix: bool
    settings: PackingSettings
    step: Step = Step.ALL_TOKENS
    keys_values: dict[Any, KeysValues] = field(default_factory=dict)
    last_keys_values: KeysValues | None = None
    attention_options: dict[Any, AttentionOptions] = field(default_factory=dict)
    masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)
    used_kernels: bool = False

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        prefix: int,
        prefix_cache: PrefixCache,
        device: torch.device,
        *,
        is_prefix: bool = False,
        settings: PackingSettings,
    ) -> PackedBatch:
        """Rows with so many tokens each behind a prefix of `prefix` tokens, in this order.

        Rows that follow each other form a segment as long as their lengths are similar.
        """
        import torch

        segments: list[Segment] = []
        first = start = 0
        while first < len(lengths):
            count = 1
            longest = shortest = lengths[first]
            while first + count < len(lengths):
                following = lengths[first + count]
                longest, shortest = max(longest, following), min(shortest, following)
                if shortest < _SIMILAR_LENGTH * longest:
                    break
                count += 1
            segments.append(Segment.of(first, lengths[first : first + count], start, prefix, device))
            first, start = first + count, segments[-1].stop
        last = torch.tensor([end - 1 for end in accumulate(lengths)])
        return cls(
            last_tokens=to_device(last, device),
            segments=segments,
            prefix_cache=prefix_cache,
            is_prefix=is_prefix,
            settings=settings,
        )

    def with_prefix(self, module: object, key: torch.Tensor, value: torch.Tensor) -> KeysValues:
        """Keys and values that the rows see: those of the shared prefix, and behind them the rows' own.

        Args:
            module: the attention module that asks.
            key, value: keys and values of the batch's tokens, [tokens, key heads, head size].

        Raises:
            StopForward: in the step KEYS_AND_VALUES, when they are in `last_keys_values`.
            NotImplementedError: a module asks twice in one pass.
        """
        import torch

        if self.is_prefix:
            if module in self.keys_values:
                raise NotImplementedError("an attention module that runs twice in one pass")
            self.keys_values[module] = key.contiguous(), value.contiguous()
        elif self.prefix_cache:
            prefix_key, prefix_value = self.prefix_cache[module]
            key, value = torch.cat([prefix_key, key]), torch.cat([prefix_value, value])
        if self.step is Step.KEYS_AND_VALUES:
            self.last_keys_values = key, value
            raise StopForward
        return key, value


def running_packed_batch() -> PackedBatch:
    """The packed batch that this thread runs."""
    batch = running_batch()
    assert isinstance(batch, PackedBatch)
    return batch
