"""Planners against quadratics with known minima; CEM's elites; bounds; lanes apart."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precocial.envs.control.hidden_gain import HiddenGain
from precocial.errors import UserError
from precocial.ops.planning import (
    PLANNERS,
    Plan,
    PlannerConfig,
    cem_refine,
    first_plan,
    imagined_return,
    improve,
    mppi_refine,
    shift,
    shooting_refine,
)

BUDGET = {
    "random-shooting": PlannerConfig("random-shooting", 2, 4000, 8),
    "cem": PlannerConfig("cem", 2, 200, 8),
    "mppi": PlannerConfig("mppi", 2, 200, 30, plan_std=0.2, correlation=0.0, temperature=0.1),
}
TOLERANCE = {"random-shooting": 0.1, "cem": 0.02, "mppi": 0.06}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def quadratic(best):
    """Scores of which ``best`` (B, L, A) is the maximum, 0."""
    return lambda c: -(c - best.unsqueeze(1)).square().sum((-2, -1))


@pytest.mark.parametrize("name", PLANNERS)
def test_planners_find_the_minimum_of_a_quadratic_on_every_lane(name):
    cfg = BUDGET[name]
    best = torch.tensor([[[0.3], [-0.7]], [[-0.5], [0.9]], [[0.0], [0.1]]])  # lanes differ
    plan = improve(quadratic(best), first_plan(3, 1, cfg), cfg, rng())
    assert (plan.mean - best).abs().max() < TOLERANCE[name]


@pytest.mark.parametrize("name", PLANNERS)
def test_a_minimum_outside_the_bounds_is_met_at_the_bound(name):
    cfg = BUDGET[name]
    seen = []

    def score(candidates):
        seen.append(candidates)
        return quadratic(torch.tensor([[[3.0], [-3.0]]]))(candidates)

    plan = improve(score, first_plan(1, 1, cfg), cfg, rng())
    assert (plan.mean - torch.tensor([[[1.0], [-1.0]]])).abs().max() < TOLERANCE[name] + 0.05
    assert max(float(c.abs().max()) for c in seen) <= 1  # clipped before they are scored


def test_cem_refits_to_the_best_candidates_not_to_their_ranks():
    # Scores in an order in which argsort's ranks and the indices of the best differ.
    candidates = torch.tensor([[[[0.0]], [[1.0]], [[0.5]], [[0.25]], [[-1.0]], [[0.75]]]])
    scores = torch.tensor([[3.0, 9.0, 1.0, 8.0, 2.0, 7.0]])
    cfg = PlannerConfig("cem", 1, 6, elite_share=0.5, smoothing=0.0)
    plan = cem_refine(Plan(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)), candidates, scores, cfg)
    # Elites 1.0, 0.25, 0.75: mean 2/3, variance (1/9 + 25/144 + 1/144)/3 = 7/72.
    assert plan.mean.item() == pytest.approx(2 / 3)
    assert plan.std.item() == pytest.approx((7 / 72) ** 0.5)
    half = dataclasses.replace(cfg, smoothing=0.5)
    plan = cem_refine(Plan(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)), candidates, scores, half)
    assert plan.mean.item() == pytest.approx(1 / 3)


def test_cems_spread_shrinks():
    cfg = dataclasses.replace(BUDGET["cem"], rounds=1)
    best, plan, spreads = torch.full((1, 2, 1), 0.4), first_plan(1, 1, BUDGET["cem"]), []
    generator = rng()
    for _ in range(6):
        plan = improve(quadratic(best), plan, cfg, generator)
        spreads.append(float(plan.std.mean()))
    assert all(later < sooner for sooner, later in zip(spreads, spreads[1:], strict=False))
    assert spreads[-1] < 0.1 * cfg.plan_std


def test_mppi_weighs_by_the_exponential_of_the_score():
    candidates = torch.tensor([[[[1.0]], [[0.0]]]])
    scores = torch.tensor([[2.0, 0.0]])  # standard deviation 1
    cfg = PlannerConfig("mppi", 1, 2, temperature=0.5)
    plan = mppi_refine(first_plan(1, 1, cfg), candidates, scores, cfg)
    assert plan.mean.item() == pytest.approx(1 / (1 + torch.tensor(-4.0).exp().item()))


def test_random_shooting_takes_the_best():
    candidates = torch.rand(2, 5, 3, 2, generator=rng())
    scores = torch.tensor([[0.0, 1.0, 5.0, 2.0, 3.0], [9.0, 1.0, 5.0, 2.0, 3.0]])
    cfg = PlannerConfig("random-shooting", 3, 5)
    plan = shooting_refine(first_plan(2, 2, cfg), candidates, scores, cfg)
    assert torch.equal(plan.mean, torch.stack([candidates[0, 2], candidates[1, 0]]))


@given(st.sampled_from(sorted(PLANNERS)), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_plan_never_gets_worse_by_its_own_scores_where_the_best_is_taken(name, seed):
    cfg = PlannerConfig(name, 3, 32, 1)
    best = torch.rand(2, 3, 2, generator=rng(seed)) * 2 - 1
    start = Plan(torch.rand(2, 3, 2, generator=rng(seed + 1)) * 2 - 1, torch.full((2, 3, 2), 0.5))
    tried = []

    def score(candidates):
        tried.append((candidates, quadratic(best)(candidates)))
        return tried[-1][1]

    plan = improve(score, start, cfg, rng(seed + 2))
    candidates, scores = tried[0]
    assert torch.equal(candidates[:, 0], start.mean)  # warm start: the plan is a candidate
    if name == "random-shooting":
        assert (quadratic(best)(plan.mean.unsqueeze(1))[:, 0] >= scores[:, 0] - 1e-6).all()
    assert (plan.mean.abs() <= 1 + 1e-6).all()


@pytest.mark.parametrize("name", PLANNERS)
def test_lanes_whose_scores_are_all_nan_keep_their_plan(name):
    cfg = dataclasses.replace(BUDGET[name], rounds=1)
    start = Plan(torch.full((2, 2, 1), 0.2), torch.full((2, 2, 1), 0.5))

    def score(candidates):
        scores = quadratic(torch.full((2, 2, 1), 0.9))(candidates)
        scores[0] = torch.nan
        scores[1, 1::2] = torch.inf  # a broken model's riches are not believed
        return scores

    plan = improve(score, start, cfg, rng())
    assert torch.allclose(plan.mean[0], start.mean[0], atol=1e-6)
    assert torch.isfinite(plan.mean).all() and not torch.allclose(plan.mean[1], start.mean[1])


def test_shift_moves_a_plan_one_step_on():
    plan = Plan(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.zeros(1, 3, 1))
    later = shift(plan, PlannerConfig(plan_horizon=3, plan_std=0.5))
    assert later.mean.squeeze().tolist() == [2.0, 3.0, 3.0]
    assert later.std.unique().tolist() == [0.5]


def test_nothing_counts_after_an_imagined_ending():
    total = imagined_return(
        lambda obs, action: obs + action,
        lambda obs, action, following: torch.ones(following.shape[:-1]),
        lambda following: following[..., 0] > 2.5,
        torch.zeros(1, 1),
        torch.ones(1, 1, 6, 1),
    )
    assert total.item() == 3  # the step that ends the episode still counts


def test_with_the_true_dynamics_plans_for_hidden_gain_are_optimal():
    """Against every sequence of five actions out of {-1, -1/2, 0, 1/2, 1}, for gains of all signs.

    One planner's plan may be better, as actions lie between; it must not be worse.
    """
    env = HiddenGain()
    gain = torch.tensor([0.5, -0.5, 1.3, -2.0])
    state = torch.tensor([[0.9, 0.0, -0.4], [-0.3, 1.0, 0.8], [0.1, -1.0, 0.2], [0.0, 0.0, 1.0]])

    def predict(obs, action):
        tasks = {"gain": gain.unsqueeze(1)}
        now = {
            "position": obs[..., 0], "velocity": obs[..., 1], "target": obs[..., 2],
            "clock": torch.ones(obs.shape[:2], dtype=torch.long),
            "switch": torch.zeros(obs.shape[:2], dtype=torch.long),
        }  # fmt: skip
        env.lanes = obs.shape[:2]
        return env.observation(env.transition(now, action, tasks, rng()), tasks)

    def score(candidates):
        return imagined_return(predict, env.reward_fn, None, state, candidates)

    grid = torch.linspace(-1, 1, 5)
    every = torch.cartesian_prod(*[grid] * 5).unsqueeze(-1).expand(4, -1, -1, -1)
    best = score(every).amax(1)
    for cfg in (
        PlannerConfig("cem", 5, 300, 6),
        PlannerConfig("mppi", 5, 300, 20, correlation=0.0, temperature=0.05),
    ):
        plan = improve(score, first_plan(4, 1, cfg), cfg, rng())
        assert (score(plan.mean.unsqueeze(1))[:, 0] >= best - 0.05).all(), cfg.planner


def test_settings_without_a_meaning_are_refused():
    for wrong in (
        {"plan_horizon": 0}, {"candidates": 1}, {"rounds": 0}, {"plan_std": 0.0},
        {"temperature": -1.0}, {"elite_share": 1.5}, {"correlation": float("nan")},
    ):  # fmt: skip
        with pytest.raises(UserError, match=next(iter(wrong)).replace("_", "-")):
            PlannerConfig(**wrong)
