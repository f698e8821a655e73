"""The linear baseline of wide observations: the same regression, without matrices as wide."""

import pytest
import torch
from torch.nn.functional import one_hot, pad

from precocial.nets.baseline import features, fit


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def of(obs, seed=1):
    """Features, returns and which rows count, of observations (N, B, O)."""
    n, rows = obs.shape[:2]
    x = features(obs, torch.arange(rows).float().expand(n, rows))
    y = torch.randn(n, rows, generator=rng(seed))
    return x, y, torch.rand(n, rows, generator=rng(seed + 1)) < 0.8


@pytest.mark.parametrize("size", [5, 60])
def test_wide_features_are_the_same_regression(size):
    """14 features of 40 rows, and 124: as few features they are solved as ever."""
    x, y, weight = of(torch.rand(3, 40, size, generator=rng()))
    wide = fit(pad(x, (700, 2000)), y, weight)  # features that are always 0 change nothing
    few = pad(fit(x, y, weight), (700, 2000))
    torch.testing.assert_close(wide, few, rtol=1e-3, atol=1e-5)


def test_pictures_and_wide_one_hots_are_solved_in_rows():
    """In features these are matrices of 6 148 and of 200 004 numbers squared: 0.3 and 320 GB."""
    cells = torch.randint(100_000, (2, 20), generator=rng())
    for obs in (torch.rand(2, 20, 3072, generator=rng()), one_hot(cells, 100_000).float()):
        x, y, weight = of(obs)
        value = (x @ fit(x, y, weight).unsqueeze(-1)).squeeze(-1)
        # Fewer rows than features and hardly a penalty: the returns are met.
        torch.testing.assert_close(value[weight], y[weight], rtol=0, atol=1e-2)


def test_a_wide_task_without_a_whole_episode_has_the_baseline_0():
    x, y, _ = of(torch.rand(2, 20, 1100, generator=rng()))
    assert not fit(x, y, torch.zeros(2, 20, dtype=torch.bool)).any()
