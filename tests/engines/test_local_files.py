"""Score a file, split it: every row arrives somewhere, once, as it was."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Value, load_dataset

from larf_curate import LARFScorer, Threshold
from larf_curate.deciding.layout import SUMMARY
from larf_curate.deciding.splitting import described_scorer
from larf_curate.deciding.summary import OutcomeCounts, Summary
from larf_curate.engines import local_files
from larf_curate.engines.local_files import read_scores, score_file, split_file
from larf_curate.errors import DataError, LarfError, OutputError, RowFormatError
from larf_curate.scoring.weights import WeightRange
from larf_curate.sources import json_files
from larf_curate.sources.files import open_source
from larf_curate.written import RECORD

pytestmark = pytest.mark.usefixtures("no_row_is_run")

LARF = ["larf_score", "larf_score_l1", "larf_score_l3", "larf_tokens", "larf_issue"]
WORDS = ["bread", "salt", "river", "lamp", "cedar", "violin", "anchor", "maple", "copper", "lantern"]


def ask(i: int) -> dict:
    return {
        "id": f"{i:03}",
        "instruction": f"Tell me of {WORDS[i % 10]} no. {i}.",
        "output": " ".join(WORDS[: i % 7 + 1]),
    }


ROWS = [
    *(ask(i) for i in range(20)),
    {"id": "null", "instruction": "Why?", "output": None},
    {"id": "blank", "instruction": "Why?", "output": " \n"},
    *(ask(i) for i in range(20, 25)),
]


@pytest.fixture
def few_at_once(monkeypatch):
    """Tables of 7 rows, so that 27 rows are several."""
    monkeypatch.setattr(json_files, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(local_files, "ROWS_AT_ONCE", 7)


def write_rows(path: Path, rows: list[dict] = ROWS) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scored_file(path: Path, scores: list, **columns: list) -> str:
    """A scored dataset made by hand."""
    count = len(scores)
    table = {
        "question": [f"q{i}" for i in range(count)],
        "answer": [f"a{i}" for i in range(count)],
        **columns,
        "larf_score": pa.array(scores, pa.float32()),
        "larf_issue": pa.array(["empty_answer" if score is None else None for score in scores], pa.string()),
    }
    pq.write_table(pa.table(table), path)
    return str(path)


def part(home: Path, outcome: str) -> pa.Table:
    return pq.read_table(home / outcome / "data.parquet")


def numbers(home: Path) -> dict[str, list[int]]:
    return {
        outcome: [int(q[1:]) for q in part(home, outcome)["question"].to_pylist()]
        for outcome in ("kept", "removed", "unscorable")
    }


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_scoring_a_file_adds_columns_and_changes_nothing(ending, few_at_once, tiny_scorer, tmp_path):
    out = tmp_path / f"scored{ending}"
    summary = score_file(open_source(write_rows(tmp_path / "in.jsonl")), tiny_scorer, out)
    found = pq.read_table(out).to_pylist() if ending == ".parquet" else list(map(json.loads, out.open()))
    assert [{name: row[name] for name in ("id", "instruction", "output")} for row in found] == ROWS
    assert list(found[0]) == ["id", "instruction", "output", *LARF]

    expected = tiny_scorer.score(ROWS, progress=False)
    scores = np.array([row["larf_score"] for row in found], float)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert [row["larf_issue"] for row in found if row["larf_score"] is None] == ["empty_answer"] * 2
    by_layer = np.array([[row["larf_score_l1"], row["larf_score_l3"]] for row in found], float)
    np.testing.assert_allclose(by_layer.mean(axis=1), scores, atol=1e-6)

    assert summary.rows == 27
    assert summary.issues == {"empty_answer": 2}
    assert summary.scored == 25
    points = np.quantile(scores[~np.isnan(scores)], [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    np.testing.assert_allclose(list(summary.quantiles.values()), points, atol=1e-6)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "in.jsonl", out]


def test_scored_columns_are_typed_even_where_all_are_null(tiny_scorer, tmp_path):
    out = tmp_path / "scored.parquet"
    score_file(open_source(write_rows(tmp_path / "in.jsonl", [{"question": "q", "answer": None}])), tiny_scorer, out)
    types = {field.name: str(field.type) for field in pq.read_schema(out)}
    assert types == {
        "question": "string",
        "answer": "string",
        **dict.fromkeys(LARF[:3], "float"),
        "larf_tokens": "int32",
        "larf_issue": "string",
    }


def test_the_users_types_and_metadata_stay(tiny_scorer, tmp_path):
    table = pa.table(
        {
            "when": pa.array([1, None], pa.timestamp("us", tz="UTC")),
            "question": pa.array(["a", "b"], pa.large_string()),
            "answer": pa.array(["yes", "no"]).dictionary_encode(),
        }
    ).replace_schema_metadata({"made by": "hand"})
    pq.write_table(table, tmp_path / "in.parquet")
    score_file(open_source(str(tmp_path / "in.parquet")), tiny_scorer, tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names).cast(table.schema).equals(table)
    assert [found.schema.field(name) for name in table.column_names] == list(table.schema)
    assert found.schema.metadata[b"made by"] == b"hand"
    assert json.loads(found.schema.metadata[b"larf_curate"])["layers"] == [1, 3]


def test_scoring_again_replaces_the_larf_columns(tiny_scorer, tmp_path):
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    score_file(open_source(write_rows(tmp_path / "in.jsonl")), tiny_scorer, first)
    table = pq.read_table(first)
    stale = table.set_column(table.column_names.index("larf_score"), "larf_score", pa.array(["stale"] * len(table)))
    stale = stale.append_column("larf_score_l9", pa.array([0.5] * len(table)))  # of a scorer at other layers
    pq.write_table(stale, first)
    score_file(open_source(str(first)), tiny_scorer, second)
    assert pq.read_table(second).equals(table)


def test_features_stored_in_a_file_follow_its_columns(tiny_scorer, tmp_path):
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    rows = [{"question": "q", "answer": answer, "larf_score": 0.5, "larf_score_l9": 0.5} for answer in ("a", "b")]
    Dataset.from_list(rows).to_parquet(first)
    score_file(open_source(str(first)), tiny_scorer, second)
    features = load_dataset(
        "parquet", data_files=str(second), split="train", cache_dir=str(tmp_path / "cache")
    ).features
    kinds = {"question": Value("string"), "answer": Value("string"), **dict.fromkeys(LARF[:3], Value("float32"))}
    assert features == {**kinds, "larf_tokens": Value("int32"), "larf_issue": Value("string")}


def test_columns_mixed_in_json_can_still_be_scored(tiny_scorer, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "one"}], "x": 1},
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "two"}]}], "x": "1"},
        {"messages": "none", "x": None},
    ]
    score_file(open_source(write_rows(tmp_path / "in.jsonl", rows)), tiny_scorer, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert [{"messages": row["messages"], "x": row["x"]} for row in found] == rows
    assert [row["larf_issue"] for row in found] == [None, None, "wrong_type"]
    np.testing.assert_allclose([row["larf_score"] for row in found[:2]], tiny_scorer.score(rows, progress=False)[:2])


def test_rows_end_where_their_score_says(few_at_once, tiny_scorer, tmp_path):
    scored, out = tmp_path / "scored.parquet", tmp_path / "clean"
    score_file(open_source(write_rows(tmp_path / "in.jsonl")), tiny_scorer, scored)
    summary = split_file(open_source(str(scored)), Threshold.drop_top(6), out)
    assert summary.outcomes == OutcomeCounts(kept=19, removed=6, unscorable=2)
    source = pq.read_table(scored)
    ids = {row["id"]: row for row in source.to_pylist()}
    ranked = sorted((row["larf_score"], name) for name, row in ids.items() if row["larf_score"] is not None)
    expected = {"removed": {name for _, name in ranked[-6:]}, "unscorable": {"null", "blank"}}
    expected["kept"] = set(ids) - expected["removed"] - expected["unscorable"]
    for outcome, names in expected.items():
        table = part(out, outcome)
        assert table.schema.equals(source.schema, check_metadata=True)
        assert table.to_pylist() == [row for name, row in ids.items() if name in names], "all columns, in their order"
    told = json.loads((out / SUMMARY).read_text())
    assert [told[name] for name in ("rows", "kept", "removed", "unscorable")] == [27, 19, 6, 2]
    assert told["issues"] == {"empty_answer": 2}
    assert told["score_quantiles"]["median"] == pytest.approx(np.median([score for score, _ in ranked]))
    assert sorted(path.name for path in out.iterdir()) == [
        RECORD,
        "kept",
        SUMMARY,
        "removed",
        "source_rows",
        "unscorable",
    ]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_the_result_loads_with_datasets(kind, tiny_scorer, tmp_path):
    from datasets import load_dataset

    scored, out = tmp_path / f"scored.{kind}", tmp_path / "clean"
    score_file(open_source(write_rows(tmp_path / "in.jsonl")), tiny_scorer, scored)
    split_file(open_source(str(scored)), Threshold.drop_top(6), out)
    kept = load_dataset(str(out / "kept"), split="train", cache_dir=str(tmp_path / "cache"))
    assert kept.to_list() == part(out, "kept").to_pylist()
    assert kept.column_names == ["id", "instruction", "output", *LARF]
    assert load_dataset(str(out / "unscorable"), split="train", cache_dir=str(tmp_path / "cache"))["id"] == [
        "null",
        "blank",
    ]


def test_a_dataset_of_datasets_keeps_its_features_through_both_steps(tiny_scorer, tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value, load_dataset

    features = Features({"question": Value("string"), "answer": Value("string"), "kind": ClassLabel(names=["x", "y"])})
    rows = {"question": ["a", "b"], "answer": ["c", "d"], "kind": [1, 0]}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "in")
    score_file(open_source(str(tmp_path / "in")), tiny_scorer, tmp_path / "scored.parquet")
    split_file(open_source(str(tmp_path / "scored.parquet")), Threshold.drop_top(0), tmp_path / "out")
    kept = load_dataset(str(tmp_path / "out" / "kept"), split="train", cache_dir=str(tmp_path / "cache"))
    assert kept.features["kind"] == features["kind"]
    assert kept.features["larf_score"] == Value("float32")
    assert kept.features["larf_tokens"] == Value("int32")
    assert kept["kind"] == [1, 0]


SCORES = [0.3, None, 0.9, 0.5, 0.5, 0.1, None, 0.5]


@pytest.mark.parametrize(
    ("threshold", "removed", "tied"),
    [
        (Threshold.drop_top(0), [], 0),
        (Threshold.drop_top(1), [2], 0),
        (Threshold.drop_top(2), [2, 3], 2),
        (Threshold.drop_top(4), [2, 3, 4, 7], 0),
        (Threshold.drop_top(99), [0, 2, 3, 4, 5, 7], 0),
        (Threshold.drop_fraction(0.5), [2, 3, 4], 1),
        (Threshold.drop_fraction(1), [0, 2, 3, 4, 5, 7], 0),
        (Threshold.max_score(0.5), [2], 0),
        (Threshold.max_score(-1), [0, 2, 3, 4, 5, 7], 0),
        (Threshold.calibrated(0.25, [0.1, 0.2, 0.4]), [2, 3, 4, 7], 0),
    ],
    ids=lambda value: f"{value.rule}-{value.amount}" if isinstance(value, Threshold) else "",
)
def test_of_equal_scores_the_first_rows_go(threshold, removed, tied, few_at_once, tmp_path):
    source = open_source(scored_file(tmp_path / "scored.parquet", SCORES))
    summary = split_file(source, threshold, tmp_path / "out")
    found = numbers(tmp_path / "out")
    assert found["removed"] == removed
    assert found["unscorable"] == [1, 6]
    assert sorted(found["kept"] + removed) == [0, 2, 3, 4, 5, 7]
    assert summary.threshold.tied == tied
    assert summary.threshold.removed == len(removed) == summary.outcomes.removed


@pytest.mark.parametrize(
    ("unscorable", "expected"),
    [
        ("separate", {"kept": [0, 3, 4, 5, 7], "removed": [2], "unscorable": [1, 6]}),
        ("keep", {"kept": [0, 1, 3, 4, 5, 6, 7], "removed": [2], "unscorable": []}),
        ("remove", {"kept": [0, 3, 4, 5, 7], "removed": [1, 2, 6], "unscorable": []}),
    ],
)
def test_rows_without_a_score_go_where_the_caller_says(unscorable, expected, tmp_path):
    source = open_source(scored_file(tmp_path / "scored.parquet", SCORES))
    summary = split_file(source, Threshold.drop_top(1, unscorable=unscorable), tmp_path / "out")
    assert numbers(tmp_path / "out") == expected
    assert asdict(summary.outcomes) == {outcome: len(rows) for outcome, rows in expected.items()}
    assert summary.issues == {"empty_answer": 2}


@pytest.mark.parametrize("count", [1, 3])
def test_rows_that_all_lack_a_score(count, tmp_path):
    source = open_source(scored_file(tmp_path / "scored.parquet", [None] * count))
    summary = split_file(source, Threshold.drop_top(1), tmp_path / "out")
    assert summary.outcomes == OutcomeCounts(unscorable=count)
    assert summary.quantiles == {}


def test_the_ten_highest_equal_a_sort(few_at_once, tmp_path):
    scores = np.random.default_rng(0).integers(0, 12, 60).astype(np.float32) / 8  # many ties
    listed = [None if i % 9 == 4 else float(score) for i, score in enumerate(scores)]
    source = open_source(scored_file(tmp_path / "scored.parquet", listed))
    summary = split_file(source, Threshold.drop_top(3), tmp_path / "out")
    values = np.array(listed, float)
    order = [int(i) for i in np.lexsort((np.arange(60), -values)) if not np.isnan(values[i])][:10]
    assert [row.row for row in summary.highest] == order
    assert [row.score for row in summary.highest] == [listed[i] for i in order]
    assert [(row.prompt, row.answer) for row in summary.highest] == [(f"q{i}", f"a{i}") for i in order]


def test_rows_that_a_function_scored_are_split_too(tiny_scorer, tmp_path):
    rows = [{"asked": f"what {i}", "said": f"that {word}"} for i, word in enumerate(WORDS)]
    with pytest.raises(RowFormatError, match="asked, said"):
        score_file(open_source(write_rows(tmp_path / "in.jsonl", rows)), tiny_scorer, tmp_path / "scored.parquet")
    assert not (tmp_path / "scored.parquet").exists()

    own = tiny_scorer.with_options(
        format=lambda row: [{"role": "user", "content": row["asked"]}, {"role": "assistant", "content": row["said"]}]
    )
    score_file(open_source(str(tmp_path / "in.jsonl")), own, tmp_path / "scored.parquet")
    plain = tiny_scorer.score([{"question": row["asked"], "answer": row["said"]} for row in rows], progress=False)
    scores = pq.read_table(tmp_path / "scored.parquet")["larf_score"].to_numpy()
    np.testing.assert_allclose(scores, plain, atol=1e-5)

    summary = split_file(open_source(str(tmp_path / "scored.parquet")), Threshold.drop_top(3), tmp_path / "out")
    assert summary.outcomes == OutcomeCounts(kept=7, removed=3)
    best = rows[int(np.argmax(plain))]
    assert best["asked"] in summary.highest[0].answer
    assert best["said"] in summary.highest[0].answer


def test_a_named_format_that_does_not_fit_is_told(tmp_path):
    source = open_source(scored_file(tmp_path / "scored.parquet", SCORES))
    with pytest.raises(RowFormatError, match="'alpaca' needs the column"):
        split_file(source, Threshold.drop_top(1), tmp_path / "out", format="alpaca")
    assert not (tmp_path / "out").exists()


def test_unscored_data_is_told_so(tmp_path):
    source = open_source(write_rows(tmp_path / "in.jsonl"))
    for attempt in (lambda: read_scores(source), lambda: split_file(source, Threshold.drop_top(1), tmp_path / "out")):
        with pytest.raises(DataError, match=r"no column 'larf_score'.*It has: id, instruction, output"):
            attempt()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scores", [["high", "low"], [[0.1], [0.2]], [{"x": 1.0}, None], [0.5, "low"]], ids=str)
def test_scores_that_are_no_numbers(scores, tmp_path):
    source = open_source(
        write_rows(tmp_path / "in.jsonl", [{"question": "q", "answer": "a", "larf_score": score} for score in scores])
    )
    with pytest.raises(LarfError, match="larf_score"):
        split_file(source, Threshold.max_score(0.1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_out_of_json_lines_split_like_those_out_of_parquet(tmp_path):
    rows = [{"question": f"q{i}", "answer": "a", "larf_score": score} for i, score in enumerate(SCORES)]
    split_file(open_source(write_rows(tmp_path / "in.jsonl", rows)), Threshold.drop_top(2), tmp_path / "out")
    assert numbers(tmp_path / "out") == {"kept": [0, 4, 5, 7], "removed": [2, 3], "unscorable": [1, 6]}


def test_a_result_can_be_the_source_of_another(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    split_file(open_source(scored_file(tmp_path / "scored.parquet", SCORES)), Threshold.drop_top(1), first)
    split_file(open_source(str(first / "kept")), Threshold.drop_top(1), second)
    assert numbers(second) == {"kept": [0, 4, 5, 7], "removed": [3], "unscorable": []}


def test_a_run_that_fails_half_way_leaves_the_old_file(few_at_once, tiny_scorer, tmp_path, monkeypatch):
    out = tmp_path / "scored.parquet"
    pq.write_table(pa.table({"larf_score": [0.5]}), out)
    old = out.read_bytes()
    calls = iter(range(100))
    annotate = type(tiny_scorer).annotate

    def interrupted(self, *args, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return annotate(self, *args, **options)

    monkeypatch.setattr(type(tiny_scorer), "annotate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_file(open_source(write_rows(tmp_path / "in.jsonl")), tiny_scorer, out)
    assert out.read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "scored.parquet"]


def test_output_is_refused_before_any_row_is_scored(tiny_scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tiny_scorer), "annotate", lambda *_, **__: pytest.fail("scored in vain"))
    source = open_source(write_rows(tmp_path / "in.jsonl"))
    (tmp_path / "a.parquet").mkdir()
    for name in ("in.jsonl/out.parquet", "out.xlsx", "a.parquet"):
        with pytest.raises(OutputError):
            score_file(source, tiny_scorer, tmp_path / name)


def test_a_source_that_changes_while_it_is_split_is_told(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"question": "q", "answer": "a", "larf_score": i / 10} for i in range(5)]
    source = open_source(write_rows(path, rows))
    write_rows(path, rows[:3])
    with pytest.raises(DataError, match="5 rows before, 3 now"):
        split_file(source, Threshold.drop_top(1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_quantiles_are_those_of_numpy(tmp_path):
    summary = split_file(
        open_source(scored_file(tmp_path / "scored.parquet", SCORES)), Threshold.drop_top(1), tmp_path / "out"
    )
    values = np.array([score for score in SCORES if score is not None], np.float32)
    expected = np.percentile(values, [0, 5, 25, 50, 75, 95, 100])
    assert list(summary.quantiles) == ["lowest", "5%", "25%", "median", "75%", "95%", "highest"]
    np.testing.assert_allclose(list(summary.quantiles.values()), expected, rtol=1e-6)


def test_scores_of_json_lines_may_be_whole_numbers_beside_fractions(tmp_path):
    path = write_rows(tmp_path / "in.jsonl", [{"q": "a", "larf_score": 1}, {"q": "b", "larf_score": 0.5}])
    assert read_scores(open_source(path)).tolist() == [1.0, 0.5]


def test_two_scores_of_one_file(few_at_once, tiny_scorer, tmp_path):
    """The second leaves the first as it was, to the byte, and each says which scorer it is of; either may decide."""
    one, both, out = tmp_path / "one.parquet", tmp_path / "both.parquet", tmp_path / "out"
    score_file(open_source(write_rows(tmp_path / "in.jsonl")), tiny_scorer, one)
    turned = LARFScorer(replace(tiny_scorer.spec, turns="all"), tiny_scorer._tensors, prefix="larf_b")
    summary = score_file(open_source(str(one)), turned, both)
    assert summary.prefix == "larf_b"
    before, after = pq.read_table(one), pq.read_table(both)
    beside = [name.replace("larf", "larf_b") for name in (*LARF[:3], "larf_turn", *LARF[3:])]
    assert after.column_names == [*before.column_names, *beside]
    assert after.select(before.column_names).cast(before.schema).equals(before)
    for name in LARF:  # of one answer each: the last turn is the worst
        assert after[name.replace("larf", "larf_b")].equals(before[name])
    told = {prefix: described_scorer(after.schema, "both", prefix) for prefix in ("larf", "larf_b", "larf_c")}
    assert [scorer and scorer.turns for scorer in told.values()] == ["last", "all", None]

    scores = [number / 10 for number in range(len(ROWS))]
    swapped = after.set_column(after.column_names.index("larf_b_score"), "larf_b_score", pa.array(scores, pa.float32()))
    swapped = swapped.replace_schema_metadata(after.schema.metadata)
    pq.write_table(swapped, both)
    width = WeightRange(0.0, 1.3)
    summary = split_file(open_source(str(both)), Threshold.drop_top(3), out, weight=width, prefix="larf_b")
    assert summary == Summary.from_json((out / SUMMARY).read_text())
    assert summary.prefix == "larf_b"
    assert summary.quantiles["highest"] == pytest.approx(2.6)
    assert [row.row for row in summary.highest] == list(range(26, 16, -1))
    assert part(out, "removed")["id"].to_pylist() == [row["id"] for row in ROWS[-3:]]
    kept = part(out, "kept")
    assert kept.column_names == [*after.column_names, "larf_b_weight"]
    np.testing.assert_allclose(kept["larf_b_weight"].to_numpy(), width.weights(scores[:24]), atol=1e-6)
    with pytest.raises(DataError, match=r"no column 'larf_c_score': score it first \(.* --prefix larf_c\)"):
        split_file(open_source(str(both)), Threshold.drop_top(3), tmp_path / "none", prefix="larf_c")


def test_a_column_of_the_users_own_is_not_replaced(tiny_scorer, tmp_path):
    rows = [{"question": f"q{i}", "answer": "a", "sample_score": i / 4, "sample_weight": 0.5} for i in range(4)]
    source = open_source(write_rows(tmp_path / "in.jsonl", rows))
    with pytest.raises(RowFormatError, match="'sample_score' would be replaced"):
        score_file(source, tiny_scorer.with_options(prefix="sample"), tmp_path / "scored.parquet")
    with pytest.raises(RowFormatError, match="'sample_score' would be replaced"):
        split_file(source, Threshold.drop_top(1), tmp_path / "out", weight=WeightRange(0, 1), prefix="sample")
    assert not (tmp_path / "out").exists()
    split_file(source, Threshold.drop_top(1), tmp_path / "out", prefix="sample")
    assert part(tmp_path / "out", "removed").to_pylist() == rows[-1:]
