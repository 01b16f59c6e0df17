"""A job: many rows run through a model in batches. What fails for lack of memory runs again in smaller ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import Issue, ModelError
from .batching import Batch
from .memory import is_out_of_memory, release_memory
from .packing import PackedPass
from .readout import Readout
from .runtime import Runtime
from .threads import map_in_threads
from .tuning import ForwardPass, best_batch_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RowValues(NamedTuple):
    """What was read of some rows.

    Attributes:
        values: float32 [rows, ...], NaN where `issues` says why there is nothing.
        issues: for each row, why it has no value, or None.
        execution: how the rows ran, in words: precision, device, size of the batches, and shortcuts taken.
    """

    values: NDArray[np.float32]
    issues: list[Issue | None]
    execution: str


class EncodingJob:
    """Rows to run through a model, as often as wanted: equal rows are found once, and batches are planned once.

    Equal rows run once. A batch that does not fit in memory runs again in halves, and its size is remembered.

    Args:
        runtime: the model.
        ids: token ids of each row, none empty.
        readout: what to read.
        shape: the shape of what it reads of one row.
        batch_tokens: tokens of a batch; None takes what suits the model and the machine (`tuning`).

    Raises:
        ModelError: the model has no embedding for one of the ids.
    """

    def __init__(
        self,
        runtime: Runtime,
        ids: Sequence[Sequence[int]],
        readout: Readout,
        shape: tuple[int, ...],
        *,
        batch_tokens: int | None = None,
    ) -> None:
        self._runtime = runtime
        self._readout = readout
        self._shape = shape
        self._batch_tokens = batch_tokens
        self._places: dict[tuple[int, ...], list[int]] = {}  # where each row stands in `ids`
        for place, tokens in enumerate(ids):
            self._places.setdefault(tuple(tokens), []).append(place)
        self._rows = list(self._places)
        self._plan: tuple[int, list[tuple[ForwardPass, list[Batch]]]] | None = None  # for batches of so many tokens
        _require_embeddings(runtime, self._rows)

    def run(self, progress: Callable[[int], object] | None = None) -> RowValues:
        """Run the rows, and read something of each.

        Args:
            progress: called with the number of rows just done.
        """
        runtime, rows = self._runtime, _Rows(self._places, self._shape)
        with runtime.lock:
            forward = runtime.forward
            size = self._batch_tokens or best_batch_tokens(runtime, sum(map(len, rows.distinct)))
            planned = self._planned(size)
            for each, batches in planned:
                with each.reading(self._readout):
                    # First all batches, as many at once as there are threads; then those that failed, one at a time, so
                    # that no other takes the memory.
                    again, serial = batches, False
                    while again:
                        again = _run_batches(runtime, each, rows, again, progress, serial=serial)
                        serial = True
            packed = isinstance(forward, PackedPass)
            shortcuts = ", ".join((*self._readout.shortcuts(packed=packed), *forward.shortcuts))
            if one_by_one := sum(len(batch.rows) for _, batches in planned[1:] for batch in batches):
                shortcuts += f"; {one_by_one:,} long rows one by one"
        loaded = runtime.loaded
        execution = f"{loaded.dtype_name} on {loaded.device}, batches of up to {size:,} tokens; {shortcuts}"
        return RowValues(rows.values, rows.issues, execution)

    def _planned(self, size: int) -> list[tuple[ForwardPass, list[Batch]]]:
        """Which batches of at most so many tokens run by which pass. The caller holds the lock."""
        if self._plan is None or self._plan[0] != size:
            planned = []
            for each, numbers in self._runtime.shared_out([len(row) for row in self._rows]):
                with each.reading(self._readout):
                    batches = each.plan([self._rows[number] for number in numbers], size)
                planned.append((each, [Batch([numbers[i] for i in batch.rows], batch.prefix) for batch in batches]))
            self._plan = size, planned
        return self._plan[1]


def run_rows(
    runtime: Runtime,
    ids: Sequence[Sequence[int]],
    readout: Readout,
    shape: tuple[int, ...],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> RowValues:
    """Run rows through a model once, and read something of each. Arguments and errors as of `EncodingJob`."""
    return EncodingJob(runtime, ids, readout, shape, batch_tokens=batch_tokens).run(progress)


def _require_embeddings(runtime: Runtime, rows: Sequence[tuple[int, ...]]) -> None:
    """Refuse token ids that the model has no embedding for: on a GPU, they would end the process.

    Raises:
        ModelError: names the highest.
    """
    try:
        embeddings = len(runtime.loaded.model.get_input_embeddings().weight)
    except (NotImplementedError, AttributeError):  # a model of its own kind does not say
        return
    if (highest := max(map(max, rows), default=0)) >= embeddings:
        raise ModelError(
            f"the tokenizer gives token {highest:,}, and the model has embeddings for {embeddings:,} tokens: the "
            "tokenizer belongs to another model"
        )


def _run_batches(
    runtime: Runtime,
    forward: ForwardPass,
    rows: _Rows,
    batches: list[Batch],
    progress: Callable[[int], object] | None,
    *,
    serial: bool,
) -> list[Batch]:
    """Run batches, and return those that have to run again. `serial`: one at a time."""
    again: list[Batch] = []
    run = partial(_run_batch, runtime, forward, rows.distinct)
    with closing(map_in_threads(run, batches, threaded=forward.threaded and not serial)) as results:
        for batch, values in results:
            unfinished, done = rows.store(batch, values, serial=serial)
            again += unfinished
            if progress is not None and done:
                progress(done)
    return again


def _run_batch(
    runtime: Runtime, forward: ForwardPass, rows: Sequence[tuple[int, ...]], batch: Batch
) -> NDArray[np.float32] | None:
    """What is read of a batch, [rows of the batch, ...]; None if it does not fit in memory."""
    too_many = runtime.tokens_out_of_memory
    chosen = [rows[i] for i in batch.rows]
    tokens = forward.tokens(chosen, batch.prefix)
    if len(chosen) > 1 and too_many is not None and tokens >= too_many:
        return None
    try:
        values: NDArray[np.float32] = forward(chosen, batch.prefix).cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return values
    # Outside the except clause: the traceback there holds the very tensors that have to go.
    release_memory(runtime.loaded.device)
    if len(chosen) > 1:
        runtime.tokens_out_of_memory = tokens
    return None


class _Rows:
    """What is known so far of the rows of a run.

    Args:
        places: the distinct rows, and where each stands among all.
        shape: the shape of what is read of one row.

    Attributes:
        distinct: the different rows.
        values, issues: for all rows; see `RowValues`.
    """

    def __init__(self, places: Mapping[tuple[int, ...], list[int]], shape: tuple[int, ...]) -> None:
        self._places = places
        self.distinct = list(places)
        count = sum(map(len, places.values()))
        self.values = np.full((count, *shape), np.nan, np.float32)
        self.issues: list[Issue | None] = [None] * count

    def store(self, batch: Batch, values: NDArray[np.float32] | None, *, serial: bool) -> tuple[list[Batch], int]:
        """Store what was read of a batch.

        Args:
            batch: a batch of the distinct rows.
            values: [rows of the batch, ...]; None where the batch did not fit in memory.
            serial: no other batch ran at the same time.

        Returns:
            What has to run again, and how many of all rows are done.
        """
        if values is None:
            if len(batch.rows) > 1:
                return list(batch.halves()), 0
            if not serial:
                return [batch], 0
            return [], self._finish(batch.rows[0], None, Issue.OUT_OF_MEMORY)
        again: list[Batch] = []
        done = 0
        for i, value in zip(batch.rows, values, strict=True):
            if np.isfinite(value).all():
                done += self._finish(i, value, None)
            elif len(batch.rows) > 1:
                again.append(Batch([i]))  # a pad may be at fault (zero times NaN is NaN): alone, there is none
            else:
                done += self._finish(i, None, Issue.NON_FINITE)
        return again, done

    def _finish(self, row: int, value: NDArray[np.float32] | None, issue: Issue | None) -> int:
        """Give every copy of a row its value, or the issue why it has none; returns how many copies there are."""
        places = self._places[self.distinct[row]]
        for place in places:
            self.issues[place] = issue
            if value is not None:
                self.values[place] = value
        return len(places)
