"""The loss of each trained token of some rows, at the speed of packed batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Issue
from .heads import LossHead
from .hooks import RunningBatch, StopForward, running_batch
from .jobs import EncodingJob, RowValues
from .memory import to_device

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from .runtime import Runtime

_LOSSES = 0  # the key of the losses in `RunningBatch.kept`


@dataclass(frozen=True)
class TokenLosses:
    """Losses of some rows, in their order.

    Attributes:
        values: for each row, the loss of each of its trained tokens in nats, float32 [trained tokens]; None where
            `issues` says why there are none.
        issues: for each row, why it has no value, or None.
        execution: how they were computed, in words.
    """

    values: list[NDArray[np.float32] | None]
    issues: list[Issue | None]
    execution: str


def token_losses(
    runtime: Runtime,
    ids: Sequence[Sequence[int]],
    trained: Sequence[Sequence[bool]],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> TokenLosses:
    """The cross-entropy of each trained token under the model, which sees all tokens before it in the row.

    Rows are batched as for states: packed if the architecture allows it, shared prefixes and equal rows only once,
    several batches at a time on a CPU, halved batches if memory runs out. The final norm runs for all tokens, the head
    for the trained ones alone, a few at a time.

    Args:
        runtime: the runtime of a model that was loaded with its head.
        ids: token ids of each row, none empty.
        trained: for each of them, whether its loss is wanted; never for a row's first token, at least one in a row.
        batch_tokens: as for states.
        progress: called with the number of rows just done.

    Raises:
        ModelError: the model was loaded without its head.
        ValueError: a row has no trained token, or trains its first.
    """
    return LossJob(runtime, ids, trained, batch_tokens=batch_tokens).run(progress)


class LossJob:
    """The losses of some rows, as often as wanted: under weights that are moved in between, for example.

    What does not depend on the weights is done once: equal rows are found, and batches are planned. Arguments and
    errors as of `token_losses`.
    """

    def __init__(
        self,
        runtime: Runtime,
        ids: Sequence[Sequence[int]],
        trained: Sequence[Sequence[bool]],
        *,
        batch_tokens: int | None = None,
    ) -> None:
        places = trained_places(ids, trained)
        readout = LossReadout(runtime, places)
        self._own = own_places(ids, trained, places)
        self._job = EncodingJob(runtime, ids, readout, (readout.widest,), batch_tokens=batch_tokens)

    def run(self, progress: Callable[[int], object] | None = None) -> TokenLosses:
        """The losses under the model's weights as they are now.

        Args:
            progress: called with the number of rows just done.
        """
        result = self._job.run(progress)
        return TokenLosses(own_values(result, self._own), result.issues, result.execution)


Places = Mapping[tuple[int, ...], Sequence[int]]


def trained_places(ids: Sequence[Sequence[int]], trained: Sequence[Sequence[bool]]) -> Places:
    """For each distinct row, the places whose loss is wanted for any of its copies, ascending.

    Raises:
        ValueError: a row has no trained token, or trains its first.
    """
    places: dict[tuple[int, ...], set[int]] = {}  # equal rows run once, for the trained tokens of all of them
    for number, (row, marks) in enumerate(zip(ids, trained, strict=True)):
        wanted = {place for place, mark in enumerate(marks) if mark}
        if not wanted or 0 in wanted or len(marks) != len(row):
            raise ValueError(f"row {number}: trained tokens must be some of the row's {len(row)}, without the first")
        places.setdefault(tuple(row), set()).update(wanted)
    return {row: tuple(sorted(wanted)) for row, wanted in places.items()}


def own_places(
    ids: Sequence[Sequence[int]], trained: Sequence[Sequence[bool]], places: Places
) -> list[NDArray[np.intp]]:
    """For each row, which of the places that are read of its tokens belong to its own trained ones."""
    return [
        np.array([at for at, place in enumerate(places[tuple(row)]) if marks[place]], np.intp)
        for row, marks in zip(ids, trained, strict=True)
    ]


def own_values(result: RowValues, own: Sequence[NDArray[np.intp]]) -> list[NDArray[np.float32] | None]:
    """Of what was read for each row, what belongs to its own trained tokens: [trained tokens, ...]; None for none."""
    rows = zip(result.values, own, result.issues, strict=True)
    return [None if issue is not None else numbers[places] for numbers, places, issue in rows]


class LossReadout:
    """Reads the losses of chosen tokens above the last block. See `Readout`.

    Args:
        runtime: the runtime of a model with its head.
        places: for each row, by its token ids, the places of the tokens whose loss is wanted; ascending, none of them
            0.

    Attributes:
        widest: trained tokens of the row that has most.
    """

    def __init__(self, runtime: Runtime, places: Places) -> None:
        self._head = LossHead(runtime.loaded)
        self._places = places
        self.widest = max(map(len, places.values()), default=0)

    def longest_prefix(self, row: Sequence[int]) -> int:
        """All but the token before the first trained one: the logits after that token give the first loss."""
        return self._places[tuple(row)][0] - 1

    @contextlib.contextmanager
    def installed(self, blocks: nn.ModuleList, *, packed: bool) -> Iterator[None]:  # noqa: ARG002
        """See `Readout`."""
        with self._head.installed(self._read):
            yield

    def shortcuts(self, *, packed: bool) -> tuple[str, ...]:  # noqa: ARG002
        """See `Readout`: all blocks run, for all tokens."""
        return ("the head for trained tokens alone",)

    def result(self, batch: RunningBatch) -> torch.Tensor:
        """Losses, float32 [rows, most trained tokens of any row]; rows with fewer are filled up with zeros."""
        import torch

        counts = [len(self._places[tuple(row)]) for row in batch.rows]
        losses = batch.kept[_LOSSES].cpu()
        out = torch.zeros(len(counts), self.widest, *losses.shape[1:])
        for row, part in zip(out, torch.split(losses, counts), strict=True):
            row[: len(part)] = part
        return out

    def _read(self, states: torch.Tensor) -> None:
        """Compute losses from the states after the final norm, [1 or rows, tokens, hidden size]; end the pass there."""
        import torch

        batch = running_batch()
        if batch.rows:
            read: list[int] = []
            targets: list[int] = []
            for row, start in zip(batch.rows, batch.starts, strict=True):
                for place in self._places[tuple(row)]:
                    read.append(start + place - 1)
                    targets.append(row[place])
            index, target_ids = (to_device(torch.tensor(numbers), states.device) for numbers in (read, targets))
            batch.kept[_LOSSES] = self._kept(self._head.losses(states.flatten(0, 1)[index], target_ids))
        raise StopForward

    def _kept(self, losses: torch.Tensor) -> torch.Tensor:
        """What is kept of the losses [tokens]: [tokens, ...]."""
        return losses
