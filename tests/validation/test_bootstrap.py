"""Intervals are those of drawing seeds and prompts again, by numpy, one draw at a time."""

from __future__ import annotations

import numpy as np
import pytest

from larf_curate.validation import bootstrap
from larf_curate.validation.bootstrap import _student, difference, figure, slope, trend_probability


def values(seeds: int = 3, prompts: int = 80, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(seeds, prompts))
        + generator.normal(size=(1, prompts))
        + generator.normal(size=(seeds, 1))
    )


STUDENT = {1: 12.7062, 2: 4.3027, 5: 2.5706, 9: 2.2622, 12: 2.1788, 30: 2.0423}
"""97.5% quantiles of Student's t, out of a printed table, by degrees of freedom."""


def by_hand(array: np.ndarray, draws: int = 8000) -> tuple[np.ndarray, float]:
    """What draws of seeds move the mean by is widened: for their number in the error, by Student in the interval."""
    generator = np.random.default_rng(9)
    seeds, seed_means = len(array), np.nanmean(array, axis=1)
    unbiased = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0
    student = STUDENT[seeds - 1] / 1.96 if seeds > 1 else 1.0
    rows = generator.integers(seeds, size=(draws, seeds))
    columns = generator.integers(array.shape[1], size=(draws, array.shape[1]))
    means = np.nanmean(array[rows[:, :, None], columns[:, None, :]], axis=(1, 2))
    moved = seed_means[rows].mean(1) - seed_means.mean()
    wide = means + (unbiased * student - 1) * moved
    return np.quantile(wide, [0.025, 0.975]), float(np.std(means + (unbiased - 1) * moved))


@pytest.mark.parametrize("seeds", [1, 3, 6, 13])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_intervals(missing, seeds, monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 8000)  # both are random: more draws, so that they can be held together
    array = values(seeds)
    array[np.random.default_rng(1).random(array.shape) < missing] = np.nan
    found = figure(array)
    interval, error = by_hand(array)
    assert found.value == pytest.approx(np.nanmean(array))
    np.testing.assert_allclose(found.interval, interval, atol=0.15 * error)
    assert found.error == pytest.approx(error, rel=0.05)
    half = (found.interval[1] - found.interval[0]) / 2
    assert found.detectable == pytest.approx(half + 0.84 * found.error)


@pytest.mark.parametrize(("seeds", "between_seeds"), [(2, 1.0), (3, 0.0), (3, 0.3), (3, 1.0), (5, 1.0)])
def test_an_interval_of_95_percent_holds_the_truth_in_about_as_many_studies(seeds, between_seeds, monkeypatch):
    """Drawing three seeds again and nothing more, it held it in 75 to 90% where seeds differ."""
    monkeypatch.setattr(bootstrap, "DRAWS", 500)
    generator = np.random.default_rng(0)
    held = 0
    for study in range(150):
        array = 0.5 * generator.normal(size=(seeds, 60)) + generator.normal(size=(1, 60))
        array += between_seeds * generator.normal(size=(seeds, 1))
        low, high = figure(array, study % 4).interval
        held += low <= 0 <= high
    assert held >= 0.91 * 150


def test_a_share_stays_a_share():
    """Two seeds that differ know so little that their interval would go beyond 0 and 1."""
    low, high = figure(np.array([[1.0] * 8 + [0.0] * 2, [1.0] * 2 + [0.0] * 8])).interval
    assert (low, high) == (0.0, 1.0)


def test_a_seed_without_values_says_nothing():
    array = values(3)
    array[1] = np.nan
    assert figure(array).value == pytest.approx(np.nanmean(array))
    assert np.isfinite([*figure(array).interval, figure(array).error]).all()


@pytest.mark.parametrize(("degrees", "quantile"), STUDENT.items())
def test_student(degrees, quantile):
    assert _student(degrees) == pytest.approx(quantile, abs=0.004)


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
