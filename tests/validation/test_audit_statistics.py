"""Ranks, correlations and intervals against scipy, and the sample against its promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from larf_curate.validation.audit_statistics import by_chance, highest_tenth, midranks, share, spearman, spread_sample

RANDOM = np.random.default_rng(0)


def with_ties(count: int = 60):
    return np.round(RANDOM.normal(size=count), 1)


def test_ranks_are_those_of_scipy_in_every_resample():
    values = with_ties()
    counts = RANDOM.multinomial(60, np.full(60, 1 / 60), size=5)
    for ranks, count in zip(midranks(values, counts), counts, strict=True):
        rows = np.repeat(np.arange(60), count)
        np.testing.assert_allclose(ranks[rows], stats.rankdata(values[rows]))


def test_the_rank_correlation_is_that_of_scipy():
    x, y = with_ties(), with_ties()
    y += x
    found = spearman(x, y)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_the_interval_is_that_of_scipys_bootstrap():
    x = RANDOM.normal(size=200)
    y = 0.4 * x + RANDOM.normal(size=200)
    found = spearman(x, y)

    def by_ranks(a, b, axis=-1):
        ranks = [stats.rankdata(values, axis=axis) for values in (a, b)]
        left, right = (one - one.mean(axis, keepdims=True) for one in ranks)
        return (left * right).sum(axis) / np.sqrt((left**2).sum(axis) * (right**2).sum(axis))

    assert by_ranks(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    whole = stats.bootstrap(
        (x, y),
        by_ranks,
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert found.interval == pytest.approx((whole.low, whole.high), abs=0.02)


@pytest.mark.slow
def test_the_interval_holds_the_true_value_about_as_often_as_it_says():
    truth = 6 / np.pi * np.arcsin(0.3 / 2)  # of Spearman's, where Pearson's is 0.3
    hits = 0
    for seed in range(60):
        x, y = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.3], [0.3, 1]], size=80).T
        found = spearman(x, y)
        hits += found.low <= truth <= found.high
    assert 51 <= hits <= 60


def test_what_is_taken_out_is_gone():
    """Against a least-squares fit on ranks, by numpy."""
    length, loss = with_ties(100), RANDOM.normal(size=100)
    x = length + RANDOM.normal(size=100)
    y = length - loss + RANDOM.normal(size=100)
    fitted = np.column_stack([np.ones(100), stats.rankdata(length), stats.rankdata(loss)])
    left = []
    for values in (x, y):
        ranks = stats.rankdata(values)
        left.append(ranks - fitted @ np.linalg.lstsq(fitted, ranks, rcond=None)[0])
    wanted = np.corrcoef(*left)[0, 1]
    found = spearman(x, y, (length, loss))
    assert found.value == pytest.approx(wanted, abs=1e-9)
    assert found.low < wanted < found.high
    assert spearman(length, y, (loss,)).value > 0.4
    assert abs(found.value) < spearman(x, y).value


def test_a_control_that_is_constant_takes_nothing_out():
    x, y = RANDOM.normal(size=50), RANDOM.normal(size=50)
    assert spearman(x, y, (np.ones(50),)).value == pytest.approx(spearman(x, y).value, abs=1e-9)


def test_without_variation_there_is_no_correlation():
    x = RANDOM.normal(size=50)
    assert spearman(np.ones(50), x) is None
    assert spearman(x, RANDOM.normal(size=50), (2 * x,)) is None


@pytest.mark.parametrize("controls", [0, 2])
def test_random_scores_correlate_as_far_as_theirs_do(controls):
    """The range is that of the correlations of scores that are drawn at random."""
    draw = np.random.default_rng(5)
    damage = draw.normal(size=60).round(1)
    taken_out = [draw.integers(0, 9, 60).astype(float) + damage for _ in range(controls)]
    found = by_chance(damage, taken_out)
    values = _correlations(draw.random((1500, 60)), damage, taken_out)
    assert abs(found.value) < 0.02
    assert found.interval == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=0.03)
    assert by_chance(np.ones(60)) is None
    assert by_chance(damage, [damage]) is None


def _correlations(xs, y, controls):
    """By scipy's ranks and numpy's least squares, of each row of `xs`."""
    others = np.stack([np.ones(len(y)), *map(stats.rankdata, controls)], axis=1)
    ranked = (stats.rankdata(xs, axis=1).T, stats.rankdata(y)[:, None])
    left = [ranks - others @ np.linalg.lstsq(others, ranks, rcond=None)[0] for ranks in ranked]
    return (left[0] * left[1]).sum(axis=0) / np.linalg.norm(left[0], axis=0) / np.linalg.norm(left[1], axis=0)


def test_a_score_that_is_nearly_constant_shows_nothing():
    """One row apart from all others, with more damage than most: no resample without it contradicts that."""
    score = np.zeros(200)
    score[7] = 1
    found = spearman(score, np.random.default_rng(3).permutation(200) + 1000.0 * score)
    assert found.value > 0
    assert found.low <= 0


def test_many_rows_have_the_narrow_interval_that_they_earn(monkeypatch):
    """Of more rows than all resamples of which are kept, too, and whatever their number at a time."""
    x = RANDOM.normal(size=800)
    y = 0.5 * x + RANDOM.normal(size=800)
    found = spearman(x, y)
    width = 1.96 * (1 - found.value**2) * np.sqrt(1 + found.value**2 / 2) / np.sqrt(800)
    assert found.interval == pytest.approx((found.value - width, found.value + width), abs=0.01)
    monkeypatch.setattr("larf_curate.validation.audit_statistics._MOST_KEPT", 0)
    monkeypatch.setattr("larf_curate.validation.audit_statistics._CELLS", 300 * 800)
    assert spearman(x, y) == found


def test_shares_are_those_of_scipy():
    for part, of in ((0, 24), (3, 24), (24, 24)):
        wanted = stats.binomtest(part, of).proportion_ci(0.95, "wilson")
        assert share(part, of).interval == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_the_highest_tenth():
    assert np.flatnonzero(highest_tenth(np.arange(30.0))).tolist() == [27, 28, 29]
    assert highest_tenth(np.arange(4.0)).sum() == 1


def test_a_sample_is_spread_over_the_scores():
    scores = RANDOM.normal(size=1000)
    scores[::10] = np.nan
    places = spread_sample(scores, 100)
    assert len(set(places.tolist())) == 100
    assert (np.diff(places) > 0).all()
    assert not np.isnan(scores[places]).any()
    ranks = stats.rankdata(scores[~np.isnan(scores)])
    by_place = dict(zip(np.flatnonzero(~np.isnan(scores)).tolist(), ranks.tolist(), strict=True))
    parts = sorted((by_place[place] - 1) // 9 for place in places.tolist())
    assert parts == list(range(100))  # one of each hundredth
    assert spread_sample(scores, 100).tolist() == places.tolist()
    assert spread_sample(scores, 2000).tolist() == np.flatnonzero(~np.isnan(scores)).tolist()
