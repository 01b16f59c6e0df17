"""Rows through datatrove and back: the same columns, types and bytes, in files that are whole or not there."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import gc
import json
import pickle
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import dill
import fsspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.pipeline.readers import HuggingFaceDatasetReader, JsonlReader, ParquetReader
from datatrove.pipeline.writers import JsonlWriter

from larf_curate.deciding.splitting import scored_schema
from larf_curate.engines.datatrove_files import RowReader, RowWriter
from larf_curate.engines.datatrove_rows import (
    ROW,
    SHARD,
    CarriedRow,
    carry_row,
    documents_of,
    row_text,
    table_of,
)
from larf_curate.sources.files import open_source

pytestmark = pytest.mark.usefixtures("no_row_is_run")

TALK = {"question": ["q1", "q2", "q3"], "answer": ["a", None, "c"]}
SCHEMA = pa.schema([("question", pa.string()), ("answer", pa.string())])
MOMENT = 1_700_000_000_123_456_789


def as_json(*texts: str | None) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


PEOPLE = pa.list_(pa.struct([("name", pa.string()), ("marks", pa.list_(pa.float64())), ("age", pa.int8())]))
EXACT = {  # what also the way through Python gives back
    "lists of structs": pa.array([[{"name": "x", "marks": [0.5, None], "age": None}, None], None, []], PEOPLE),
    "null struct or struct of null": pa.array([{"a": None}, None, {"a": "x"}], pa.struct([("a", pa.string())])),
    "all null": pa.nulls(3),
    "strings that look like dates": pa.array(["2024-01-01", None, ""]),
    "date": pa.array([dt.date(2024, 2, 29), None, dt.date(1, 1, 1)]),
    "timestamp[ns, tz]": pa.array([MOMENT, None, -1], pa.timestamp("ns", "Europe/Berlin")),
    "timestamp[us, tz] twice in autumn": pa.array(
        [1_730_590_200_000_000, 1_730_593_800_000_000, None], pa.timestamp("us", "Europe/Berlin")
    ),
    "timestamp[ms]": pa.array([MOMENT // 10**6, None, -1], pa.timestamp("ms")),
    "time32": pa.array([1, None, 86_399_999], pa.time32("ms")),
    "duration[ns]": pa.array([1, None, -MOMENT], pa.duration("ns")),
    "decimal": pa.array([Decimal("1.10"), None, Decimal("-0.01")], pa.decimal128(20, 2)),
    "wide decimal": pa.array([Decimal("12345678901234567890123456789012345678901.10"), None, None]),
    "binary": pa.array([b"\xff\x00", None, b""]),
    "fixed binary": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "large_string": pa.array(["a", None, ""], pa.large_string()),
    "dictionary": pa.array(["b", None, "a"]).cast(pa.dictionary(pa.int8(), pa.string())),
    "float16": pa.array([1.5, None, 0.1], pa.float16()),
    "float32": pa.array([0.1, None, -0.0], pa.float32()),
    "uint64": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "map": pa.array([[("k", 1), ("k", 2)], None, []], pa.map_(pa.string(), pa.int32())),
    "large list": pa.array([[1], None, []], pa.large_list(pa.int8())),
    "fixed list": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None, b"1" * 16], pa.binary(16))),
}
ARROW_ALONE = {
    "arrow.json": as_json('{"a": 1.0,   "b": [null]}', '"s"', None),
    "arrow.json of one type": as_json("1e5", "null", "[1,  2]"),
    "time64[ns]": pa.array([1, None, 1001], pa.time64("ns")),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8())),
}
NAMES = ("rank", "id", "text", "metadata", "media", "url", "file_path", "larf_row", "larf_shard")


def xfail(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(strict=True, reason=reason)


def table_with(**columns: object) -> pa.Table:
    return pa.table({**TALK, **columns})


def arrow_documents(table: pa.Table, shard: str = "s") -> list[Document]:
    return list(documents_of(table, "rows.parquet", 0, shard, "auto"))


def carrying(*rows: dict) -> list[Document]:
    return [Document("text", str(place), metadata={ROW: CarriedRow(row)}) for place, row in enumerate(rows)]


def read_parquet(table: pa.Table, folder: Path) -> list[Document]:
    folder.mkdir()
    pq.write_table(table, folder / "in.parquet")
    return list(ParquetReader(str(folder), adapter=carry_row).run())


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def written(folder: Path, documents: list[Document], schema: pa.Schema, **options: object) -> pa.Table:
    assert list(RowWriter(str(folder), schema, **options).run(iter(documents))) == documents, "it passes them on"
    assert [path.name for path in folder.iterdir()] == ["00000.parquet"]
    return pq.read_table(folder / "00000.parquet")


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.equals(expected)


# The way in ----------------------------------------------------------------------------------------------------------

TEXTS = [
    ({"question": "Why?", "answer": "So."}, "Why?\n\nSo."),
    ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}, "Hi\n\nHo"),
    ({"question": "Why?", "answer": None}, '{"question": "Why?", "answer": null}'),
    ({"question": "", "answer": ""}, '{"question": "", "answer": ""}'),
    ({"question": "é", "answer": 7}, "é\n\n7"),
    ({"question": "é", "answer": [7]}, '{"question": "é", "answer": [7]}'),
    ({"messages": None}, '{"messages": null}'),
    ({"text": ""}, '{"text": ""}'),
    ({"when": dt.date(2024, 1, 1)}, '{"when": "2024-01-01"}'),
    ({}, "{}"),
]


@pytest.mark.parametrize(("row", "text"), TEXTS, ids=[text[:30] for _, text in TEXTS])
def test_the_text_is_the_conversation_and_never_empty(row, text):
    assert row_text(row) == text


def test_the_text_in_a_named_format_or_a_users_own():
    row = {"asked": "Why?", "said": "So.", "question": "no", "answer": "no"}

    def own(row):
        return [{"role": "user", "content": row["asked"]}, {"role": "assistant", "content": row["said"]}]

    assert row_text(row, own) == "Why?\n\nSo."
    assert row_text(row, "question-answer") == "no\n\nno"
    assert row_text(row, "alpaca") == json.dumps(row)


def test_no_reader_drops_a_row(tmp_path):
    rows = [row for row, _ in TEXTS if "when" not in row]
    write_lines(tmp_path / "in.jsonl", rows)
    found = list(JsonlReader(str(tmp_path), adapter=carry_row).run())
    assert [document.metadata[ROW] for document in found] == rows
    assert all(type(document.metadata[ROW]) is CarriedRow for document in found)
    assert [document.text for document in found] == [text for row, text in TEXTS if "when" not in row]


def test_no_column_of_a_row_takes_a_place_in_the_document(tmp_path):
    row = {**{name: f"my {name}" for name in NAMES if name != "media"}, "question": "q", "answer": "a", "media": []}
    write_lines(tmp_path / "in.jsonl", [row])
    (document,) = JsonlReader(str(tmp_path), adapter=carry_row).run()
    assert document.metadata[ROW] == row
    assert set(document.metadata) == {ROW, "file_path"}
    assert document.text == "q\n\na"
    assert document.id not in row.values()
    assert document.media == []


def test_ids_follow_from_the_rows_alone(tmp_path):
    from datasets import Dataset

    rows = [
        {"id": str(i % 9), "question": f"q{i % 9}", "answer": None if i % 3 else "é", "n": [i % 9]} for i in range(12)
    ]
    for part in range(3):
        write_lines(tmp_path / "jsonl" / f"{part}.jsonl", rows[part::3])
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet" / "in.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    readers = [
        JsonlReader(str(tmp_path / "jsonl"), adapter=carry_row),
        ParquetReader(str(tmp_path / "parquet"), adapter=carry_row),
        HuggingFaceDatasetReader(str(tmp_path / "saved"), load_from_disk=True, adapter=carry_row),
    ]
    expected = {(row["id"], carry_row(None, row, "", 0)["id"]) for row in rows}
    assert len(expected) == len({identity for _, identity in expected}) == 9
    for tasks in (1, 3):
        for reader in readers:
            found = [document for rank in range(tasks) for document in reader.run(rank=rank, world_size=tasks)]
            assert sorted(document.metadata[ROW]["id"] for document in found) == sorted(row["id"] for row in rows)
            assert {(document.metadata[ROW]["id"], document.id) for document in found} == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": [{"c": 2}]}, {"b": [{"c": 2}], "a": 1}, True),
        ({"a": dt.date(2024, 1, 1), "b": b"\xff"}, {"a": dt.date(2024, 1, 1), "b": b"\xff"}, True),
        ({"a": float("nan")}, {"a": float("nan")}, True),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": None}, {}, False),
        ({"a": [{"b": None}]}, {"a": [{"b": ""}]}, False),
        ({"a": "x", "b": "y"}, {"a": "y", "b": "x"}, False),
        ({"a": b"\xff"}, {"a": b"\xfe"}, False),
        ({"a": "\ud800"}, {"a": "\ud801"}, False),
    ],
    ids=str,
)
def test_equal_rows_have_equal_ids_and_others_have_others(one, other, same):
    first, second = carry_row(None, one, "one.jsonl", 0)["id"], carry_row(None, other, "other.jsonl", 7)["id"]
    assert (first == second) is same
    assert len(first) == 32
    assert set(first) <= set("0123456789abcdef")


# A carried row -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", [copy.deepcopy, *(lambda d, m=m: m.loads(m.dumps(d)) for m in (pickle, dill))])
def test_a_carried_row_survives_copies_with_its_record(through):
    table = table_with(x=ARROW_ALONE["time64[ns]"], y=ARROW_ALONE["arrow.json"])
    found = [through(document) for document in arrow_documents(table)]
    assert all(type(document.metadata[ROW]) is CarriedRow for document in found)
    assert_same(table_of(found, table.schema), table)


def test_json_writers_can_write_a_carried_row(tmp_path):
    documents = arrow_documents(table_with(x=EXACT["lists of structs"], y=EXACT["date"]))
    rows = [document.metadata[ROW] for document in documents]
    expected = [{**row, "y": row["y"] and str(row["y"])} for row in rows]
    assert [orjson.loads(orjson.dumps(row)) for row in rows] == expected
    assert dataclasses.asdict(documents[0])["metadata"][ROW] == rows[0]
    list(JsonlWriter(str(tmp_path), compression=None).run(iter(documents)))
    lines = [json.loads(line)["metadata"][ROW] for line in (tmp_path / "00000.jsonl").open()]
    assert lines == expected


def test_a_pickled_document_holds_one_row():
    table = pa.table({"question": [f"q{i}" * 50 for i in range(1000)], "answer": ["a"] * 1000})
    assert len(pickle.dumps(arrow_documents(table)[0])) < 5_000


# There and back in Arrow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*EXACT, *ARROW_ALONE])
@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_arrow_rows_come_back_as_they_were(kind, batch_size, tmp_path):
    column = (EXACT | ARROW_ALONE)[kind]
    table = table_with(x=column, **dict.fromkeys(NAMES, column)).replace_schema_metadata({"made by": "hand"})
    assert_same(table_of(arrow_documents(table), table.schema), table)

    pq.write_table(table, tmp_path / "plain.parquet")
    found = written(tmp_path / "out", arrow_documents(table), table.schema, batch_size=batch_size)
    assert_same(found, pq.read_table(tmp_path / "plain.parquet"))


def test_documents_say_where_their_rows_are():
    table = pa.concat_tables([table_with(n=[1, 2, 3]), table_with(n=[4, 5, 6])]).slice(1)
    found = list(documents_of(table, "data/in.jsonl", 40, "00002.parquet", "auto"))
    assert [document.id for document in found] == [f"data/in.jsonl/{i}" for i in range(40, 45)]
    assert [document.metadata[ROW]["n"] for document in found] == [2, 3, 4, 5, 6]
    assert {document.metadata[SHARD] for document in found} == {"00002.parquet"}
    assert [document.text for document in found][1:3] == ["q3\n\nc", "q1\n\na"]
    assert all(set(document.metadata) == {ROW, SHARD} for document in found)
    assert_same(table_of(found, table.schema), table)


def test_what_json_mixes_is_decoded_for_steps_and_written_as_it_was(tmp_path):
    rows = [{"question": "q", "answer": "a", "x": x} for x in (1, "1", {"a": [1.0, None]}, None, 2**70)]
    write_lines(tmp_path / "in.jsonl", rows)
    source = open_source(str(tmp_path / "in.jsonl"))
    (table,) = source.tables(100)
    found = arrow_documents(table)
    assert [document.metadata[ROW] for document in found] == rows
    assert_same(table_of(found, source.schema), table)
    assert_same(table_of(carrying(*rows), source.schema), table)


def test_the_larf_columns_come_from_the_metadata(tiny_scorer):
    table = table_with(n=[1, 2, 3])
    schema = scored_schema(table.schema, tiny_scorer.spec).append(pa.field("filter_reason", pa.string()))
    documents = arrow_documents(table)
    added = {
        "larf_score": 0.1,
        "larf_score_l1": 0.5,
        "larf_score_l3": None,
        "larf_tokens": 7,
        "larf_issue": "truncated",
    }
    documents[1].metadata |= added | {"filter_reason": "larf_score"}
    found = table_of(documents, schema)
    assert found.schema.equals(schema, check_metadata=True)
    assert_same(found.select(table.column_names).cast(table.schema), table)
    assert found["larf_score"].to_pylist() == [None, np.float32(0.1).item(), None]
    assert {name: found[name][1].as_py() for name in schema.names[4:]} == {
        **{name: value for name, value in added.items() if name != "larf_score"},
        "filter_reason": "larf_score",
    }


def test_scores_of_an_earlier_run_give_way():
    table = table_with(larf_score=[9.0, 9.0, 9.0])
    documents = arrow_documents(table)
    for document in documents:
        document.metadata["larf_score"] = 0.5
    schema = table.schema.set(2, pa.field("larf_score", pa.float32()))
    assert table_of(documents, schema)["larf_score"].to_pylist() == [0.5] * 3


@pytest.mark.parametrize("way", ["arrow", "python"])
@pytest.mark.parametrize("name", ["filter_reason", "larf_score_l7", "larf_score_label"])
def test_a_users_column_with_a_name_like_ours_stays(name, way):
    table = table_with(**{name: ["mine", None, "too"]})
    documents = arrow_documents(table) if way == "arrow" else carrying(*table.to_pylist())
    assert_same(table_of(documents, table.schema), table)


@pytest.mark.parametrize("way", ["arrow", "python"])
def test_columns_that_other_steps_put_into_the_metadata_are_written(way):
    table = table_with(file_path=["mine", None, "too"])
    documents = arrow_documents(table) if way == "arrow" else carrying(*table.to_pylist())
    for document in documents:
        document.metadata |= {"language": "en", "file_path": "the reader's"}
    found = table_of(documents, table.schema.append(pa.field("language", pa.string())))
    assert found["language"].to_pylist() == ["en"] * 3
    assert_same(found.select(table.column_names), table)


def test_no_documents_are_a_table_without_rows():
    assert_same(table_of([], SCHEMA), SCHEMA.empty_table())


def test_documents_without_a_carried_row_are_their_text_id_and_metadata():
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("kind", pa.string())])
    found = table_of([Document("one", "a", metadata={"kind": "x"}), Document("two", "b")], schema)
    assert found.to_pylist() == [{"id": "a", "text": "one", "kind": "x"}, {"id": "b", "text": "two", "kind": None}]


# A step that alters rows ---------------------------------------------------------------------------------------------


def replace_row(document: Document) -> None:
    document.metadata[ROW] = {**document.metadata[ROW], "answer": "new"}


def alter_row(document: Document) -> None:
    document.metadata[ROW]["answer"] = "new"


def alter_deep(document: Document) -> None:
    document.metadata[ROW]["x"][0]["name"] = "new"


def drop_column(document: Document) -> None:
    del document.metadata[ROW]["x"]


@pytest.mark.parametrize("alter", [replace_row, alter_row, alter_deep, drop_column])
@pytest.mark.parametrize("way", ["arrow", "python"])
def test_a_row_that_a_step_altered_is_written_as_altered(alter, way, tmp_path):
    table = table_with(x=pa.array([[{"name": "x", "marks": None, "age": 1}]] * 3, PEOPLE), y=EXACT["decimal"])
    documents = arrow_documents(table) if way == "arrow" else read_parquet(table, tmp_path / "in")
    alter(documents[1])
    expected = table.to_pylist()
    if alter in (replace_row, alter_row):
        expected[1]["answer"] = "new"
    else:
        expected[1]["x"] = [{"name": "new", "marks": None, "age": 1}] if alter is alter_deep else None
    assert_same(table_of(documents, table.schema), pa.Table.from_pylist(expected, table.schema))


def test_an_altered_value_of_mixed_json_is_written_as_json():
    table = table_with(x=as_json('{"a":1}', '"s"', None))
    documents = arrow_documents(table)
    documents[1].metadata[ROW]["x"] = ["é", {"b": None}]
    found = table_of(documents, table.schema)
    assert found.schema.equals(table.schema)
    assert [value and json.loads(value) for value in found["x"].to_pylist()] == [{"a": 1}, ["é", {"b": None}], None]


def test_an_altered_value_that_equals_the_old_is_written_all_the_same():
    table = table_with(x=as_json("1", "[0]", None))
    documents = arrow_documents(table)
    documents[0].metadata[ROW]["x"] = True
    documents[1].metadata[ROW]["x"] = [False]
    assert table_of(documents, table.schema)["x"].to_pylist() == ["true", "[false]", None]


@pytest.mark.parametrize("kind", [*EXACT, *sorted(ARROW_ALONE.keys() - {"bool8"})])  # Python cannot write bool8
def test_an_altered_row_does_not_touch_its_neighbours(kind):
    table = table_with(x=(EXACT | ARROW_ALONE)[kind])
    documents = arrow_documents(table)
    documents[1].metadata[ROW]["answer"] = "new"
    found = table_of(documents, table.schema)
    assert found["answer"].to_pylist() == ["a", "new", "c"]
    rows = [0, 1, 2] if kind in EXACT else [0, 2]
    assert_same(found.drop("answer").take(rows), table.drop("answer").take(rows))


@pytest.mark.parametrize("kind", ARROW_ALONE)
@pytest.mark.parametrize(
    "nan", [pa.array([float("nan"), 1.0, None]), pa.array([[float("nan")], [], None])], ids=["flat", "in a list"]
)
def test_a_nan_in_a_row_does_not_alter_it(kind, nan):
    table = table_with(x=ARROW_ALONE[kind], y=nan)
    assert_same(table_of(arrow_documents(table), table.schema).drop("y"), table.drop("y"))


def test_a_nan_stays_one():
    table = table_with(x=pa.array([float("nan"), None, 1.0], pa.float32()))
    found = table_of(arrow_documents(table), table.schema)
    assert found.schema.equals(table.schema)
    assert str(found["x"].to_pylist()) == "[nan, None, 1.0]"


# Through datatrove's own reader --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXACT)
def test_rows_out_of_datatroves_parquet_reader_come_back_as_they_were(kind, tmp_path):
    table = table_with(x=EXACT[kind], **dict.fromkeys(NAMES, EXACT[kind]))
    documents = read_parquet(table, tmp_path / "in")
    assert_same(written(tmp_path / "out", documents, table.schema), pq.read_table(tmp_path / "in" / "in.parquet"))


LOST = {
    "arrow.json": xfail("ParquetReader gives it as text, and table_of encodes that once more"),
    "arrow.json of one type": xfail("ParquetReader gives it as text, and table_of encodes that once more"),
    "time64[ns]": xfail("datetime.time ends at microseconds: what lies below them is gone"),
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=LOST.get(kind, ())) for kind in ARROW_ALONE])
def test_what_datatroves_parquet_reader_cannot_give_back_is_told(kind, tmp_path):
    """The same values (JSON may be spelled anew), or an error: never other values under the same name."""
    table = table_with(x=ARROW_ALONE[kind])
    try:
        found = table_of(read_parquet(table, tmp_path / "in"), table.schema)
    except (pa.ArrowException, ValueError):
        return
    assert found.schema.equals(table.schema)
    if "json" in kind:
        values = ([value and json.loads(value) for value in column["x"].to_pylist()] for column in (found, table))
        assert next(values) == next(values)
    else:
        assert_same(found, table)


# The writer's files --------------------------------------------------------------------------------------------------


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def many(count: int) -> list[Document]:
    words = np.random.default_rng(0).bytes(count * 4000).hex()
    return carrying(*({"question": str(i), "answer": words[i * 4000 : i * 4000 + 4000]} for i in range(count)))


def test_a_file_has_its_name_only_when_the_task_has_ended_well(tmp_path):
    writer = RowWriter(str(tmp_path), SCHEMA, batch_size=2)
    seen = [(document.id, files(tmp_path)) for document in writer.run(iter(many(5)), rank=3)]
    assert seen[0] == ("0", [])
    assert [listed for _, listed in seen[1:]] == [[".00003.parquet.part"]] * 4
    assert files(tmp_path) == ["00003.parquet"]
    assert pq.read_table(tmp_path / "00003.parquet")["question"].to_pylist() == list("01234")


def failing_after(documents: list[Document]) -> Iterator[Document]:
    yield from documents
    raise RuntimeError("upstream")


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("old", [False, True])
def test_nothing_is_left_where_a_step_before_fails(count, old, tmp_path):
    if old:
        (tmp_path / "00000.parquet").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="upstream"):
        list(RowWriter(str(tmp_path), SCHEMA, batch_size=2).run(failing_after(many(count))))
    assert files(tmp_path) == ["00000.parquet"] * old
    if old:
        assert (tmp_path / "00000.parquet").read_bytes() == b"old"


def test_nothing_is_left_where_a_step_after_fails(tmp_path):
    def run() -> None:
        for _ in RowWriter(str(tmp_path), SCHEMA, batch_size=2).run(iter(many(5))):
            if files(tmp_path):
                raise RuntimeError("downstream")

    with pytest.raises(RuntimeError, match="downstream"):
        run()
    gc.collect()
    assert files(tmp_path) == []


def test_nothing_is_left_where_rows_do_not_fit_the_schema(tmp_path):
    documents = carrying({"question": "q", "answer": "a"}, {"question": "q", "answer": ["a", "list"]})
    with pytest.raises(pa.ArrowException):
        list(RowWriter(str(tmp_path), SCHEMA, batch_size=1).run(iter(documents)))
    assert files(tmp_path) == []


def test_nothing_is_left_where_parquet_cannot_hold_the_schema(tmp_path):
    schema = SCHEMA.append(pa.field("x", pa.struct([])))
    with pytest.raises(pa.ArrowNotImplementedError):
        list(RowWriter(str(tmp_path), schema).run(iter(carrying({"question": "q", "answer": "a", "x": {}}))))
    assert files(tmp_path) == []


@pytest.mark.parametrize("when", ["close", "write"])
def test_nothing_is_left_where_the_disk_is_full(when, tmp_path):
    documents = many(1 if when == "close" else 50)
    if when == "close":
        documents[0].metadata[ROW]["answer"] = "short enough to wait in the file's buffer"
    (tmp_path / ".00000.parquet.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        list(RowWriter(str(tmp_path), SCHEMA, batch_size=1).run(iter(documents)))
    assert files(tmp_path) == []
    assert not (tmp_path / ".00000.parquet.part").is_symlink()

    list(RowWriter(str(tmp_path), SCHEMA).run(iter(documents)))
    assert files(tmp_path) == ["00000.parquet"]


def test_nothing_is_left_where_parquet_cannot_end_its_file(tmp_path, monkeypatch):
    end = pq.ParquetWriter.close

    def fail_once(self: pq.ParquetWriter) -> None:
        monkeypatch.setattr(pq.ParquetWriter, "close", end)
        self.is_open = False  # so that its destructor does not try again
        raise OSError(28, "No space left")

    monkeypatch.setattr(pq.ParquetWriter, "close", fail_once)
    with pytest.raises(OSError, match="No space left"):
        list(RowWriter(str(tmp_path), SCHEMA, batch_size=1).run(iter(many(2))))
    assert files(tmp_path) == []


def test_no_documents_no_file(tmp_path):
    assert list(RowWriter(str(tmp_path / "out"), SCHEMA).run(iter([]))) == []
    assert files(tmp_path) == []


def test_every_task_has_its_own_file(tmp_path):
    rows = [{"question": "q", "answer": "a", "rank": "77", "id": "same", "task": task} for task in range(3)]
    schema = pa.schema([(name, pa.int64() if name == "task" else pa.string()) for name in rows[0]])
    for rank, document in enumerate(carrying(*rows)):
        list(RowWriter(str(tmp_path / "rows"), schema).run(iter([document]), rank=rank, world_size=3))
        list(JsonlWriter(str(tmp_path / "lines"), compression=None).run(iter([document]), rank=rank, world_size=3))
    assert files(tmp_path / "rows") == [f"0000{rank}.parquet" for rank in range(3)]
    assert files(tmp_path / "lines") == [f"0000{rank}.jsonl" for rank in range(3)]
    assert [pq.read_table(tmp_path / "rows" / f"0000{rank}.parquet").to_pylist() for rank in range(3)] == [
        [row] for row in rows
    ]
    for name in ("rows.parquet", "${id}.parquet", "${task}/$rank.parquet"):
        with pytest.raises(ValueError, match=r"needs \$\{rank\}"):
            RowWriter(str(tmp_path), schema, name)


def test_a_name_with_a_folder_in_it(tmp_path):
    writer = RowWriter(str(tmp_path), SCHEMA, "part-${rank}/rows-${rank}.parquet", batch_size=1)
    for _ in writer.run(iter(many(1)), rank=12):
        assert files(tmp_path) == ["part-00012/.rows-00012.parquet.part"]
    assert files(tmp_path) == ["part-00012/rows-00012.parquet"]


def test_a_remote_folder():
    folder = "memory://test_documents/out"
    memory = fsspec.filesystem("memory")
    try:
        with pytest.raises(RuntimeError, match="upstream"):
            list(RowWriter(folder, SCHEMA, batch_size=1).run(failing_after(many(3))))
        assert memory.find("/test_documents") == []
        for _ in range(2):  # the second time over the first
            list(RowWriter(folder, SCHEMA, batch_size=2).run(iter(many(3)), rank=1))
        assert memory.find("/test_documents") == ["/test_documents/out/00001.parquet"]
        with memory.open("/test_documents/out/00001.parquet") as file:
            assert pq.read_table(file)["question"].to_pylist() == ["0", "1", "2"]
    finally:
        memory.rm("/test_documents", recursive=True)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_nulls_first_and_late_values_keep_their_types(batch_size, tiny_scorer, tmp_path):
    """datatrove's own writer takes the types from the first document."""
    schema = scored_schema(SCHEMA, tiny_scorer.spec)
    documents = carrying(*({"question": "q", "answer": "a" if i > 3 else None} for i in range(8)))
    for i, document in enumerate(documents):
        scored = {"larf_score": i / 8, "larf_score_l1": 0.25, "larf_score_l3": 0.5, "larf_tokens": i}
        scored["larf_issue"] = None
        document.metadata |= scored if i > 3 else {**dict.fromkeys(scored), "larf_issue": "empty_answer"}
    writer = RowWriter(str(tmp_path), schema, batch_size=batch_size)
    list(writer.run(iter(documents)))
    found = pq.read_table(tmp_path / "00000.parquet")
    assert found.schema.equals(schema, check_metadata=True)
    assert found["larf_score"].to_pylist() == [None] * 4 + [0.5, 0.625, 0.75, 0.875]
    assert found["larf_issue"].to_pylist() == ["empty_answer"] * 4 + [None] * 4
    assert writer.stats["total"].total == 8


def test_a_writer_pickles_before_and_after_use(tmp_path):
    writer = RowWriter(str(tmp_path), SCHEMA, batch_size=2)
    for step in (writer, pickle.loads(pickle.dumps(writer)), dill.loads(dill.dumps(writer)), copy.deepcopy(writer)):
        list(step.run(iter(many(3))))
        assert len(pq.read_table(tmp_path / "00000.parquet")) == 3
        assert len(pickle.dumps(step)) < 4_000
        (tmp_path / "00000.parquet").unlink()


@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_our_own_reader_gives_every_row_once_and_as_it_was(tasks, tmp_path):
    """Types that datatrove's Parquet reader damages, across files, and more tasks than some files have rows."""
    names = {"n": pa.int64(), "at": pa.time64("ns"), "any": pa.json_(), "media": pa.list_(pa.string())}
    columns = [range(10), [1_000_000_007 * i for i in range(10)], ['{"a": [1, null]}'] * 10, [None, ["x"]] * 5]
    storage = [pa.array(columns[0]), pa.array(columns[1], pa.time64("ns")), pa.array(columns[2]), pa.array(columns[3])]
    storage[2] = pa.ExtensionArray.from_storage(pa.json_(), storage[2])
    table = pa.table(storage, schema=pa.schema(names))
    for name, part in enumerate((table.slice(0, 2), table.slice(2))):
        pq.write_table(part, tmp_path / f"{name}.parquet")
    reader = RowReader(str(tmp_path / "*.parquet"))
    writer = RowWriter(str(tmp_path / "out"), reader.source.schema)
    ids = [document.id for rank in range(tasks) for document in writer.run(reader.run(None, rank, tasks), rank, tasks)]
    assert [name.rpartition("/")[2] for name in ids] == [str(number) for number in range(10)]
    found = pa.concat_tables([pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet"))])
    assert found.equals(pa.concat_tables([pq.read_table(tmp_path / f"{name}.parquet") for name in range(2)]))
