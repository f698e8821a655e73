"""Interquartile mean and bootstrap interval."""

import numpy as np
import pytest
from scipy.stats import trim_mean

from precocial import statistics
from precocial.statistics import (
    TaskSample,
    bootstrap_interval,
    bootstrap_intervals,
    interquartile_mean,
)


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


def brute_force(scores, task, num=50, middle=interquartile_mean):
    """The same resamples, each written down score by score and sorted."""
    sizes = (len(scores), task.max() + 1)
    rows, drawn = (np.random.default_rng((0, k)) for k in range(2))
    values = []
    for _ in range(num):
        columns = [
            c for t in drawn.integers(sizes[1], size=sizes[1]) for c in np.flatnonzero(task == t)
        ]
        values.append(middle(scores[rows.integers(sizes[0], size=sizes[0])][:, columns]))
    return pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), rel=1e-12)


@pytest.mark.parametrize("levels", [None, 2, 5])
@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("num_tasks", [2, 3, 17, 60])
def test_a_resample_has_every_drawn_seed_on_the_same_drawn_tasks(levels, num_seeds, num_tasks):
    scores = np.random.default_rng(0).normal(size=(num_seeds, num_tasks))
    if levels:  # few distinct scores, as of a bandit
        scores = np.floor(scores * levels / 4)
    task = np.arange(num_tasks)
    assert bootstrap_interval(scores, num_resamples=50) == brute_force(scores, task)
    found = bootstrap_interval(scores, num_resamples=50, trim=False)
    assert found == brute_force(scores, task, middle=np.mean)


def test_copies_of_a_task_are_drawn_together():
    rng = np.random.default_rng(0)
    task = np.array([0, 1, 2, 3, 0, 1, 2, 0])
    scores = rng.normal(size=(2, 8)) + 10.0 * task
    found = bootstrap_interval(scores, TaskSample(task), num_resamples=50)
    assert found == brute_force(scores, task)
    # Forty copies of each of four tasks say no more about other tasks than one of each.
    few = rng.normal(size=(1, 4))
    many = np.tile(few, 40)
    sample = TaskSample(np.tile(np.arange(4), 40))
    once = bootstrap_interval(few, trim=False)
    assert bootstrap_interval(many, sample, trim=False) == pytest.approx(once)


def test_all_the_tasks_that_there_are_are_kept():
    # Two directions, 100 apart and the same for every seed: only the seeds' -1, 0, 4 can vary.
    scores = np.array([[-1.0], [0.0], [4.0]]) + np.array([-50.0, 50.0])
    both = TaskSample(np.array([0, 1]), complete=True)
    low, high = bootstrap_interval(scores, both)
    assert -1 <= low < high <= 4
    free = bootstrap_interval(scores)
    assert free[0] < -45 and free[1] > 45


@pytest.mark.parametrize("sample", [TaskSample(np.arange(5), True), TaskSample(np.zeros(5, int))])
def test_one_seed_on_tasks_that_are_kept_has_no_interval(sample):
    scores = np.arange(5.0)[None]
    assert bootstrap_interval(scores, sample) is None
    assert bootstrap_interval(np.ones((1, 1))) is None
    assert bootstrap_interval(np.concatenate([scores, scores + 1]), sample) is not None


def test_more_axes_are_crossed_factors():
    # Rows i, j of value i + 10 j: 2 and 2 levels, redrawn apart, give 0, 5 or 10 and 0, .5 or 1.
    rows = np.add.outer(np.arange(2.0), 10 * np.arange(2.0))[..., None]
    assert bootstrap_interval(rows, trim=False) == (0.0, 11.0)
    # As four seeds the spread would be less: all four would have to be the lowest.
    assert bootstrap_interval(rows.reshape(4, 1), trim=False)[0] > 0


def test_stages_get_the_intervals_that_they_have_alone():
    scores = np.random.default_rng(0).normal(size=(3, 20, 4))
    alone = [bootstrap_interval(scores[..., k]) for k in range(4)]
    assert bootstrap_intervals(scores) == alone


# ---- coverage: 40 tasks of sd 1, seeds of sd 0.1, what is left of sd 0.3 -------------------------


def covered(num_seeds, num_tasks=40, task_sd=1.0, seed_sd=0.1, rest_sd=0.3, tasks=None, num=400):
    """Share of intervals that hold the truth, 0, over ``num`` made-up evaluations."""
    rng, hits = np.random.default_rng(num_seeds), 0
    for _ in range(num):
        scores = rng.normal(0, seed_sd, (num_seeds, 1)) + rng.normal(0, task_sd, num_tasks)
        scores = scores + rng.normal(0, rest_sd, (num_seeds, num_tasks))
        low, high = bootstrap_interval(scores, tasks, num_resamples=500)
        hits += low <= 0 <= high
    return hits / num


@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_covers_the_truth_about_as_often_as_it_says(num_seeds):
    """Tasks drawn anew for each drawn seed would give .73 for three seeds and .67 for five."""
    assert 0.9 <= covered(num_seeds) <= 0.98


def test_over_three_seeds_alone_it_covers_less():
    """A percentile bootstrap of three numbers: docs/protocol.md says .75, as one time in four
    the truth lies beyond all three."""
    both = TaskSample(np.arange(2), complete=True)
    assert covered(3, 2, 0.0, 1.0, 0.0, both) == pytest.approx(0.75, abs=0.05)


def test_chunks_do_not_change_the_result(monkeypatch):
    scores = np.random.default_rng(0).normal(size=(3, 50))
    whole = bootstrap_interval(scores)
    monkeypatch.setattr(statistics, "COUNTS_PER_CHUNK", 1000)
    assert bootstrap_interval(scores) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("shape", [(4,), (0, 3), (2, 0)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="seeds, tasks"):
        bootstrap_interval(np.zeros(shape))


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        interquartile_mean(np.array([]))
