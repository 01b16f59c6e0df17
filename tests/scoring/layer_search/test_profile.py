"""The figures of a layer search, against a table worked by hand and against chance."""

from __future__ import annotations

import numpy as np
import pytest

from larf_curate.errors import ModelError
from larf_curate.scoring.layer_search import resampling
from larf_curate.scoring.layer_search.profile import SCALES, amplitudes
from larf_curate.scoring.layer_search.resampling import analyse


def test_a_table_worked_by_hand() -> None:
    """Two blocks, scales 0.7, 0.9, 1.1, 1.3, four prompts: kappa takes the amplitude 0.1 alone."""
    marks = [
        [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
        [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]],
    ]
    profiles, _, _ = analyse(np.array(marks, np.int8), (0.7, 0.9, 1.1, 1.3), [5, 9])
    first, second = profiles
    assert (first.block, second.block) == (5, 9)
    assert first.refusals == {"0.7": 1, "0.9": 1, "1.1": 3, "1.3": 4}
    assert first.delta == {"0.1": 2, "0.3": 3}
    assert first.kappa == pytest.approx(20)  # 2 / 0.1
    assert second.delta == {"0.1": 0, "0.3": -2}
    assert (second.kappa, second.low, second.high) == (0, 0, 0)
    assert 0 <= first.low <= 20 <= first.high <= 40
    # Of the 4^4 resamples, block 5 has no lead only where neither of its two moving prompts is drawn: 2^4 of them.
    assert first.first == pytest.approx(1 - 0.5 / 16, abs=0.01)


def test_kappa_is_the_larger_of_the_two_small_amplitudes() -> None:
    decisions = np.zeros((1, 6, 10), np.int8)
    decisions[0, SCALES.index(1.1), :3] = True  # 3 / 0.1 = 30
    decisions[0, SCALES.index(1.2), :5] = True  # 5 / 0.2 = 25
    decisions[0, SCALES.index(1.3)] = True  # 10 / 0.3 would be 33
    (profile,), _, _ = analyse(decisions, SCALES, [0])
    assert profile.kappa == pytest.approx(30)


@pytest.mark.slow
def test_chance_alone_seldom_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve blocks without any effect, 200 times: some block is called safety-sensitive in about 5%."""
    monkeypatch.setattr(resampling, "_RESAMPLES", 400)  # which holds for any number of them
    draw = np.random.default_rng(3)
    called = 0
    for _ in range(200):
        lean = draw.random((1, 1, 60))  # prompts differ in how often they are refused; blocks and scales do not
        decisions = (draw.random((12, 6, 60)) < lean).astype(np.int8)
        called += analyse(decisions, SCALES, range(12), seed=int(draw.integers(1 << 30)))[2] is not None
    assert 1 <= called <= 20  # 10 expected; a binomial's 99.9% is within 1 to 21


@pytest.mark.slow
def test_a_real_effect_is_found_and_its_interval_holds_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_RESAMPLES", 1000)  # fewer make both figures worse
    draw = np.random.default_rng(4)
    rise = {0.7: 0.2, 0.8: 0.3, 0.9: 0.4, 1.1: 0.6, 1.2: 0.7, 1.3: 0.8}
    found = covered = 0
    for _ in range(100):
        decisions = (draw.random((8, 6, 120)) < 0.5).astype(np.int8)
        decisions[3] = draw.random((6, 120)) < np.array([rise[scale] for scale in SCALES])[:, None]
        profiles, _, best = analyse(decisions, SCALES, range(8))
        found += best == 3
        # 0.2 / 0.1 = 0.4 / 0.2 = 2 a prompt; the larger of two such estimates is somewhat above it
        covered += profiles[3].low <= 120 * 2.1 <= profiles[3].high
    assert found >= 97
    assert covered >= 80


def test_blocks_that_cannot_be_told_apart_are_not_apart() -> None:
    decisions = np.zeros((3, 2, 40), np.int8)
    decisions[0, 1, :20] = decisions[1, 1, 1:21] = True
    profiles, _, best = analyse(decisions, (0.9, 1.1), [0, 1, 2])
    assert best == 0
    assert [profile.apart for profile in profiles] == [False, False, True]
    assert profiles[0].first == pytest.approx(0.5, abs=0.1)


def test_apart_is_what_trails_in_95_of_100_resampled_prompt_sets() -> None:
    """Of 40 prompts the first block moves 12, the others 8 and 1 that it does not: leads of 4 and 11 prompts.

    By their standard deviations, of 4.5 and 3.6 prompts, these are leads in about 80% and 99.8% of resamples.
    """
    decisions = np.zeros((3, 2, 40), np.int8)
    decisions[0, 1, :12] = decisions[1, 1, 12:20] = decisions[2, 1, 39:] = True
    profiles, _, _ = analyse(decisions, (0.9, 1.1), [0, 1, 2])
    assert [profile.apart for profile in profiles] == [False, False, True]


def test_a_part_of_the_prompts_is_a_noisier_measure_of_chance() -> None:
    """A block of which a quarter was asked: chance moves 120 prompts twice as far as the 30 that were asked.

    16 of these moved, half of them up: by chance, 2 * sqrt(16) / 0.1 = 80 is a standard deviation of what it would be
    with all. The 10 / 0.1 = 100 of the complete block are 1.25 of these, which one in ten exceeds.
    """
    decisions = np.zeros((2, 2, 120), np.int8)
    decisions[0, 1, :10] = True
    decisions[1, 1, :8] = decisions[1, 0, 8:16] = True
    decisions[1, :, 30:] = -1
    _, p_value, best = analyse(decisions, (0.9, 1.1), [0, 1])
    assert p_value == pytest.approx(0.106, abs=0.04)
    assert best is None


def test_no_interval_reaches_beyond_what_all_prompts_can_give() -> None:
    """Of a block that was asked half of the prompts, all of which moved."""
    decisions = np.zeros((2, 2, 120), np.int8)
    decisions[:, 1] = True
    decisions[1, :, 60:] = -1
    (_, half), _, _ = analyse(decisions, (0.9, 1.1), [0, 1])
    assert half.low < half.kappa == pytest.approx(120 / 0.1)
    assert half.high == pytest.approx(120 / 0.1)


@pytest.mark.parametrize("scales", [(), (0.9,), (1.0,), (0.9, 1.1, 1.0), (0.9, 1.1, 1.1), (-1.0, 3.0)])
def test_scales_that_do_not_pair_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ModelError, match=r"pairs 1 - a and 1 \+ a"):
        amplitudes(scales)
