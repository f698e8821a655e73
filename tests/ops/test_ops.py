"""Formulas against closed forms, other libraries and properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precocial.nets.baseline import advantages, fit
from precocial.ops import bandits, distributions, losses, params, returns, trust_region
from precocial.types import Rollout

seeds = st.integers(0, 2**16)


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_reward_to_go_by_hand():
    reward = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    ended = torch.tensor([[False, True, False, False]])
    # 1 + .5*2 = 2; 2; 3 + .5*4 = 5; 4
    assert torch.equal(returns.reward_to_go(reward, ended, 0.5), torch.tensor([[2.0, 2, 5, 4]]))


@given(seeds, st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_gae_with_lambda_one_and_no_value_is_the_discounted_return(seed, gamma):
    reward, zero = randn(seed, 3, 7), torch.zeros(3, 7, dtype=torch.float64)
    ended = randn(seed + 1, 3, 7) > 0.5
    ours = returns.gae(reward, zero, zero, ended, torch.zeros_like(ended), gamma, 1.0)
    assert torch.allclose(ours, returns.reward_to_go(reward, ended, gamma))


def test_gae_equals_its_definition():
    reward, value, following = randn(0, 6), randn(1, 6), randn(2, 6)
    terminated = torch.tensor([0, 0, 1, 0, 0, 0], dtype=torch.bool)
    truncated = torch.tensor([0, 0, 0, 0, 1, 0], dtype=torch.bool)
    gamma, lam = 0.9, 0.8
    expected, running = [], 0.0
    for t in reversed(range(6)):
        delta = reward[t] + gamma * (0 if terminated[t] else following[t]) - value[t]
        running = delta + (0 if terminated[t] or truncated[t] else gamma * lam * running)
        expected.append(running)
    ours = returns.gae(reward, value, following, terminated, truncated, gamma, lam)
    assert torch.allclose(ours, torch.stack(expected[::-1]))


def test_a_truncated_constant_reward_is_worth_its_perpetuity():
    # Reward 1 for ever under a clock of 10: bootstrapped, V = 1/(1 - gamma) is a fixed point.
    gamma, horizon = 0.9, 10
    reward = torch.ones(horizon, dtype=torch.float64)
    value = torch.full_like(reward, 1 / (1 - gamma))
    clock = torch.zeros(horizon, dtype=torch.bool)
    clock[-1] = True
    right = returns.gae(reward, value, value, torch.zeros_like(clock), clock, gamma, 1.0)
    wrong = returns.gae(reward, value, value, clock, torch.zeros_like(clock), gamma, 1.0)
    assert right.abs().max() < 1e-12
    assert wrong.abs().max() > 1


@pytest.mark.parametrize(("gamma", "lam"), [(1.5, 1.0), (0.9, -0.1), (math.nan, 1.0)])
def test_gae_refuses_senseless_discounts(gamma, lam):
    x, no = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        returns.gae(x, x, x, no, no, gamma, lam)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_time_and_whole_episodes_follow_the_end_flags(seed):
    ended = randn(seed, 2, 12) > 0.7
    early = ended & (randn(seed + 1, 2, 12) > 0)
    time, whole = returns.time_in_episode(ended), returns.in_whole_episode(ended, early)
    for lane in range(2):
        clock = 0
        for t in range(12):
            assert time[lane, t] == clock
            clock = 0 if ended[lane, t] else clock + 1
            ends = [u for u in range(t, 12) if ended[lane, u]]
            assert whole[lane, t] == (bool(ends) and not early[lane, ends[0]])


def test_first_episode_return_counts_the_first_episode_only():
    reward = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    ended = torch.tensor([[False, True, True], [True, False, False]])
    assert torch.equal(returns.first_episode_return(reward, ended), torch.tensor([3.0, 1.0]))
    with pytest.raises(ValueError, match="end no episode"):
        returns.first_episode_return(reward, torch.zeros_like(ended))


def test_normalised_advantages_are_standard_within_each_task():
    x = returns.normalise(randn(0, 4, 5, 6) * 3 + 2)
    assert torch.allclose(x.flatten(1).mean(1), torch.zeros(4, dtype=x.dtype), atol=1e-9)
    assert torch.allclose(
        x.flatten(1).std(1, correction=0), torch.ones(4, dtype=x.dtype), atol=1e-6
    )


def gaussian(seed, *shape):
    return {"mean": randn(seed, *shape), "log_std": 0.3 * randn(seed + 1, *shape)}


def categorical(seed, *shape):
    return {"logits": torch.log_softmax(randn(seed, *shape), -1)}


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_densities_agree_with_torch(seed):
    ours, other = gaussian(seed, 4, 3), gaussian(seed + 7, 4, 3)
    theirs, rest = (
        torch.distributions.Independent(
            torch.distributions.Normal(d["mean"], d["log_std"].exp()), 1
        )
        for d in (ours, other)
    )
    x = randn(seed + 3, 4, 3)
    assert torch.allclose(distributions.log_prob(ours, x), theirs.log_prob(x))
    divergence = torch.distributions.kl_divergence(theirs, rest)
    assert torch.allclose(distributions.kl(ours, other), divergence)

    ours, other = categorical(seed, 4, 3), categorical(seed + 7, 4, 3)
    theirs, rest = (torch.distributions.Categorical(logits=d["logits"]) for d in (ours, other))
    a = torch.tensor([0, 1, 2, 1])
    assert torch.allclose(distributions.log_prob(ours, a), theirs.log_prob(a))
    assert torch.allclose(
        distributions.kl(ours, other), torch.distributions.kl_divergence(theirs, rest)
    )


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_kl_hessian_product_is_the_second_derivative_of_kl(make):
    dist = {k: v[0] for k, v in make(0, 1, 3).items()}
    direction = {k: randn(9, *v.shape) for k, v in dist.items()}
    flat = params.flatten(dist)

    def divergence(vector):
        new = params.unflatten(vector, dist)
        if "logits" in new:
            new = {"logits": torch.log_softmax(new["logits"], -1)}
        return distributions.kl(dist, new)

    hessian = torch.autograd.functional.hessian(divergence, flat)
    ours = params.flatten(distributions.kl_hessian_product(dist, direction))
    assert torch.allclose(ours, hessian @ params.flatten(direction), atol=1e-9)


def test_samples_have_the_distribution_that_was_asked_for(rng):
    dist = categorical(0, 3)
    wide = {"logits": dist["logits"].expand(60_000, 3)}
    share = torch.bincount(distributions.sample(wide, rng), minlength=3) / 60_000
    assert torch.allclose(share.double(), dist["logits"].exp(), atol=0.01)  # 5 standard errors
    one = gaussian(0, 2)
    x = distributions.sample({k: v.expand(60_000, 2) for k, v in one.items()}, rng)
    assert torch.allclose(x.mean(0), one["mean"], atol=0.03)
    assert torch.allclose(x.std(0).log(), one["log_std"], atol=0.03)


def test_surrogates_share_their_first_derivative():
    lp, advantage = randn(0, 2, 5).requires_grad_(), randn(1, 2, 5)
    old = lp.detach()
    want = torch.autograd.grad(losses.policy_gradient_loss(lp, advantage).sum(), lp)[0]
    ratio = torch.autograd.grad(losses.likelihood_ratio_loss(lp, old, advantage).sum(), lp)[0]
    clipped = torch.autograd.grad(losses.ppo_clip_loss(lp, old, advantage, 0.2).sum(), lp)[0]
    assert torch.allclose(ratio, want)
    assert torch.allclose(clipped, want)


def test_ppo_clip_stops_beyond_the_range():
    old = torch.zeros(1, 2, dtype=torch.float64)
    lp = torch.tensor([[1.0, -1.0]], dtype=torch.float64, requires_grad=True)  # ratios e, 1/e
    gain = losses.ppo_clip_loss(lp, old, torch.tensor([[1.0, -1.0]], dtype=torch.float64), 0.2)
    assert torch.autograd.grad(gain.sum(), lp)[0].abs().max() == 0
    back = losses.ppo_clip_loss(lp, old, torch.tensor([[-1.0, 1.0]], dtype=torch.float64), 0.2)
    assert torch.autograd.grad(back.sum(), lp)[0].abs().min() > 0


def test_conjugate_gradient_solves_and_line_search_respects_the_limit():
    a = randn(0, 5, 5)
    matrix = a @ a.T + torch.eye(5, dtype=a.dtype)
    target = randn(1, 5)
    x = trust_region.conjugate_gradient(lambda v: matrix @ v, target, iterations=20)
    assert torch.allclose(matrix @ x, target, atol=1e-8)

    def evaluate(p):  # loss falls along the step, KL = |p|^2
        return float(-p.sum()), float(p.square().sum())

    step = torch.ones(4, dtype=torch.float64)
    new, _, kl = trust_region.line_search(evaluate, torch.zeros_like(step), step, 0.0, 0.01)
    assert 0.005 < kl <= 0.01
    assert torch.allclose(new, new.mean().expand(4))
    stuck, loss, kl = trust_region.line_search(evaluate, torch.zeros_like(step), -step, 0.0, 0.01)
    assert (kl, loss) == (0.0, 0.0)
    assert stuck.abs().max() == 0


def test_ridge_regression_recovers_a_linear_target_per_task():
    x = torch.cat([randn(0, 3, 50, 4), torch.ones(3, 50, 1, dtype=torch.float64)], -1)
    beta = randn(1, 3, 5)
    y = (x @ beta.unsqueeze(-1)).squeeze(-1)
    weight = torch.ones(3, 50, dtype=torch.bool)
    weight[:, ::2] = False
    y_wrong = torch.where(weight, y, 99.0)  # rows without weight must not matter
    assert torch.allclose(fit(x, y_wrong, weight), beta, atol=1e-5)


def test_linear_baseline_is_a_finite_horizon_value():
    # Reward 1 for 5 steps: the return to go is linear in time, so advantages vanish.
    n, e, t = 2, 3, 10
    shape = (n, e, t)
    clock = torch.zeros(shape, dtype=torch.bool)
    clock[..., 4::5] = True
    obs = torch.zeros(*shape, 1, dtype=torch.float64)
    no, ones = torch.zeros_like(clock), torch.ones(shape, dtype=torch.float64)
    data = Rollout(obs, obs, ones, obs, no, clock, {})
    advantage, value, _ = advantages(data, 1.0, 1.0, 5)
    assert advantage.abs().max() < 0.05
    assert torch.allclose(value[0, 0, :5], torch.tensor([5.0, 4, 3, 2, 1]).double(), atol=0.05)
    # A cut tail is bootstrapped: two steps in, three are still expected.
    cut = Rollout(*(x[:, :, :7] for x in data[:6]), {})
    advantage, _, reward = advantages(cut, 1.0, 1.0, 5)
    assert advantage.abs().max() < 0.05
    assert torch.allclose(reward[0, 0], torch.tensor([1.0, 1, 1, 1, 1, 1, 4]).double(), atol=0.05)


@pytest.mark.parametrize("diverged", [False, True])
def test_a_truncation_before_the_clock_is_bootstrapped(diverged):
    # Reward -1 for 10 steps; on lane 0 an episode is truncated in its fourth step. What it would
    # still have cost counts, -6, so that being truncated is no better than going on.
    shape = (1, 4, 20)
    clock = torch.zeros(shape, dtype=torch.bool)
    clock[..., 9::10] = True
    clock[0, 0, 3], clock[0, 0, 13], clock[0, 0, [9, 19]] = True, True, False
    obs = torch.zeros(*shape, 1, dtype=torch.float64)
    reward = -torch.ones(shape, dtype=torch.float64)
    extra = {}
    if diverged:  # the step led nowhere and has reward 0: as if the episode had been cut before it
        reward[0, 0, 3] = 0
        extra = {"info/diverged": torch.zeros(shape)}
        extra["info/diverged"][0, 0, 3] = 1
    data = Rollout(obs, obs, reward, obs, torch.zeros_like(clock), clock, extra)
    scores = advantages(data, 1.0, 1.0, 10)
    assert scores.advantage.abs().max() < 0.1
    assert scores.value[0, 0, 3] == pytest.approx(-7, abs=0.1)
    assert scores.reward[0, 0, 3] == pytest.approx(-7, abs=0.1)
    if not diverged:
        as_if_over = advantages(
            data, 1.0, 1.0, 4
        )  # where the clock had four steps, nothing follows
        assert as_if_over.advantage.abs().max() > 1


def test_a_step_that_diverged_at_the_clock_is_cut_like_any_other():
    # Reward -1 for 10 steps, four lanes; on lane 0 the tenth step of the first episode diverges,
    # on lane 1 the fourth: neither says anything of the steps before it or of the next episode.
    shape = (1, 4, 20)
    clock, lost = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    clock[..., 9::10] = True
    clock[0, 1, 3], clock[0, 1, 13], clock[0, 1, [9, 19]] = True, True, False
    lost[0, 0, 9], lost[0, 1, 3] = 1, 1
    obs = torch.zeros(*shape, 1, dtype=torch.float64)
    reward = -torch.ones(shape, dtype=torch.float64).masked_fill(lost > 0, 0.0)
    no = torch.zeros_like(clock)
    data = Rollout(obs, obs, reward, obs, no, clock, {"info/diverged": lost})
    scores = advantages(data, 1.0, 1.0, 10)
    assert scores.advantage.abs().max() < 0.1
    assert scores.reward[0, 0, 9] == pytest.approx(-1, abs=0.1)


def test_a_task_without_a_whole_episode_is_fitted_on_what_was_cut():
    # Reward 1 for 5 steps, where 10 were expected: the environment ends its episodes by itself.
    shape = (2, 3, 10)
    cut = torch.zeros(shape, dtype=torch.bool)
    cut[..., 4::5] = True
    cut[1, 0] = False
    cut[1, 0, -1] = True  # one whole episode on the second task, on which the fit stands alone
    obs, ones = (torch.ones(*s, dtype=torch.float64) for s in ((*shape, 1), shape))
    scores = advantages(Rollout(obs, obs, ones, obs, torch.zeros_like(cut), cut, {}), 1.0, 1.0, 10)
    assert scores.advantage.abs().max() < 0.1
    expected = torch.tensor([5.0, 4, 3, 2, 1]).double(), torch.tensor([10.0, 9, 8, 7, 6]).double()
    for task, values in enumerate(expected):
        assert torch.allclose(scores.value[task, 1, :5], values, atol=0.1)


def test_restored_optimisers_keep_their_own_settings():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    old, new = torch.optim.Adam([p], lr=0.1), torch.optim.Adam([q], lr=0.5, eps=1e-5)
    p.grad = torch.tensor([1.0, 2.0, 3.0])
    old.step()
    params.restore(new, old.state_dict())
    assert new.param_groups[0]["lr"] == 0.5 and new.param_groups[0]["eps"] == 1e-5
    assert torch.equal(new.state[q]["exp_avg"], old.state[p]["exp_avg"])
    assert new.state[q]["step"] == 1 and new.state[q]["step"].device.type == "cpu"
    with pytest.raises(ValueError):
        params.restore(torch.optim.Adam([p, q]), old.state_dict())


def test_bayes_optimal_bandits():
    # One pull: 1/2. Two pulls of two arms: 1/2 + E max(2/3 after a win, 1/2 of a fresh arm).
    assert bandits.bayes_optimum(1, 2) == 0.5
    assert bandits.bayes_optimum(2, 2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)
    assert bandits.bayes_optimum(6, 2) == pytest.approx(bandits._any_arms(6, 2))
    assert bandits.bayes_optimum(10, 5) == pytest.approx(6.660, abs=5e-4)
    assert bandits.bayes_optimum(100, 50) is None
