"""Exact order statistics of more scores than memory holds, from scores that can be read again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, ThresholdError
from ..scoring.plain_rows import is_list

Chunks = Callable[[], Iterable[NDArray[np.floating]]]
"""Called for each pass anew: it yields the same scores in the same order, [any length] at a time, NaN for none."""

_BATCH = 1 << 18
_DIGIT = 16
_COLLECTED = 1 << 20


@dataclass(frozen=True)
class Selected:
    """The scores at some ranks, and what the passes counted on the way.

    Attributes:
        values: float64 [ranks].
        below, equal: int64 [ranks], how many scores are lower than each value, and how many equal it.
        scored, rows: how many scores there are without NaN, and in all.
    """

    values: NDArray[np.float64]
    below: NDArray[np.int64]
    equal: NDArray[np.int64]
    scored: int
    rows: int


def as_scores(scores: Iterable[float | None]) -> NDArray[np.floating]:
    """An array of one number a row, NaN for none: float32 where they are float32, else float64.

    Raises:
        ThresholdError: they are not numbers, or not one a row.
    """
    values = scores.to_pylist() if hasattr(scores, "to_pylist") else scores  # Arrow's own numbers are none to numpy
    listed = values if isinstance(values, np.ndarray) else list(values)
    _refuse_others(listed)
    # A float32 column stays one: widened whole it would take twice its size again.
    dtype = np.float32 if getattr(listed, "dtype", None) == np.float32 else np.float64
    try:
        array: NDArray[np.floating] = np.asarray(listed, dtype=dtype)
    except (TypeError, ValueError):
        raise ThresholdError("scores must be numbers, with NaN or None where there is none") from None
    if array.ndim != 1:
        raise ThresholdError(f"scores must be one number a row, not an array of shape {array.shape}")
    return array


def one_score(score: Any) -> float | None:
    """The score of one row, out of a dataset in any format.

    Raises:
        ThresholdError: it is a row, or several of them.
    """
    if hasattr(score, "as_py"):
        score = score.as_py()
    if isinstance(score, Mapping) or is_list(score) or hasattr(score, "to_pylist"):
        raise ThresholdError(
            'keep decides on one score: dataset.filter(threshold.keep, input_columns="larf_score", '
            "with_indices=True), without batched; or threshold.split(dataset)"
        )
    number: float | None = score
    return number


def _refuse_others(scores: NDArray[Any] | list[Any]) -> None:
    """Texts and truth values, which numpy would take for numbers.

    Raises:
        ThresholdError: there is one.
    """
    if isinstance(scores, np.ndarray) and scores.dtype.kind in "fiu":
        return
    for row, score in enumerate(scores):
        if isinstance(score, str | bytes | bool | np.bool_):
            raise ThresholdError(
                f"scores must be numbers, with NaN or None where there is none: row {row} has {score!r}"
            )


def batches(chunks: Chunks) -> Iterator[NDArray[np.float64]]:
    """One pass in pieces of one size, whatever the chunks: float64 [2**18], fewer in the last.

    All share one buffer: each holds only until the next is asked for.
    """
    buffer = np.empty(_BATCH)
    filled = 0
    for chunk in chunks():
        start = 0
        while start < len(chunk):
            piece = chunk[start : start + _BATCH - filled]
            buffer[filled : filled + len(piece)] = piece
            start += len(piece)
            filled += len(piece)
            if filled == _BATCH:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def select(chunks: Chunks, ranks: Callable[[int], Sequence[int]]) -> Selected:
    """Radix selection: the scores at some ranks, exactly, however many scores there are.

    The first pass counts the scores by the highest 16 bits of their order, each further pass those that share a rank's
    bits so far by the next 16, until at most 2**20 are left; the next pass collects and sorts these. Scores that hardly
    tie take 2 or 3 passes up to hundreds of millions (the last one collects); millions that tie at a rank take 4, and
    no more are ever needed. For 300 million float32 scores in a Parquet column a pass reads 1.2 GB, and beside the
    reading takes about 1.5 seconds for one rank, 5 for a dozen.

    Memory does not grow with the number of scores: at most 0.5 MiB for each distinct rank (its counts), 24 MiB for the
    collected, 16 MiB for a batch at work, and a chunk.

    Args:
        chunks: see `Chunks`; float32 or float64.
        ranks: a function from the number of scores that are not NaN to the positions asked for, counted from 0 at the
            lowest score.

    Raises:
        IndexError: a rank is negative, or not below the number of scores. DataError: two passes saw other scores.
    """
    rows, first = 0, np.zeros(1 << _DIGIT, np.int64)
    for batch in batches(chunks):
        rows += len(batch)
        digit = _keys(batch) >> np.uint64(64 - _DIGIT)
        first += np.bincount(digit.view(np.int64), minlength=1 << _DIGIT)
    scored = int(first.sum())
    wanted = np.array(ranks(scored), np.int64)
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < scored:
        raise IndexError(f"ranks must be 0 to {scored - 1} (one less than the number of scores), not {wanted.tolist()}")
    search = _Search(wanted, scored)
    search.narrow(first[None])
    while search.bits < 64 and search.counts.sum() > _COLLECTED:
        histograms = np.zeros(len(search.prefixes) << _DIGIT, np.int64)
        for keys, place in search.hits(chunks):
            digit = keys >> np.uint64(64 - search.bits - _DIGIT) & np.uint64((1 << _DIGIT) - 1)
            # Not bincount: it would make all the histograms anew for each batch.
            np.add.at(histograms, (place << _DIGIT) + digit.view(np.int64), 1)
        search.narrow(histograms.reshape(-1, 1 << _DIGIT))
    if search.bits < 64:
        search.finish(np.concatenate([np.zeros(0, np.uint64), *(keys for keys, _ in search.hits(chunks))]))
    return Selected(_floats(search.prefix), search.below, search.equal, scored, rows)


def order_statistics(chunks: Chunks, ranks: Sequence[int]) -> NDArray[np.float64]:
    """What `np.sort(scores)[ranks]` is, of the scores that are not NaN: float64 [ranks], -0.0 as 0.0.

    Memory, passes, arguments and errors are those of `select`.
    """
    return select(chunks, lambda _: ranks).values


def quantiles(chunks: Chunks, points: Sequence[float]) -> NDArray[np.float64]:
    """What `np.quantile(scores, points)` is, in float64, of the scores that are not NaN: float64 [points].

    Memory and passes are those of `select`, for two ranks a point.

    Args:
        chunks: see `Chunks`.
        points: 0 to 1.

    Returns:
        [points], or [0] where no score is left. Between two equal infinities lies that infinity, for numpy NaN.

    Raises:
        ValueError: a point is not between 0 and 1. DataError: two passes saw other scores.
    """
    at = np.array(points, np.float64)
    if not ((at >= 0) & (at <= 1)).all():
        raise ValueError(f"quantiles lie at points between 0 and 1, not {at.tolist()}")

    def around_points(scored: int) -> list[int]:
        place = at * (scored - 1)
        return [*np.floor(place).astype(int).tolist(), *np.ceil(place).astype(int).tolist()] if scored else []

    selected = select(chunks, around_points)
    if not selected.scored:
        return np.zeros(0)
    low, high = selected.values[: len(at)], selected.values[len(at) :]
    weight = at * (selected.scored - 1) % 1
    with np.errstate(invalid="ignore"):
        step = high - low
        # Numpy's own: from the nearer end, so that rounding never leaves the interval.
        between = np.where(weight < 0.5, low + step * weight, high - step * (1 - weight))
    exact: NDArray[np.float64] = np.where(low == high, low, between)
    return exact


class _Search:
    """Where each rank lies: below which keys, under which highest bits (`prefix`), beside how many (`equal`)."""

    def __init__(self, ranks: NDArray[np.int64], scored: int) -> None:
        self.ranks, self.bits = ranks, 0
        self.prefix = np.zeros(len(ranks), np.uint64)
        self.below = np.zeros(len(ranks), np.int64)
        self.equal = np.full(len(ranks), scored, np.int64)
        self._group()

    def _group(self) -> None:
        self.prefixes, first, self.group = np.unique(self.prefix, return_index=True, return_inverse=True)
        self.counts = self.equal[first]

    def hits(self, chunks: Chunks) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        """The keys under each prefix, and the place of that prefix among them all, batch by batch."""
        if not len(self.prefixes):
            return
        for batch in batches(chunks):
            keys = _keys(batch)
            top = keys >> (64 - self.bits)
            near = (top >= self.prefixes[0]) & (top <= self.prefixes[-1])
            keys, top = keys[near], top[near]
            place = np.searchsorted(self.prefixes, top)
            hit = self.prefixes[place] == top
            yield keys[hit], place[hit]

    def narrow(self, histograms: NDArray[np.int64]) -> None:
        """Extend each prefix by the digit its rank falls on; histograms [prefixes, 2**16]."""
        for place, histogram in enumerate(histograms[: len(self.prefixes)]):
            refuse_change(histogram.sum() == self.counts[place])
            mine = self.group == place
            cumulative = np.cumsum(histogram)
            digit = np.searchsorted(cumulative, self.ranks[mine] - self.below[mine], "right")
            self.below[mine] += cumulative[digit] - histogram[digit]
            self.equal[mine] = histogram[digit]
            self.prefix[mine] = self.prefix[mine] << _DIGIT | digit.astype(np.uint64)
        self.bits += _DIGIT
        self._group()

    def finish(self, keys: NDArray[np.uint64]) -> None:
        """Put whole keys in the place of the prefixes; keys are all that lie under one."""
        keys.sort()
        tops = keys >> (64 - self.bits)
        start = np.searchsorted(tops, self.prefix)
        refuse_change(bool((np.searchsorted(tops, self.prefix, "right") - start == self.equal).all()))
        self.prefix = keys[start + self.ranks - self.below]
        left = np.searchsorted(keys, self.prefix)
        self.below += left - start
        self.equal = np.searchsorted(keys, self.prefix, "right") - left
        self.bits = 64


def refuse_change(same: bool | np.bool_) -> None:
    """Raise DataError unless `same`: two passes must have met the same scores."""
    if not same:
        raise DataError("the scores changed while they were read, or could be read only once: each pass starts anew")


def _keys(batch: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Integers in the order of the scores, without NaN."""
    # Adding 0.0 makes a copy, and 0.0 of -0.0: two bit patterns, one score.
    bits = (batch[~np.isnan(batch)] + 0.0).view(np.int64)
    return bits.view(np.uint64) ^ ((bits >> 63).view(np.uint64) | np.uint64(1 << 63))


def _floats(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    signs = (~keys.view(np.int64) >> 63).view(np.uint64)
    return (keys ^ (signs | np.uint64(1 << 63))).view(np.float64)
