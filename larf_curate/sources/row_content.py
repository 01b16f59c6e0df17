"""What rows hold, whatever files and buffers hold them: a digest of a table, and a hash of each of its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_ROWS = 256  # looked at together: Arrow cannot join columns of more than 2 GB of text
_MIX = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


class _Absorbing(Protocol):
    def update(self, data: Any, /) -> None: ...


def table_digest(table: pa.Table) -> str:
    """The sha256 of the names, types and values of a table; its metadata, and how it lies in memory, do not matter.

    >>> halves = pa.concat_tables([pa.table({"x": ["a"]}), pa.table({"x": ["b"]})])
    >>> table_digest(halves) == table_digest(pa.table({"x": ["a", "b"]}))
    True

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256(table.schema.remove_metadata().serialize())
    for block in _blocks(table):
        for column in block.columns:
            _absorb(_joined(column), sha256)
    return sha256.hexdigest()


def row_hashes(table: pa.Table) -> Hashes:
    """A number for each row that depends on what the row holds, and not on the rows beside it.

    Equal rows have equal ones. It is quick to compute and no proof of anything.
    """
    blocks = [_mixed_columns(map(_joined, block.columns), len(block)) for block in _blocks(table)]
    return np.concatenate([np.zeros(0, np.uint64), *blocks])


def _blocks(table: pa.Table) -> Iterator[pa.Table]:
    return (table.slice(first, _ROWS) for first in range(0, len(table), _ROWS))


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _absorb(array: pa.Array, content: _Absorbing) -> None:
    """Give all that an array holds to `content`.

    What lies in memory beneath a null, or outside of a slice, is not part of it.
    """
    array = _plain(array)
    kind = array.type
    valid = _valid(array)
    content.update(np.packbits(valid))
    if pa.types.is_null(kind):
        return
    if pa.types.is_struct(kind):
        for field in array.flatten():
            _absorb(field, content)
    elif pa.types.is_nested(kind):
        content.update(_integers(pc.list_value_length(array)))
        _absorb(array.flatten(), content)
    elif pa.types.is_large_binary(kind):
        content.update(_integers(pc.binary_length(array)))
        content.update(_values_of(array))
    else:
        content.update(_fixed_width(array, valid))


def _hashes_of(array: pa.Array) -> Hashes:
    """A hash of each value of an array, made of all that `_absorb` gives of that value."""
    array = _plain(array)
    kind = array.type
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.uint64)
    valid = _valid(array)
    if pa.types.is_struct(kind):
        hashes = _mixed_columns(array.flatten(), len(array))
    elif pa.types.is_nested(kind):
        lengths = _integers(pc.list_value_length(array))
        items = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_hashes_of(array.flatten()), dtype=np.uint64)])
        ends = np.cumsum(lengths)
        hashes = items[ends] - items[ends - lengths] + lengths.astype(np.uint64) * _MIX
    elif pa.types.is_large_binary(kind):
        hashes = _checksums(_values_of(array), _integers(pc.binary_length(array)))
    else:
        values = _fixed_width(array, valid)
        hashes = _checksums(values.reshape(-1), np.full(*values.shape))
    return _mixed(np.where(valid, hashes, _MIX))


def _mixed_columns(columns: Iterable[pa.Array], rows: int) -> Hashes:
    """A hash of each of some rows, given their columns."""
    hashes = np.zeros(rows, np.uint64)
    for column in columns:
        hashes = _mixed(hashes * _MIX + _hashes_of(column))
    return hashes


def _valid(array: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.is_valid(array))


def _fixed_width(array: pa.Array, valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The bytes of each value, [values, width], with zeros for nulls."""
    size = array.type.bit_width // 8
    values = np.frombuffer(array.buffers()[1] or b"", np.uint8, count=len(array) * size, offset=array.offset * size)
    return np.where(valid[:, None], values.reshape(len(array), size), np.uint8(0))


def _plain(array: pa.Array) -> pa.Array:
    """The same values as one of the few types that `_absorb` knows: texts as bytes, truth values as a byte each."""
    kind = array.type
    while isinstance(array, pa.ExtensionArray) or pa.types.is_dictionary(array.type):
        array = array.storage if isinstance(array, pa.ExtensionArray) else array.dictionary_decode()
        kind = array.type
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(array))
    if pa.types.is_boolean(kind):
        return array.cast(pa.uint8())
    if pa.types.is_map(kind):
        return array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    if pa.types.is_union(kind):
        return pa.array([repr(value) for value in array.to_pylist()], pa.large_binary())
    if kind in (pa.string(), pa.binary(), pa.large_string(), pa.string_view(), pa.binary_view()):
        return array.cast(pa.large_binary())
    return array


def _integers(array: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(array, 0)).astype(np.int64)


def _values_of(array: pa.Array) -> NDArray[np.uint8]:
    """The bytes of all values of a `large_binary` array, one after the other."""
    array = pc.fill_null(array, b"")
    _, offsets, values = array.buffers()
    if offsets is None or values is None:
        return np.zeros(0, np.uint8)
    first, last = np.frombuffer(offsets, np.int64)[[array.offset, array.offset + len(array)]]
    return np.frombuffer(values, np.uint8)[first:last]


def _checksums(values: NDArray[np.uint8], lengths: NDArray[np.int64]) -> Hashes:
    """A number for each of some values, which lie one after the other."""
    ends = np.cumsum(lengths)
    places = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
    content = values.data
    return np.fromiter((crc32(content[start:end], end - start) for start, end in places), np.uint64, len(lengths))


def _mixed(hashes: Hashes) -> Hashes:
    """Spread over all bits, so that the lowest ones of a sum say as much as the others."""
    hashes = hashes + _MIX  # zero stands for much that is empty
    hashes = (hashes ^ (hashes >> np.uint64(31))) * _MIX
    return hashes ^ (hashes >> np.uint64(29))
