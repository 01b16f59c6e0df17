"""Thresholds against counting by hand, and the promise of the calibrated one against a simulation."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from larf_curate import Threshold
from larf_curate.deciding import ranking
from larf_curate.errors import DataError, ThresholdError

NAN = float("nan")
TIED = st.lists(st.sampled_from([-2.0, -0.1, 0.0, 0.1, 0.3, 1.5, NAN, None]), max_size=30)
EXTREME = st.lists(st.sampled_from([-math.inf, -0.1, -0.0, 0.0, 0.1, 1.5, math.inf, NAN]), max_size=40)
DISTINCT = st.lists(st.floats(-2, 2, width=32), unique=True, max_size=30)


def scorable(scores: list[float | None]) -> list[float]:
    return [score for score in scores if score is not None and not math.isnan(score)]


def rows_by_hand(scores: list[float | None], count: int) -> list[int]:
    """The row numbers of the `count` highest: of those that tie, the first."""
    array = np.array(scores, np.float64)
    ranked = np.lexsort((np.arange(len(array)), -array))
    return sorted([row for row in ranked.tolist() if array[row] > -math.inf][:count])


def rows_removed_by(threshold: Threshold, scores: list[float | None]) -> list[int]:
    judge = threshold.with_unscorable("keep")
    return [row for row, score in enumerate(scores) if not judge.keep(score, row)]


def scores_without_rows(threshold: Threshold, scores: list[float | None]) -> list[float]:
    return [score for score in scorable(scores) if not threshold.keep(score)]


def check_counts(threshold: Threshold, scores: list[float | None]) -> None:
    assert threshold.rows == len(scores)
    assert threshold.removed == len(rows_removed_by(threshold, scores))
    assert threshold.unscorable_rows == len(scores) - len(scorable(scores))
    assert threshold.tied == len(scores_without_rows(threshold, scores)) - threshold.removed


# Counting rules ------------------------------------------------------------------------------------------------------


@given(scores=DISTINCT, count=st.integers(0, 35))
def test_drop_top_removes_exactly_the_highest_where_none_tie(scores: list[float], count: int) -> None:
    threshold = Threshold.drop_top(count).fit(scores)
    assert sorted(scores_without_rows(threshold, scores)) == sorted(scores)[max(0, len(scores) - count) :]
    assert threshold.tied == 0
    assert threshold.spared_score is None


@given(scores=TIED, count=st.integers(0, 35))
def test_drop_top_removes_the_first_of_those_that_tie(scores: list[float | None], count: int) -> None:
    threshold = Threshold.drop_top(count).fit(scores)
    assert rows_removed_by(threshold, scores) == rows_by_hand(scores, count)
    assert threshold.removed == min(count, len(scorable(scores)))
    check_counts(threshold, scores)


@given(scores=TIED, count=st.integers(1, 35))
def test_without_row_numbers_ties_go_together(scores: list[float | None], count: int) -> None:
    threshold = Threshold.drop_top(count).fit(scores)
    ranked = sorted(scorable(scores), reverse=True)
    last = ranked[min(count, len(ranked)) - 1] if ranked else math.inf
    expected = [score for score in scorable(scores) if score >= last]
    assert scores_without_rows(threshold, scores) == expected
    assert threshold.tied == len(expected) - min(count, len(ranked))


@given(scores=TIED, percent=st.integers(0, 100))
def test_drop_fraction_rounds_down_to_whole_scorable_rows(scores: list[float | None], percent: int) -> None:
    threshold = Threshold.drop_fraction(percent / 100).fit(scores)
    count = math.floor(Fraction(percent, 100) * len(scorable(scores)))
    assert rows_removed_by(threshold, scores) == rows_by_hand(scores, count)
    check_counts(threshold, scores)


@given(scores=TIED, value=st.sampled_from([-2.5, -0.1, 0.0, 0.1, 1.5, 2.0]))
def test_max_score_removes_only_what_is_greater(scores: list[float | None], value: float) -> None:
    threshold = Threshold.max_score(value).fit(scores)
    assert scores_without_rows(threshold, scores) == [score for score in scorable(scores) if score > value]
    assert (threshold.value, threshold.tied, threshold.spared_from) == (value, 0, None)
    check_counts(threshold, scores)


@given(scores=TIED, seed=st.integers(0, 99), which=st.sampled_from(["drop_top", "drop_fraction", "max_score"]))
def test_the_order_of_rows_decides_between_equal_scores_alone(
    scores: list[float | None], seed: int, which: str
) -> None:
    rule = getattr(Threshold, which)({"drop_top": 3, "drop_fraction": 0.3, "max_score": 0.05}[which])
    shuffled = random.Random(seed).sample(scores, len(scores))
    one, other = rule.fit(scores), rule.fit(shuffled)
    assert replace(one, spared_from=None) == replace(other, spared_from=None)
    assert sorted(scores[row] for row in rows_removed_by(one, scores)) == sorted(
        shuffled[row] for row in rows_removed_by(other, shuffled)
    )


def test_a_fitted_threshold_is_fitted_anew() -> None:
    tied = Threshold.drop_top(1).fit([0.5, 0.5])
    assert (tied.spared_score, tied.spared_from) == (0.5, 1)
    for scores in ([], [0.5], [0.1, 0.5]):
        assert tied.fit(scores) == Threshold.drop_top(1).fit(scores)


@pytest.mark.parametrize(
    ("count", "value", "removed"), [(0, math.inf, 0), (1, 0.5, 1), (2, -math.inf, 2), (9, -math.inf, 2)]
)
def test_infinite_scores_have_their_place(count: int, value: float, removed: int) -> None:
    scores = [-math.inf, 0.5, math.inf, -math.inf]
    threshold = Threshold.drop_top(count).fit(scores)
    assert (threshold.value, threshold.removed, threshold.tied) == (value, removed, 0)
    assert rows_removed_by(threshold, scores) == sorted([2, 1][:removed])


@pytest.mark.parametrize("scores", [[1, -0.0], [1, -0.0, 0.0], [1, 0.0, -0.0], [1, 1, -0.0], [-0.0, 0.0]])
def test_no_threshold_is_minus_zero(scores: list[float]) -> None:
    threshold = Threshold.drop_top(1).fit(scores)
    assert "-0.0" not in threshold.to_json()
    assert rows_removed_by(threshold, scores) == [0]


def test_max_score_judges_a_float32_as_it_was_counted() -> None:
    scores = np.full(3, 0.1, np.float32)  # a little more than 0.1
    threshold = Threshold.max_score(0.1).fit(scores)
    assert threshold.removed == 3
    assert threshold.removes(scores).all()
    assert not threshold.keep(scores[0])


# Chunks --------------------------------------------------------------------------------------------------------------


def pieces(array: NDArray[np.floating], count: int) -> list[NDArray[np.floating]]:
    return [array[:0], *np.array_split(array, count), array[:0]]


@given(
    scores=EXTREME,
    rule=st.one_of(
        st.builds(Threshold.drop_top, st.integers(0, 45)),
        st.builds(Threshold.drop_fraction, st.floats(0, 1)),
        st.sampled_from([Threshold.max_score(0.0), Threshold.calibrated(0.5, [0.1, 0.2, 0.1])]),
    ),
    dtype=st.sampled_from([np.float32, np.float64]),
    batch=st.sampled_from([4, 1 << 18]),
    collected=st.sampled_from([0, 5, 1 << 20]),
)
def test_chunks_change_nothing(scores: list[float], rule: Threshold, dtype: Any, batch: int, collected: int) -> None:
    array = np.array(scores, dtype)
    expected = rule.fit(array)
    with mock.patch.multiple(ranking, _BATCH=batch, _COLLECTED=collected):
        for count in (1, 3, 7):
            threshold = rule.fit_chunks(lambda count=count: pieces(array, count))
            assert threshold.to_json() == expected.to_json()  # which tells -0.0 from 0.0, and 1 from 1.0
            row, gone = 0, []
            for piece in pieces(array, count):
                gone += threshold.removes(piece, row).tolist()
                row += len(piece)
            removed = np.flatnonzero(gone).tolist()
            assert len(removed) == threshold.removed
            assert removed == rows_removed_by(threshold, scores if dtype is np.float64 else array.tolist())
            if rule.rule.startswith("drop"):
                share = rule.amount * len(scorable(array.tolist()))
                number = int(rule.amount) if rule.rule == "drop_top" else math.floor(round(share, 6))
                assert removed == rows_by_hand(array.tolist(), number)


@pytest.mark.slow
def test_twenty_million_rows_take_the_memory_of_one_chunk() -> None:
    chunk, count = 1_000_000, 20
    passes = 0

    def chunks() -> Iterator[NDArray[np.float32]]:
        nonlocal passes
        passes += 1
        for seed in range(count):
            # The first 16 bits are those of all: who collected them after the first pass would hold every row.
            yield np.random.default_rng(seed).random(chunk, np.float32) / 50 + np.float32(0.5)

    tracemalloc.start()
    try:
        threshold = Threshold.drop_top(7_654_321).fit_chunks(chunks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 4 * chunk + 32 * 2**20  # while one chunk is made, the one before it is still held
    assert passes == 4
    assert (threshold.rows, threshold.removed) == (chunk * count, 7_654_321)
    assert sum(int(threshold.removes(x, chunk * i).sum()) for i, x in enumerate(chunks())) == 7_654_321


@pytest.mark.parametrize("from_pass", [2, 3])
def test_scores_that_change_between_passes_are_refused(from_pass: int) -> None:
    passes = 0

    def chunks() -> list[NDArray[np.float64]]:
        nonlocal passes
        passes += 1
        return [np.arange(9.0) + 100 * (passes >= from_pass)]

    with pytest.raises(DataError, match="changed"):
        Threshold.drop_top(3).fit_chunks(chunks)
    once = iter([np.arange(9.0)])
    with pytest.raises(DataError, match="only once"):
        Threshold.drop_top(3).fit_chunks(lambda: once)


@pytest.mark.parametrize(("share", "rows", "count"), [(0.07, 100, 7), (0.29, 100, 29), (0.1, 9, 0), (0.999, 1000, 999)])
def test_a_share_counts_as_a_person_would(share: float, rows: int, count: int) -> None:
    assert Threshold.drop_fraction(share).fit(np.arange(rows)).removed == count


def test_float32_columns_and_the_python_floats_of_a_dataset_are_judged_alike() -> None:
    scores = np.random.default_rng(0).normal(size=200).astype(np.float32)
    threshold = Threshold.drop_top(17).fit(scores)
    assert sum(not threshold.keep(score) for score in scores) == 17
    assert sum(not threshold.keep(float(score)) for score in scores) == 17
    assert threshold == Threshold.drop_top(17).fit(scores.tolist()) == Threshold.drop_top(17).fit(iter(scores.tolist()))


@pytest.mark.parametrize("scores", [[], [NAN, None]])
def test_nothing_to_judge_removes_nothing(scores: list[float | None]) -> None:
    for rule in (Threshold.drop_top(5), Threshold.drop_fraction(0.5), Threshold.max_score(0.1)):
        threshold = rule.fit(scores)
        assert (threshold.rows, threshold.removed, threshold.unscorable_rows) == (len(scores), 0, len(scores))
        assert threshold.tied == 0
        assert threshold.removes(scores).tolist() == [False] * len(scores)


@given(scores=TIED, count=st.integers(0, 35), policy=st.sampled_from(["separate", "keep", "remove"]))
def test_every_row_has_the_outcome_that_the_policy_says(scores: list[float | None], count: int, policy: Any) -> None:
    masks = Threshold.drop_top(count, unscorable=policy).fit(scores).outcomes(scores)
    outcomes = {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}
    removed = rows_by_hand(scores, count)
    missing = [row for row, score in enumerate(scores) if score is None or math.isnan(score)]
    rest = sorted(set(range(len(scores))) - {*removed, *missing})
    expected = {"kept": rest, "removed": removed, "unscorable": []}
    place = {"separate": "unscorable", "keep": "kept", "remove": "removed"}[policy]
    expected[place] = sorted([*expected[place], *missing])
    assert outcomes == expected


# The calibrated rule -------------------------------------------------------------------------------------------------


@example(count=9, percent=70, seed=0)  # 1 - 0.7 is a little more than 0.3
@given(count=st.integers(1, 250), percent=st.integers(1, 99), seed=st.integers(0, 5))
def test_calibrated_is_the_exact_order_statistic(count: int, percent: int, seed: int) -> None:
    harmless = np.random.default_rng(seed).normal(size=count)
    share = Fraction(percent, 100)
    place = math.ceil((count + 1) * (1 - share))  # counted from 1: split conformal prediction
    if place > count:
        with pytest.raises(ThresholdError, match=f"at least {math.ceil(1 / share) - 1} harmless rows; .* {count}"):
            Threshold.calibrated(percent / 100, harmless)
        return
    threshold = Threshold.calibrated(percent / 100, [*harmless, NAN, None])
    assert threshold.value == sorted(harmless)[place - 1]
    assert threshold.harmless == count


@pytest.mark.parametrize(("share", "count"), [(0.1, 9), (0.1, 50), (0.05, 30), (0.5, 4)])
def test_calibrated_removes_at_most_its_share_of_new_harmless_rows(share: float, count: int) -> None:
    generator = np.random.default_rng(1)
    trials = 3000
    wrong = [
        not Threshold.calibrated(share, generator.normal(size=count)).keep(float(generator.normal()))
        for _ in range(trials)
    ]
    error = 4 * math.sqrt(share * (1 - share) / trials)
    # At most the share, and not needlessly less: within one harmless row of it.
    assert share - 1 / (count + 1) - error < np.mean(wrong) < share + error


def test_calibrated_counts_over_the_rows_it_is_fitted_to() -> None:
    threshold = Threshold.calibrated(0.1, np.arange(9.0))
    assert threshold.keep(8)
    assert not threshold.keep(8.001)
    fitted = threshold.fit([1, 8, 9, 10, NAN])
    assert (fitted.value, fitted.rows, fitted.removed, fitted.unscorable_rows, fitted.tied) == (8, 5, 2, 1, 0)


# Null scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [None, NAN, np.float32("nan")])
def test_a_row_without_a_score_waits_for_a_word(score: Any) -> None:
    threshold = Threshold.max_score(0.1)
    with pytest.raises(ThresholdError, match="with_unscorable"):
        threshold.keep(score)
    assert threshold.with_unscorable("keep").keep(score) is True
    assert threshold.with_unscorable("remove").keep(score) is False
    assert threshold.with_unscorable("remove").keep(0.1) is True
    with pytest.raises(ThresholdError, match="with_unscorable"):  # with_unscorable gives a copy
        threshold.keep(score)
    with pytest.raises(ThresholdError, match="maybe"):
        threshold.with_unscorable("maybe")


@pytest.mark.parametrize("rule", [Threshold.drop_top(2), Threshold.drop_fraction(0.1)])
def test_a_counting_rule_judges_only_once_fitted(rule: Threshold) -> None:
    with pytest.raises(ThresholdError, match=rf"{rule.rule}.*\.fit"):
        rule.keep(0.5)
    with pytest.raises(ThresholdError, match=rf"{rule.rule}.*\.fit"):
        rule.removes([0.5])


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        *(lambda value=value: Threshold.max_score(value) for value in (NAN, math.inf, -math.inf)),
        *(lambda count=count: Threshold.drop_top(count) for count in (-1, 2.5, NAN, math.inf)),
        *(lambda share=share: Threshold.drop_fraction(share) for share in (-0.01, 1.01, NAN)),
        *(lambda share=share: Threshold.calibrated(share, np.arange(99)) for share in (0, 1, -0.1, NAN)),
        lambda: Threshold.calibrated(0.5, []),
        lambda: Threshold.calibrated(0.5, [NAN, None]),
        *(
            lambda rule=rule: getattr(Threshold, rule)(0, unscorable="drop")
            for rule in ("max_score", "drop_top", "drop_fraction")
        ),
        lambda: Threshold.calibrated(0.5, [1, 2], unscorable=None),  # type: ignore[arg-type]
        lambda: Threshold.drop_top(1).fit(["high", "low"]),
        lambda: Threshold.drop_top(1).fit(np.zeros((3, 2))),
        lambda: Threshold.drop_top(1).fit_chunks(lambda: [np.zeros(3), np.zeros((3, 2))]),
        lambda: Threshold.max_score(1).fit_chunks(lambda: [np.array(["high", "low"])]),
        lambda: Threshold.max_score(1).removes(["high", "low"]),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], Threshold]) -> None:
    with pytest.raises(ThresholdError):
        make()


# JSON ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "threshold",
    [
        Threshold.max_score(0.12),
        Threshold.drop_top(3),
        Threshold.drop_top(2).fit([0.1, 0.2, 0.2, 0.2, NAN]),
        Threshold.drop_top(1).fit([math.inf, 0.2, math.inf]),
        Threshold.drop_top(9).fit([0.1, 0.2]).with_unscorable("remove"),  # all go: above minus infinity
        Threshold.drop_fraction(0.5).fit([]),  # none can go: above infinity
        Threshold.calibrated(0.1, np.arange(20) / 7).fit(np.float32([1, 3])),
    ],
    ids=lambda threshold: threshold.rule,
)
def test_json_gives_the_same_threshold_back(threshold: Threshold, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    json.loads(threshold.to_json(), parse_constant=refuse)
    again = Threshold.from_json(threshold.to_json())
    assert again == threshold
    threshold.save(tmp_path / "threshold.json")
    assert Threshold.from_json((tmp_path / "threshold.json").read_text()) == threshold
    if threshold.value is not None:
        assert [again.keep(x) for x in (-2, 0.15, 2)] == [threshold.keep(x) for x in (-2, 0.15, 2)]


def test_json_without_row_numbers_is_read() -> None:
    text = (
        '{"amount": 1, "harmless": null, "removed": 2, "rows": 3, "rule": "drop_top", "tied": 1, '
        '"nulls": "keep", "unscorable": 0, "value": 0.1}'
    )
    threshold = Threshold.from_json(text)
    assert rows_removed_by(threshold, [0.1, 0.4, 0.4]) == [1, 2]
    assert (threshold.value, threshold.removed, threshold.tied, threshold.spared_from) == (0.1, 2, 1, None)
    assert (threshold.unscorable, threshold.unscorable_rows) == ("keep", 0)


@pytest.mark.parametrize(
    ("threshold", "shown"),
    [
        (Threshold.max_score(0.12), "Threshold.max_score(0.12)"),
        (Threshold.drop_top(1_234_567), "Threshold.drop_top(1234567)"),
        (Threshold.drop_fraction(0.1, unscorable="keep"), "Threshold.drop_fraction(0.1, unscorable='keep')"),
        (Threshold.drop_top(1).fit([0.5, 0.25, NAN]), "Threshold.drop_top(1): 1 of 3 rows, above 0.25"),
    ],
)
def test_a_threshold_is_shown_in_one_line(threshold: Threshold, shown: str) -> None:
    assert repr(threshold) == shown


STORED = json.loads(Threshold.max_score(0.12).to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        *(
            json.dumps({**STORED, **change})
            for change in (
                {"rule": "drop_everything"},
                {"value": "high"},
                {"value": NAN},  # would keep every row
                {"unscorable": "maybe"},
                {"nulls": "maybe"},
                {"surprise": 1},
                {"spared_score": NAN, "spared_from": 3},
                {"spared_score": 0.5},
                {"spared_from": 3},
                {"spared_score": 0.5, "spared_from": "3"},
            )
        ),
        json.dumps({key: value for key, value in STORED.items() if key != "rule"}),
    ],
)
def test_other_json_is_no_threshold(text: str) -> None:
    with pytest.raises(ThresholdError):
        Threshold.from_json(text)


# In a dataset --------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset() -> Any:
    from datasets import Dataset, Features, Value

    features = Features({"larf_score": Value("float32"), "row": Value("int64")})
    scores = [0.1, 0.4, None, 0.3, 0.4, -0.2]
    return Dataset.from_dict({"larf_score": scores, "row": list(range(6))}, features=features)


def test_filter_removes_the_rows(dataset: Any) -> None:
    threshold = Threshold.drop_top(1).fit(dataset["larf_score"])
    assert (threshold.removed, threshold.tied, threshold.unscorable_rows) == (1, 1, 1)
    kept = dataset.filter(threshold.with_unscorable("keep").keep, input_columns="larf_score", with_indices=True)
    assert kept["row"][:] == [0, 2, 3, 4, 5]
    kept = dataset.filter(threshold.with_unscorable("remove").keep, input_columns=["larf_score"], with_indices=True)
    assert kept["row"][:] == [0, 3, 4, 5]
    kept = dataset.filter(threshold.with_unscorable("remove").keep, input_columns="larf_score")
    assert kept["row"][:] == [0, 3, 5]


@pytest.mark.parametrize("form", [None, "numpy"])
def test_filter_removes_exactly_as_many_as_asked_for(form: str | None) -> None:
    from datasets import Dataset, Features, Value

    scores = (np.random.default_rng(0).integers(0, 9, 3000) / 7).astype(np.float32)
    dataset = Dataset.from_dict({"larf_score": scores}, features=Features({"larf_score": Value("float32")}))
    threshold = Threshold.drop_top(1234).fit(dataset["larf_score"])
    assert threshold.tied > 0
    kept = dataset.with_format(form).filter(threshold.keep, input_columns="larf_score", with_indices=True)
    assert len(kept) == 3000 - 1234


def test_filter_does_not_pass_over_a_null_in_silence(dataset: Any) -> None:
    with pytest.raises(ThresholdError, match="with_unscorable"):
        dataset.filter(Threshold.max_score(0.2).keep, input_columns="larf_score")
