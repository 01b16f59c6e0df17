"""Intervals are those of drawing seeds and prompts again, by numpy, one draw at a time."""

from __future__ import annotations

import numpy as np
import pytest

from larf_curate.validation.bootstrap import difference, figure, slope, trend_probability


def values(seeds: int = 3, prompts: int = 80, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(seeds, prompts))
        + generator.normal(size=(1, prompts))
        + generator.normal(size=(seeds, 1))
    )


def by_hand(array: np.ndarray, draws: int = 4000) -> tuple[np.ndarray, float]:
    generator = np.random.default_rng(9)
    means = []
    for _ in range(draws):
        rows = generator.integers(len(array), size=len(array))
        columns = generator.integers(array.shape[1], size=array.shape[1])
        means.append(np.nanmean(array[np.ix_(rows, columns)]))
    return np.quantile(means, [0.025, 0.975]), float(np.std(means))


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_intervals(missing):
    array = values()
    array[np.random.default_rng(1).random(array.shape) < missing] = np.nan
    found = figure(array)
    interval, error = by_hand(array)
    assert found.value == pytest.approx(np.nanmean(array))
    np.testing.assert_allclose(found.interval, interval, atol=0.15 * error)
    assert found.error == pytest.approx(error, rel=0.1)
    assert found.detectable == pytest.approx(2.8 * found.error)


def test_more_seeds_count_for_the_interval():
    """Three seeds that agree are surer than three that do not, though the prompts are the same."""
    prompts = np.random.default_rng(0).normal(size=(1, 100))
    agreeing = figure(np.repeat(prompts, 3, axis=0))
    differing = figure(prompts + np.array([[-1.0], [0.0], [1.0]]))
    assert differing.error > 2 * agreeing.error


def test_pairs_are_compared_prompt_by_prompt():
    control = values()
    found = difference(control - 0.3, control)
    assert found.value == pytest.approx(-0.3)
    assert found.interval == pytest.approx((-0.3, -0.3))
    assert found.is_apart_from_zero
    assert not difference(values(seed=1), values(seed=2)).is_apart_from_zero


def test_nothing_measured_is_no_figure():
    found = figure(np.full((2, 3), np.nan))
    assert np.isnan([found.value, *found.interval]).all()
    assert not found.is_apart_from_zero


def test_the_slope_is_the_least_squares_line():
    bins = [values(seed=number) - 0.5 * number for number in range(5)]
    wanted = np.polyfit(np.arange(5), [one.mean() for one in bins], 1)[0]
    assert slope(bins).value == pytest.approx(wanted)


def test_a_trend_is_told_from_chance():
    falling = [np.full((3, 10), -float(number)) + values(3, 10, number) * 0.01 for number in range(5)]
    assert trend_probability(falling) < 0.01
    flat = [trend_probability([values(3, 10, 10 * trial + number) for number in range(5)]) for trial in range(30)]
    assert np.mean(np.array(flat) < 0.1) < 0.35
    assert np.mean(flat) > 0.3
    # With one seed no order of five bins is rarer than two in 120.
    assert trend_probability([one[:1] for one in falling]) == pytest.approx(2 / 120, abs=0.01)
