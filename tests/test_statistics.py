"""Interquartile mean and bootstrap interval."""

import numpy as np
import pytest
from scipy.stats import trim_mean

from precocial import statistics
from precocial.statistics import bootstrap_interval, interquartile_mean


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 7, 8, 101, 1000])
def test_is_the_trimmed_mean(num):
    values = np.random.default_rng(num).normal(size=num)
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25))


def test_ignores_the_outer_quarters():
    # Sorted: -9, 1 | 2, 3, 4, 5 | 6, 1e9; the middle half averages (2 + 3 + 4 + 5) / 4.
    assert interquartile_mean(np.array([1e9, 5, 1, 4, -9, 2, 6, 3])) == 3.5


def test_does_not_sort_its_argument():
    values = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    interquartile_mean(values)
    assert values.tolist() == [3, 1, 2, 5, 4]


def test_interval_is_deterministic_and_around_the_estimate():
    scores = np.random.default_rng(0).normal(size=(3, 40))
    low, high = bootstrap_interval(scores)
    assert (low, high) == bootstrap_interval(scores)
    assert low < interquartile_mean(scores) < high
    assert (low, high) != bootstrap_interval(scores, seed=1)


def test_equal_scores_have_no_width():
    assert bootstrap_interval(np.full((2, 5), 7.0)) == (7.0, 7.0)


def test_seeds_that_differ_widen_the_interval():
    """Between-seed spread 1 on S = 5: tasks alone would give about 2 x 1.96 x 0.1 / sqrt(200)."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (5, 1)) + rng.normal(0, 0.1, (5, 40))
    low, high = bootstrap_interval(scores)
    assert high - low > 0.5
    flat_low, flat_high = bootstrap_interval(scores.reshape(1, -1) * 0 + rng.normal(0, 0.1, 200))
    assert flat_high - flat_low < 0.1


def test_covers_the_truth_about_as_often_as_it_says():
    """One seed of 60 normal tasks, whose interquartile mean is 0: 95 % minus bootstrap optimism."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(size=(1, 60)), num_resamples=300)
        hits += low <= 0 <= high
    assert 0.9 <= hits / 200 <= 0.98


def test_chunks_do_not_change_the_result_of_one_task_per_seed(monkeypatch):
    scores = np.arange(12.0).reshape(12, 1)
    whole = bootstrap_interval(scores, num_resamples=4000)
    monkeypatch.setattr(statistics, "VALUES_PER_CHUNK", 100)
    parts = bootstrap_interval(scores, num_resamples=4000)
    assert parts == pytest.approx(whole, abs=0.3)


@pytest.mark.parametrize("shape", [(4,), (0, 3), (2, 0), (1, 2, 3)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="seeds, tasks"):
        bootstrap_interval(np.zeros(shape))


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        interquartile_mean(np.array([]))
