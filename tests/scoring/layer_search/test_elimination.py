"""Dropping what cannot come first: the first with all answers is kept, and fewer answers are given."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from larf_curate.scoring.layer_search import resampling
from larf_curate.scoring.layer_search.elimination import contenders, look_sizes
from larf_curate.scoring.layer_search.resampling import analyse

PROMPTS, BLOCKS, SCALES = 120, 12, (0.8, 0.9, 1.1, 1.2)


def population(draw: np.random.Generator, effects: NDArray[np.float64]) -> NDArray[np.int8]:
    """Decisions [blocks, scales, prompts]: each prompt leans to being refused or not, and a block shifts that."""
    lean = draw.normal(-0.4, 1.6, PROMPTS)
    changes = np.array(SCALES) - 1
    noise = draw.normal(0, 1.5, (len(effects), len(SCALES), PROMPTS)) * np.abs(changes)[:, None]
    return (lean + effects[:, None, None] * changes[:, None] + noise > 0).astype(np.int8)


def race(decisions: NDArray[np.int8], order: NDArray[np.intp], error_rate: float) -> NDArray[np.int8]:
    """The same with -1 where a search would not have asked."""
    figures = figures_of(decisions)[:, order]
    seen = np.full_like(figures, np.nan)
    left = np.ones(len(figures), bool)
    for before, size in zip([0, *look_sizes(PROMPTS)], look_sizes(PROMPTS), strict=False):
        seen[left, before:size] = figures[left, before:size]
        left &= contenders(seen, error_rate)
    asked = np.zeros(seen.shape, bool)
    asked[:, order] = ~np.isnan(seen)
    asked = asked.reshape(len(decisions), 2, PROMPTS)[:, [1, 0, 0, 1]]  # amplitudes 0.1 and 0.2 are two scales each
    return np.where(asked, decisions, -1).astype(np.int8)


def figures_of(decisions: NDArray[np.int8]) -> NDArray[np.float64]:
    """[blocks and amplitudes, prompts]: what a prompt adds to kappa."""
    less, more = decisions[:, [1, 0]].astype(float), decisions[:, [2, 3]].astype(float)
    return ((more - less) / np.array([0.1, 0.2])[:, None]).reshape(-1, PROMPTS)


EFFECTS = {
    "one block leads": np.array([0.0] * 8 + [1.0, 1.5, 2.0, 4.0]),
    "all blocks tie": np.full(BLOCKS, 3.0),
    "two blocks tie far ahead": np.array([0.0] * 10 + [4.0, 4.0]),
    "no block does anything": np.zeros(BLOCKS),
}


@pytest.mark.parametrize("effects", EFFECTS.values(), ids=EFFECTS.keys())
def test_the_first_of_all_answers_is_dropped_no_more_often_than_promised(effects: NDArray[np.float64]) -> None:
    draw = np.random.default_rng(5)
    wrong = answers = 0
    for _ in range(100):
        decisions = population(draw, effects)
        partial = race(decisions, draw.permutation(PROMPTS), 0.2)
        sums = figures_of(decisions).sum(axis=1)
        complete = (partial >= 0).all(axis=2)[:, [1, 0]].ravel()
        wrong += not complete[sums >= sums.max() - 1e-9].any()
        answers += int((partial >= 0).sum())
    assert wrong <= 20, "20% of 100"
    if effects.max() > 3.5:
        assert answers < 0.6 * 100 * decisions.size


def test_a_larger_error_rate_asks_less_and_none_asks_all() -> None:
    decisions = population(np.random.default_rng(1), EFFECTS["one block leads"])
    order = np.random.default_rng(2).permutation(PROMPTS)
    given = [int((race(decisions, order, rate) >= 0).sum()) for rate in (0, 0.001, 0.05, 0.4)]
    assert given[0] == decisions.size
    assert given == sorted(given, reverse=True)
    assert len(set(given)) > 2


def test_a_row_is_dropped_when_the_bound_on_its_lead_says_so() -> None:
    """Against the textbook's interval for the mean of a sample without replacement, of two rows and one early look."""
    prompts, seen = 60, 30
    assert look_sizes(prompts) == [seen, prompts]
    draw = np.random.default_rng(0)
    for lead in np.linspace(0, 8, 33):
        first = np.concatenate([draw.normal(lead, 6, seen), np.full(prompts - seen, np.nan)])
        second = np.where(np.isnan(first), np.nan, draw.normal(0, 6, prompts))
        leads = (first - second)[:seen]
        error = leads.std(ddof=1) / np.sqrt(seen) * np.sqrt((prompts - seen) / prompts)
        most = NormalDist().inv_cdf(0.95) * error
        assert contenders(np.stack([first, second]), 0.05).tolist() == [leads.mean() > -most, leads.mean() < most]


@pytest.mark.parametrize(("prompts", "rows"), [(60, 6), (120, 2), (120, 9)])
def test_the_error_is_shared_out_among_all_looks_and_all_rows_that_may_lead(prompts: int, rows: int) -> None:
    """As above, with a normal's quantile at the error rate by so many comparisons."""
    seen, looks = look_sizes(prompts)[0], len(look_sizes(prompts)) - 1
    most = NormalDist().inv_cdf(1 - 0.05 / (looks * (rows - 1)))
    draw, dropped = np.random.default_rng(0), 0
    for _ in range(60):
        figures = np.full((rows, prompts), np.nan)
        figures[:, :seen] = draw.normal(draw.normal(0, 2.5, (rows, 1)), 6, (rows, seen))
        left = []
        for row in figures[:, :seen]:
            leads = figures[:, :seen] - row
            error = leads.std(axis=1, ddof=1) / np.sqrt(seen) * np.sqrt((prompts - seen) / prompts)
            left.append(not (leads.mean(axis=1) > most * error + 1e-9).any())
        dropped += rows - sum(left)
        assert contenders(figures, 0.05).tolist() == left
    assert 10 < dropped < 60 * (rows - 1)


def test_a_row_of_which_all_is_known_is_never_dropped() -> None:
    """Nothing more is asked of it: as where an earlier search has asked all."""
    figures = np.stack([np.zeros(60), np.full(60, -10.0), np.full(60, -10.0)])
    figures[2, 30:] = np.nan
    assert contenders(figures, 0.05).tolist() == [True, True, False]


def test_with_few_prompts_nothing_is_dropped() -> None:
    assert look_sizes(40) == [40]
    figures = np.stack([np.full(40, 10.0), np.zeros(40)])
    assert contenders(figures, 0.05).all()


def test_chance_alone_seldom_stands_out_where_a_part_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_RESAMPLES", 400)  # the promise holds for any number of them
    draw = np.random.default_rng(7)
    called = 0
    for _ in range(60):
        partial = race(population(draw, EFFECTS["no block does anything"]), draw.permutation(PROMPTS), 0.4)
        assert (partial < 0).any()
        called += analyse(partial, SCALES, range(BLOCKS), seed=int(draw.integers(1 << 30)))[2] is not None
    assert called <= 10  # 3 expected; 10 is a binomial's 99.9%


def test_intervals_of_blocks_asked_less_are_wider_the_more_looks_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of them may have been the last: the level is shared out among them."""
    draw = np.random.default_rng(9)
    partial = race(population(draw, EFFECTS["one block leads"]), draw.permutation(PROMPTS), 0.05)
    five, _, _ = analyse(partial, SCALES, range(BLOCKS))
    monkeypatch.setattr(resampling, "look_sizes", lambda prompts: [prompts // 2, prompts])
    two, _, _ = analyse(partial, SCALES, range(BLOCKS))
    for more, fewer in zip(five, two, strict=True):
        if min(more.asked.values()) < PROMPTS:
            assert more.high - more.low > fewer.high - fewer.low
        else:
            assert (more.low, more.high) == (fewer.low, fewer.high)


def test_a_block_asked_less_has_a_wider_interval_that_holds_what_all_answers_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resampling, "_RESAMPLES", 400)
    draw = np.random.default_rng(8)
    held = wider = dropped = 0
    for _ in range(25):
        decisions = population(draw, EFFECTS["one block leads"])
        partial = race(decisions, draw.permutation(PROMPTS), 0.05)
        (some, _, best), (whole, _, expected) = (
            analyse(marks, SCALES, range(BLOCKS)) for marks in (partial, decisions)
        )
        assert best == expected
        for block, complete in zip(some, whole, strict=True):
            if min(block.asked.values()) < PROMPTS // 2 + 1:
                dropped += 1
                held += block.low <= complete.kappa <= block.high
                wider += block.high - block.low > complete.high - complete.low
            assert block.refusals["0.9"] <= block.asked["0.9"] <= PROMPTS
    assert dropped > 100
    assert held >= 0.95 * dropped
    assert wider >= 0.95 * dropped
