"""Interquartile mean and its bootstrap interval, as all tables and curves show them.

Agarwal et al. 2021, *Deep Reinforcement Learning at the Edge of the Statistical Precipice*,
https://arxiv.org/abs/2108.13264, Sec. 4: the interquartile mean ignores the best and the worst
quarter of all (seed, task) scores, so that a few lucky or failed ones do not decide; percentile
bootstrap intervals show how much the figure could move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.sparse import csr_array

NUM_RESAMPLES = 1000
"""Of every interval: a smaller number leaves its ends to the luck of the resampling."""
COUNTS_PER_CHUNK = 2_000_000
"""Held at once, 16 MB of float64."""

Interval = tuple[float, float]


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half of ``values``, whatever their shape.

    As ``scipy.stats.trim_mean(values, 0.25)``: a quarter, rounded down, is cut at either end.

    Raises:
        ValueError: there are no values.
    """
    if not values.size:
        raise ValueError("the interquartile mean needs at least one value")
    values, cut = values.ravel().astype(np.float64), values.size // 4
    if cut:
        values = np.partition(values, (cut, values.size - cut - 1))[cut : values.size - cut]
    return float(values.mean())


class TaskSample(NamedTuple):
    """Which tasks the columns of a table of scores are."""

    ids: np.ndarray
    """(N,): columns of equal id are one task that was drawn more than once."""
    complete: bool = False
    """These are all the tasks that there are, so another evaluation has the same."""

    @property
    def fixed(self) -> bool:
        """Whether no other tasks can be had by drawing from these again."""
        return self.complete or len(np.unique(self.ids)) == 1

    def select(self, which: slice | np.ndarray) -> TaskSample:
        """Some of the columns."""
        return self._replace(ids=self.ids[which])

    def means(self, values: np.ndarray) -> np.ndarray:
        """Means over the columns of each distinct task; (N,) -> (D,)."""
        _, task, copies = np.unique(self.ids, return_inverse=True, return_counts=True)
        return np.asarray(np.bincount(task, values) / copies)

    def standard_error(self, values: np.ndarray) -> float | None:
        """Of the mean of ``values`` (N,) over tasks; None where no others can be drawn."""
        means = self.means(values)
        return None if self.fixed else float(means.std() / math.sqrt(len(means)))


def bootstrap_interval(
    scores: np.ndarray,
    tasks: TaskSample | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    trim: bool = True,
) -> Interval | None:
    """95 % percentile bootstrap interval of the interquartile mean.

    All seeds are scored on the same tasks, so the two are crossed: a resample draws seeds once and
    tasks once, and every drawn seed is scored on the same drawn tasks. Copies of one task are drawn
    together; where the tasks are all that there are, they are kept. Deviation: Agarwal et al. keep
    the tasks, which are a fixed benchmark there, and draw runs anew for each; here tasks are draws
    from a family, and one seed's scores hang together.

    Args:
        scores: (S, N), one row per training seed, one column per task. More leading axes are more
            factors that are crossed, each redrawn by itself.
        tasks: What the columns are; by default tasks that all differ.
        num_resamples: Number of bootstrap samples.
        seed: Of the resampling; equal arguments give equal intervals.
        trim: False for the interval of the plain mean.

    Returns:
        The 2.5th and the 97.5th percentile; None where there is nothing to redraw (one seed, and
        one task or all tasks that there are), so that nothing can be said.

    Raises:
        ValueError: ``scores`` has a single axis, or holds nothing.
    """
    [interval] = bootstrap_intervals(
        scores[..., None], tasks, num_resamples=num_resamples, seed=seed, trim=trim
    )
    return interval


def bootstrap_intervals(
    scores: np.ndarray,
    tasks: TaskSample | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    trim: bool = True,
) -> list[Interval | None]:
    """The interval of each of the K stages of ``scores`` (S, N, K), from the same resamples."""
    if scores.ndim < 3 or not scores.size:
        raise ValueError(f"scores have shape {scores.shape[:-1]}; expected (seeds, tasks)")
    *factors, num_columns, num_stages = scores.shape
    tasks = tasks or TaskSample(np.arange(num_columns))
    distinct, task = np.unique(tasks.ids, return_inverse=True)
    if tasks.fixed:
        distinct, task = distinct[:1], np.zeros(num_columns, dtype=np.int64)
    if max(factors) == len(distinct) == 1:
        return [None] * num_stages
    table = scores.reshape(-1, num_columns, num_stages).astype(np.float64)
    statistics = [(_middle_means if trim else _means)(table[..., k]) for k in range(num_stages)]
    found: list[list[np.ndarray]] = [[] for _ in statistics]
    at_once = max(1, COUNTS_PER_CHUNK // table[..., 0].size)
    for *drawn, drawn_tasks in _redraws([*factors, len(distinct)], num_resamples, at_once, seed):
        rows = drawn[0]
        for more in drawn[1:]:
            rows = (rows[:, :, None] * more[:, None]).reshape(len(rows), -1)
        for values, statistic in zip(found, statistics, strict=True):
            values.append(statistic(rows, drawn_tasks[:, task]))
    ends = (np.percentile(np.concatenate(values), [2.5, 97.5]) for values in found)
    return [(float(low), float(high)) for low, high in ends]


def student_interval(values: np.ndarray) -> Interval | None:
    """Student's 95 % interval of the mean of ``values`` (S,); None for a single one.

    For three or five seeds, from which a bootstrap would make too narrow a one.
    """
    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def welch_interval(one: np.ndarray, other: np.ndarray, tries: int = 1) -> Interval | None:
    """Welch's 95 % interval of the difference of two means, (S,) and (T,); None for single ones.

    Where ``one`` was chosen for its mean among so many, it is widened for that (Bonferroni).
    """
    if min(len(one), len(other)) < 2:
        return None
    a, b = (x.var(ddof=1) / len(x) for x in (one, other))
    half = 0.0
    if a + b > 0:
        freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
        half = stats.t.ppf(1 - 0.025 / tries, freedom) * math.sqrt(a + b)
    return float(one.mean() - other.mean() - half), float(one.mean() - other.mean() + half)


def as_json(interval: Interval | None) -> list[float] | None:
    """Both ends as JSON has them, null where there is no interval."""
    return list(interval) if interval else None


def _redraws(
    sizes: list[int], num_resamples: int, at_once: int, seed: int
) -> Iterator[list[np.ndarray]]:
    """How often each level of each factor is drawn, (r, size) of each, a few resamples at a time.

    Every factor has a generator of its own, so ``at_once`` does not change what is drawn.
    """
    rngs = [np.random.default_rng((seed, k)) for k in range(len(sizes))]
    for start in range(0, num_resamples, at_once):
        num = min(at_once, num_resamples - start)
        counts = []
        for rng, size in zip(rngs, sizes, strict=True):
            drawn = rng.integers(size, size=(num, size)) + size * np.arange(num)[:, None]
            found = np.bincount(drawn.ravel(), minlength=num * size)
            counts.append(found.reshape(num, size).astype(np.float64))
        yield counts


Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of resamples: from how often each row (r, S) and each column (r, N) is drawn to (r,) values."""


def _means(scores: np.ndarray) -> Statistic:
    """The mean of resampled scores (S, N)."""

    def statistic(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        total = rows.sum(1) * columns.sum(1)
        return np.asarray(((columns @ scores.T) * rows).sum(1) / total)

    return statistic


def _middle_means(scores: np.ndarray) -> Statistic:
    """The interquartile mean of resampled scores (S, N), which are sorted only once.

    Of every resample the scores are counted and summed by blocks of neighbours in sorted order, a
    sparse product; only the two blocks that hold a quartile are looked into.
    """
    num_rows, num_columns = scores.shape
    order = np.argsort(scores, axis=None, kind="stable")
    values = scores.ravel()[order]
    row, column = np.divmod(order, num_columns)
    width = math.isqrt(len(values))
    num_blocks = -(-len(values) // width)
    place = row * num_blocks + np.arange(len(values)) // width, column
    shape = num_rows * num_blocks, num_columns
    counting = csr_array((np.ones(len(values)), place), shape)
    summing = csr_array((values, place), shape)

    def statistic(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        drawn = np.ascontiguousarray(columns.T)
        found = [
            np.einsum("rs,sbr->rb", rows, (m @ drawn).reshape(num_rows, num_blocks, -1))
            for m in (counting, summing)
        ]
        reached, sums = (np.pad(f.cumsum(1), ((0, 0), (1, 0))) for f in found)  # (r, 1 + blocks)
        total = reached[:, -1]
        each = np.arange(len(total))

        def lowest(num: np.ndarray) -> np.ndarray:
            """Sum of the ``num`` (r,) lowest scores of every resample."""
            block = (reached[:, 1:] < num[:, None]).sum(1)
            inside = block[:, None] * width + np.arange(width)
            there = inside < len(values)
            inside = np.minimum(inside, len(values) - 1)
            count = rows[each[:, None], row[inside]] * columns[each[:, None], column[inside]]
            left = (num - reached[each, block])[:, None]
            upto = np.minimum((count * there).cumsum(1), left)
            taken = np.diff(upto, axis=1, prepend=0.0)
            return np.asarray(sums[each, block] + (taken * values[inside]).sum(1))

        cut = total // 4
        return np.asarray((lowest(total - cut) - lowest(cut)) / (total - 2 * cut))

    return statistic
