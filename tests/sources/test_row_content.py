"""What rows hold: digests and hashes that see values and types, and not the memory that they lie in."""

from __future__ import annotations

import datetime
import decimal
import itertools

import numpy as np
import pyarrow as pa
import pytest

from larf_curate.sources.row_content import row_hashes, table_digest

COUNT = 600


def values(make, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([None if i % 7 == 3 else make(i) for i in range(COUNT)], kind)


COLUMNS = {
    "string": values("row {}".format),
    "large_string": values("x{}".format, pa.large_string()),
    "string_view": values("x{}".format, pa.string_view()),
    "long text": values(lambda i: "word " * 40 + str(i) + " word" * 40),
    "binary": values(lambda i: bytes([i % 256, i // 256])),
    "bytes of one length": values(lambda i: bytes([i % 256, i // 256, 1]), pa.binary(3)),
    "bool": values(lambda i: i % 3 == 0),
    "int16": values(int, pa.int16()),
    "float": values(lambda i: i / 8, pa.float32()),
    "decimal": values(decimal.Decimal, pa.decimal128(10, 2)),
    "day": values(lambda i: datetime.date(2020, 1, 1) + datetime.timedelta(i)),
    "nanoseconds": values(int, pa.time64("ns")),
    "messages": values(
        lambda i: [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": None}][: i % 3]
    ),
    "pair": values(lambda i: [i, i + 1], pa.list_(pa.int32(), 2)),
    "map": values(lambda i: [("a", i), ("b", None)], pa.map_(pa.string(), pa.int64())),
    "struct": values(lambda i: {"a": i, "b": [str(i)]}),
    "a key that is always null": values(lambda i: {"content": f"hi {i}", "name": None}),
    "dictionary": values(lambda i: f"kind {i % 3}").dictionary_encode(),
    "json": pa.ExtensionArray.from_storage(pa.json_(), values('{{"a": {}}}'.format)),
    "null": pa.nulls(COUNT),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_only_values_count(kind):
    table = pa.table({"x": COLUMNS[kind]})
    digest, hashes = table_digest(table), row_hashes(table)
    borders = [0, 3, 10, 11, 300, 577, COUNT]
    pieces = pa.concat_tables(table.slice(low, high - low) for low, high in itertools.pairwise(borders))
    assert table_digest(pieces) == digest
    np.testing.assert_array_equal(row_hashes(pieces), hashes)
    np.testing.assert_array_equal(row_hashes(table.slice(5, 200)), hashes[5:205])
    assert table_digest(table.slice(1, 99)) != digest
    assert table_digest(table.rename_columns(["y"])) != digest
    assert table_digest(table.replace_schema_metadata({"by": "hand"})) == digest
    if kind != "null":
        changed = pa.concat_tables([table.slice(1, 1), table.slice(0, 1), table.slice(2)])
        assert table_digest(changed) != digest, "two rows exchanged"
        different = {repr(value) for value in table["x"].to_pylist()}
        assert len(set(hashes.tolist())) >= 0.95 * len(different)


def test_what_lies_beneath_a_null_or_outside_of_a_slice_does_not_count():
    valid = pa.array([True, False, True]).buffers()[1]
    beneath = [pa.array(values).buffers()[1] for values in ([1, 2, 3], [1, 99, 3])]
    plain = [pa.Array.from_buffers(pa.int64(), 3, [valid, buffer]) for buffer in beneath]
    assert len({table_digest(pa.table({"x": array})) for array in plain}) == 1
    assert table_digest(pa.table({"x": plain[0]})) != table_digest(pa.table({"x": [1, 2, 3]}))
    texts = pa.array(["left out", "a", None, "b", "left out"]).slice(1, 3)
    assert table_digest(pa.table({"x": texts})) == table_digest(pa.table({"x": ["a", None, "b"]}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["", None], [None, ""]),
        ([["a"], ["b"]], [["a", "b"], []]),
        ([[], None], [None, []]),
        ([1.0, float("nan")], [1.0, None]),
        ([0.0], [-0.0]),
        ([{"a": None}], [None]),
        ([1, 2], [1.0, 2.0]),
        (["1"], [1]),
    ],
)
def test_values_that_look_alike_differ(one, other):
    first, second = (pa.table({"x": values}) for values in (one, other))
    assert table_digest(first) != table_digest(second)


def test_hashes_say_where_rows_are_alike_and_spread_evenly():
    table = pa.table({"x": [f"row {i}" for i in range(20_000)], "n": [i % 2 for i in range(20_000)]})
    hashes = row_hashes(table)
    for size in (2, 32, 100, 128):
        assert np.mean(hashes % np.uint64(size) == 0) == pytest.approx(1 / size, rel=0.25)
    same = row_hashes(pa.table({"x": ["a"] * 5, "n": [1] * 5}))
    assert len(set(same.tolist())) == 1
    assert row_hashes(table.slice(0, 0)).tolist() == []
