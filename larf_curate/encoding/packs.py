"""Where the tokens of conversations that lie end to end are, and what a pass through the blocks makes of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .memory import moved

if TYPE_CHECKING:
    import torch

_ALIKE = 0.85  # rows shorter than this share of the longest beside them are laid side by side by themselves


class Made(Exception):  # noqa: N818 - ends the making of keys and values, nothing is wrong
    """The highest block's keys and values are there."""


@dataclass(frozen=True)
class How:
    """What else a block's attention does: scale, look back only so far, squash the scores."""

    scale: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class Segment:
    """Conversations of near-equal length, side by side.

    Attributes:
        first, count: the rows of the batch that they are.
        start, stop: their tokens in the sequence.
        before, length: tokens of the beginning that they see, and of the longest of them behind it.
        asking: index of their tokens, [count * length] with pads; None where there are no pads.
        seen: index of the keys that they see, [count * (before + length)], in the beginning and the sequence behind it.
        real: index of what are not pads in `asking`.
        lengths: of each behind the beginning, [count].
    """

    first: int
    count: int
    start: int
    stop: int
    before: int
    length: int
    asking: torch.Tensor | None
    seen: torch.Tensor
    real: torch.Tensor | None
    lengths: torch.Tensor

    @classmethod
    def of(cls, first: int, lengths: Sequence[int], start: int, before: int, device: torch.device) -> Segment:
        """Rows from the `first` of their batch, whose tokens begin at `start`; their pads are their own last tokens."""
        import torch

        own = torch.tensor(lengths)
        length, count = int(own.max()), len(lengths)
        places = torch.arange(length)
        at = start + (own.cumsum(0) - own)[:, None] + places.minimum(own[:, None] - 1)
        ragged = bool((own < length).any())
        seen = torch.cat([torch.arange(before).expand(count, -1), at + before], dim=1)
        return cls(
            first=first,
            count=count,
            start=start,
            stop=start + sum(lengths),
            before=before,
            length=length,
            asking=moved(at.flatten(), device) if ragged else None,
            seen=moved(seen.flatten(), device),
            real=moved((places < own[:, None]).flatten().nonzero()[:, 0], device) if ragged else None,
            lengths=moved(own, device),
        )


Known = Mapping[int, "tuple[torch.Tensor, torch.Tensor]"]
"""Keys and values [tokens, heads, size] by call of attention, from the first block up."""


@dataclass
class Pack:
    """The tokens of some rows behind a beginning that is known, and what was made of them on the way up.

    Attributes:
        known: of the beginning; empty where rows share none.
        segments: the rows.
        last: index of the last token of each row.
        learning: keys and values of the sequence are wanted, as a beginning for others: `learnt`.
        making: keys and values of the highest block are wanted, and nothing else: `made`.
        asked: how each module's attention was asked for.
        states: after each block that is asked for, at the last tokens.
        compiled: loops of `kernels` took part.
    """

    known: Known
    segments: list[Segment]
    last: torch.Tensor
    learning: bool = False
    learnt: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    making: bool = False
    made: tuple[torch.Tensor, torch.Tensor] | None = None
    asked: dict[Any, How] = field(default_factory=dict)
    states: dict[int, torch.Tensor] = field(default_factory=dict)
    masks: dict[Any, torch.Tensor] = field(default_factory=dict)
    calls: int = 0
    compiled: bool = False

    @classmethod
    def of(
        cls, lengths: Sequence[int], before: int, known: Known, device: torch.device, *, learning: bool = False
    ) -> Pack:
        """Rows with so many tokens behind a beginning of `before` tokens, as they come."""
        import torch

        segments, first, at = [], 0, 0
        while first < len(lengths):
            count = 1
            longest = shortest = lengths[first]
            while first + count < len(lengths):
                longest, shortest = max(longest, lengths[first + count]), min(shortest, lengths[first + count])
                if shortest < _ALIKE * longest:
                    break
                count += 1
            segments.append(Segment.of(first, lengths[first : first + count], at, before, device))
            first, at = first + count, segments[-1].stop
        last = torch.tensor([end - 1 for end in accumulate(lengths)])
        return cls(known, segments, moved(last, device), learning)

    def hold(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [beginning and sequence, heads, size] from those of the sequence.

        Raises:
            Made: they are all that was wanted.
        """
        import torch

        call, self.calls = self.calls, self.calls + 1
        if self.learning:
            self.learnt[call] = key.contiguous(), value.contiguous()
        elif self.known:
            first, second = self.known[call]
            key, value = torch.cat([first, key]), torch.cat([second, value])
        if self.making:
            self.made = key, value
            raise Made
        return key, value


_current = threading.local()


def set_pack(pack: Pack | None) -> None:
    """What this thread runs next."""
    _current.pack = pack


def get_pack() -> Pack:
    """What this thread runs."""
    pack: Pack = _current.pack
    return pack
