"""The packaged pairs, the linter on planted faults, and files that are not reference pairs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from larf_curate import LARFScorer, ReferenceSet
from larf_curate.errors import ReferencesError

Rows = list[dict[str, object]]
TOPICS = ["a key", "a pass", "a badge", "a form", "a stamp", "a coin", "a deed", "a will", "a bond", "a vote"]


def clean_rows() -> Rows:
    """Ten pairs without a fault: 56 to 60 characters on both sides, no lists, all complete."""
    return [
        {
            "request": f"How would I fake {topic} at work?",
            "unsafe": f"Sure: to fake {topic}, plan it with care and see it through.",
            "safe": f"I can't help you fake {topic}, since it would harm others.",
        }
        for topic in TOPICS
    ]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Rows], ReferenceSet]:
    return lambda rows: ReferenceSet.from_jsonl(write(tmp_path / "pairs.jsonl", rows))


# The packaged set ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packaged() -> ReferenceSet:
    return ReferenceSet.packaged()


def test_packaged_set_is_large_broad_and_partly_held_back(packaged: ReferenceSet) -> None:
    assert len(packaged.fitted) >= 120
    assert 0.2 <= len(packaged.held_back) / len(packaged.pairs) <= 0.3
    assert len(packaged.fitted) + len(packaged.held_back) == len(packaged.pairs)
    every = Counter(pair.category for pair in packaged.pairs)
    assert len(every) >= 13
    assert min(every.values()) >= 8
    assert {pair.category for pair in packaged.held_back} == set(every), "a category is never tested on unseen pairs"


def test_a_set_is_shown_without_its_texts(packaged: ReferenceSet) -> None:
    assert repr(packaged) == "<ReferenceSet 'packaged': 189 pairs to fit on, 56 held back>"


def test_packaged_set_passes_its_own_linter(packaged: ReferenceSet) -> None:
    assert packaged.lint().findings == ()
    packaged.lint().raise_for_findings()


def test_packaged_pairs_match_in_length(packaged: ReferenceSet) -> None:
    # test_parity.py has the exact count in tokens; long words make a pair of equal tokens differ in characters.
    ratios = [len(pair.unsafe.answer) / len(pair.safe.answer) for pair in packaged.pairs]
    assert max(max(ratio, 1 / ratio) for ratio in ratios) < 1.6
    assert sum(max(ratio, 1 / ratio) > 1.5 for ratio in ratios) <= len(ratios) // 100
    assert sorted(ratios)[len(ratios) // 2] == pytest.approx(1, abs=0.05)


def test_packaged_requests_are_single_turns_of_one_line(packaged: ReferenceSet) -> None:
    for pair in packaged.pairs:
        for side in (pair.unsafe, pair.safe):
            assert [message["role"] for message in side.messages] == ["user", "assistant"]
            assert "\n" not in side.prompt.strip()


# The linter ----------------------------------------------------------------------------------------------------------


def test_clean_pairs_have_no_finding(load: Callable[[Rows], ReferenceSet]) -> None:
    report = load(clean_rows()).lint()
    assert report.findings == ()
    rows = clean_rows()
    assert report.figures["pairs"] == 10
    lengths = sorted(len(str(row["unsafe"])) for row in rows)
    assert report.figures["unsafe_median_characters"] == (lengths[4] + lengths[5]) / 2
    ratios = sorted(math.log(len(str(row["unsafe"])) / len(str(row["safe"]))) for row in rows)
    assert report.figures["median_length_ratio"] == pytest.approx(math.exp((ratios[4] + ratios[5]) / 2))


def comply(rows: Rows) -> None:
    rows[1]["safe"] = "Of course, this is how people fake a pass: they print one."


def refuse(rows: Rows) -> None:
    for place in (3, 8):
        rows[place]["unsafe"] = f"I'm sorry, but I can't help you to fake item number {place}."


def repeat_request(rows: Rows) -> None:
    rows[6]["request"] = str(rows[2]["request"]).upper().replace(" ", "  ")


def repeat_answer(rows: Rows) -> None:
    rows[4]["safe"] = rows[0]["safe"]


def lengthen_most(rows: Rows) -> None:
    for row in rows[:6]:
        row["unsafe"] = f"{row['unsafe']} {row['unsafe']}"


def lengthen_two(rows: Rows) -> None:
    for row in rows[:2]:
        row["safe"] = f"{row['safe']} {row['safe']}"


def itemise(rows: Rows) -> None:
    for number, row in enumerate(rows[:2]):
        row["unsafe"] = f"Sure, number {number}:\n1. Plan it all with some care.\n2. Then see it through."


def cut_off(rows: Rows) -> None:
    for row in rows[:3]:
        row["safe"] = str(row["safe"]).removesuffix(".")


@pytest.mark.parametrize(
    ("plant", "kind", "figures", "pairs"),
    [
        (comply, "safe answers that comply", ["1 of 10"], (2,)),
        (refuse, "unsafe answers that refuse", ["2 of 10"], (4, 9)),
        (repeat_request, "duplicates", ["1 pairs"], (7,)),
        (repeat_answer, "duplicates", ["1 pairs"], (5,)),
        (lengthen_most, "lengths differ", ["60% of pairs"], ()),
        (lengthen_two, "lengths differ", ["20% of pairs"], ()),
        (itemise, "list formats differ", ["20% of unsafe", "0% of safe"], ()),
        (cut_off, "endings differ", ["100% of unsafe", "70% of safe"], ()),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_linter_finds_a_planted_fault(
    load: Callable[[Rows], ReferenceSet],
    plant: Callable[[Rows], None],
    kind: str,
    figures: list[str],
    pairs: tuple[int, ...],
) -> None:
    rows = clean_rows()
    plant(rows)
    report = load(rows).lint()
    (finding,) = report.findings
    assert finding.kind == kind
    assert finding.pairs == pairs
    assert all(figure in finding.message for figure in figures)
    with pytest.raises(ReferencesError, match=kind):
        report.raise_for_findings()


def test_one_pair_in_ten_may_differ_in_form(load: Callable[[Rows], ReferenceSet]) -> None:
    rows = clean_rows()
    rows[0]["unsafe"] = "Sure, here it is:\n- Plan it all with some care.\n- Then do it"
    report = load(rows).lint()
    assert report.findings == ()
    assert report.figures["unsafe_list_share"] == report.figures["safe_list_share"] + 0.1
    assert report.figures["unsafe_complete_share"] == 0.9


def test_every_fault_is_named_at_once(load: Callable[[Rows], ReferenceSet]) -> None:
    rows = clean_rows()
    for plant in (comply, refuse, itemise, cut_off):
        plant(rows)
    with pytest.raises(ReferencesError) as error:
        load(rows).lint().raise_for_findings()
    for kind in ("safe answers that comply", "unsafe answers that refuse", "list formats differ", "endings differ"):
        assert kind in str(error.value)


def test_a_long_list_of_pairs_is_cut_short_for_reading(load: Callable[[Rows], ReferenceSet]) -> None:
    rows = [{**row, "safe": row["unsafe"]} for row in clean_rows()]
    (finding,) = (found for found in load(rows).lint().findings if found.kind == "safe answers that comply")
    assert finding.pairs == tuple(range(1, 11))
    assert str(finding).endswith("(pair 1, 2, 3, 4, 5, 6, 7, 8, ...)")


# Files ---------------------------------------------------------------------------------------------------------------


def split_sides(tmp_path: Path, rows: Rows) -> tuple[Path, Path]:
    unsafe = write(tmp_path / "u.jsonl", [{"instruction": r["request"], "output": r["unsafe"]} for r in rows])
    messages = [
        [{"role": "user", "content": row["request"]}, {"role": "assistant", "content": row["safe"]}] for row in rows
    ]
    return unsafe, write(tmp_path / "s.jsonl", [{"messages": turns} for turns in messages])


def test_two_files_pair_by_order_in_any_format(tmp_path: Path, load: Callable[[Rows], ReferenceSet]) -> None:
    references = ReferenceSet.from_files(*split_sides(tmp_path, clean_rows()))
    assert references.pairs == load(clean_rows()).pairs
    assert references.unpaired == ()


def test_unpaired_requests_are_found(tmp_path: Path) -> None:
    rows = clean_rows()
    unsafe, _ = split_sides(tmp_path, rows)
    rows[2], rows[5] = rows[5], rows[2]
    (tmp_path / "other").mkdir()
    references = ReferenceSet.from_files(unsafe, split_sides(tmp_path / "other", rows)[1])
    assert references.unpaired == (3, 6)
    (finding,) = references.lint().findings
    assert (finding.kind, finding.pairs) == ("unpaired", (3, 6))
    assert "2 pairs" in finding.message


def test_files_of_unequal_length_do_not_pair(tmp_path: Path) -> None:
    unsafe, safe = split_sides(tmp_path, clean_rows())
    write(unsafe, [{"instruction": "a", "output": "b"}] * 7)
    with pytest.raises(ReferencesError, match=r"u\.jsonl has 7 rows.*s\.jsonl has 10"):
        ReferenceSet.from_files(unsafe, safe)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"instruction": "a", "output": "b"}, {"instruction": "a", "output": " "}], "line 2: empty answer"),
        ([{"instruction": "a", "output": "b"}, {"instruction": "a"}], "line 2"),
        ([{"ask": "a", "say": "b"}], "ask, say"),
        ([], "u.jsonl"),
    ],
)
def test_a_side_that_cannot_be_read_is_refused(tmp_path: Path, rows: Rows, complaint: str) -> None:
    unsafe, safe = split_sides(tmp_path, clean_rows())
    write(unsafe, rows)
    with pytest.raises(ReferencesError, match=complaint):
        ReferenceSet.from_files(unsafe, safe)


GOOD = json.dumps(clean_rows()[0])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{GOOD}\n{{broken\n", "line 2"),
        (f"{GOOD}\n\n[1, 2]\n", "line 3: not a JSON object"),
        (f'{GOOD}\n{{"request": "a", "unsafe": "b"}}\n', "line 2.*safe.*request, unsafe"),
        ('{"unsafe": "a", "safe": "b"}\n', "line 1.*request"),
        ("{}\n", "line 1.*nothing"),
        (f'{GOOD}\n{{"request": "a", "unsafe": "b", "safe": null}}\n', "line 2: empty answer"),
        (f'{GOOD}\n{{"request": "a", "unsafe": [7], "safe": "b"}}\n', "line 2: wrong type"),
        ("", "hold no pair"),
        ("\n \n", "hold no pair"),
        (json.dumps({**clean_rows()[0], "held_back": True}), "hold no pair"),
    ],
)
def test_a_file_of_pairs_that_cannot_be_read_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ReferencesError, match=complaint) as error:
        ReferenceSet.from_jsonl(path)
    assert "pairs.jsonl" in str(error.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("none.jsonl", "binary.jsonl", "."):
        with pytest.raises(ReferencesError, match="cannot be read"):
            ReferenceSet.from_jsonl(tmp_path / name)


@pytest.mark.parametrize("column", ["request", "prompt", "instruction", "question"])
def test_other_spellings_of_a_file(tmp_path: Path, load: Callable[[Rows], ReferenceSet], column: str) -> None:
    rows = [{column: row["request"], "unsafe": row["unsafe"], "safe": row["safe"]} for row in clean_rows()]
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(map(json.dumps, rows)).encode())
    assert ReferenceSet.from_jsonl(path).pairs == load(clean_rows()).pairs


def test_held_back_pairs_and_categories_are_read(load: Callable[[Rows], ReferenceSet]) -> None:
    rows = clean_rows()
    rows[3] |= {"held_back": True, "category": "fraud"}
    references = load(rows)
    assert (len(references.fitted), len(references.held_back)) == (9, 1)
    assert references.held_back[0].category == "fraud"
    assert references.held_back[0].unsafe.answer == rows[3]["unsafe"]


@pytest.mark.parametrize("change", [{"request": "x"}, {"unsafe": "x"}, {"safe": "x"}, {"held_back": True}, "order"])
def test_digest_changes_with_any_text(load: Callable[[Rows], ReferenceSet], change: dict[str, object] | str) -> None:
    digest = load(clean_rows()).digest
    assert load(clean_rows()).digest == digest
    rows = clean_rows()
    if isinstance(change, str):
        rows.reverse()
    else:
        rows[7] |= change
    assert load(rows).digest != digest


def test_what_are_no_references_is_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(ReferencesError, match="a ReferenceSet or a file of pairs, not list"):
        LARFScorer.fit("nowhere", 2, references=[1, 2])  # type: ignore[arg-type]
