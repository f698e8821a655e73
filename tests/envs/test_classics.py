"""Classical families: known policies score as published, and posteriors are Bayes' rule."""

import itertools
import math
from functools import cache

import pytest
import torch

from precocial.envs.base import split_of
from precocial.envs.classic.bandit import Bandit, BanditConfig
from precocial.envs.classic.harlow import CONTRAST, Harlow, HarlowConfig
from precocial.envs.classic.tabular_mdp import TabularMDP, TabularMDPConfig
from precocial.envs.classic.two_step import TwoStep, TwoStepConfig, stay_probability
from precocial.envs.control.point_nav import PointNav
from precocial.envs.control.point_nav_corners import CORNERS, PointNavCorners, PointNavCornersConfig
from precocial.ops import bandit_policies
from precocial.ops.bandits import bayes_optimum
from precocial.ops.tabular import value_iteration
from precocial.rollout import collect
from precocial.types import SPLITS, Belief, UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def error(x):
    """Standard error of the mean."""
    return float(x.std()) / math.sqrt(len(x))


# ---- bandits -------------------------------------------------------------------------------

# Duan et al. 2016, Table 1, means of 1000 trials with one decimal: 10 or 100 pulls, number of arms.
# Their UCB1 has the best constant of each cell, ours 0.2.
PUBLISHED = {
    (10, 5): {"random": 5.0, "Gittins": 6.6, "Thompson": 5.7, "UCB1": 6.7, "greedy": 6.6},
    (10, 10): {"random": 5.0, "Gittins": 6.6, "Thompson": 5.5, "UCB1": 6.7, "greedy": 6.6},
    (10, 50): {"random": 5.1, "Gittins": 6.5, "Thompson": 5.2, "UCB1": 6.6, "greedy": 6.5},
    (100, 5): {"random": 49.9, "Gittins": 78.3, "Thompson": 74.7, "UCB1": 78.0, "greedy": 74.8},
    (100, 10): {"random": 49.9, "Gittins": 82.8, "Thompson": 76.7, "UCB1": 82.4, "greedy": 77.1},
    (100, 50): {"random": 49.8, "Gittins": 85.2, "Thompson": 64.5, "UCB1": 84.3, "greedy": 78.0},
}
# An independent simulation of 20 000 trials: mean, standard error.
SIMULATED = {
    (10, 5): {"Thompson": (5.84, 0.015), "greedy": (6.59, 0.016), "UCB1": (6.66, 0.016)},
    (100, 5): {"Thompson": (75.04, 0.11), "greedy": (74.98, 0.12), "UCB1": (78.39, 0.11)},
    (100, 10): {"UCB1": (83.31, 0.08)},
}
SPREAD = {10: 2.3, 100: 17.0}
"""At most, the standard deviation of a trial's total."""


@pytest.mark.parametrize(("pulls", "arms"), PUBLISHED)
def test_bandit_policies_score_as_published(pulls, arms):
    num = {5: 20_000, 10: 10_000, 50: 2000}[arms] // (1 if pulls == 10 else 2)
    env = Bandit(BanditConfig(arms=arms, pulls=pulls))
    scores = env.references(env.sample_tasks(num, "test", seeded()), pulls, seeded(1))
    assert all(v.shape == (num, pulls) for v in scores.values())
    totals = {name: v.sum(1) for name, v in scores.items()}
    for name, published in PUBLISHED[pulls, arms].items():
        noise = math.hypot(error(totals[name]), SPREAD[pulls] / math.sqrt(1000))
        assert float(totals[name].mean()) == pytest.approx(published, abs=3 * noise + 0.05), name
    for name, (mean, noise) in SIMULATED.get((pulls, arms), {}).items():
        noise = math.hypot(error(totals[name]), noise)
        assert float(totals[name].mean()) == pytest.approx(mean, abs=3 * noise), name
    best = totals["best arm"]
    assert float(best.mean()) == pytest.approx(pulls * arms / (arms + 1), abs=4 * error(best))
    if pulls == 10:
        optimum = bayes_optimum(pulls, arms)
        for name in ("random", "greedy", "UCB1", "Thompson", "Gittins"):
            assert float(totals[name].mean()) < optimum + 3 * error(totals[name])
        assert float(totals["Gittins"].mean()) > optimum - 0.02 - 3 * error(totals["Gittins"])


def test_long_trials_have_no_gittins_index():
    env = Bandit(BanditConfig(arms=2, pulls=201))
    scores = env.references(env.sample_tasks(3, "test", seeded()), 201, seeded())
    assert list(scores) == ["random", "greedy", "UCB1", "Thompson", "best arm"]


def brute_force_index(won, lost, left):
    """The known arm for which trying this one, stopping at will, is worth nothing."""

    def worth(won, lost, left, known):
        if left == 0:
            return 0.0
        chance = (won + 1) / (won + lost + 2)
        later = chance * worth(won + 1, lost, left - 1, known)
        later += (1 - chance) * worth(won, lost + 1, left - 1, known)
        return max(0.0, chance - known + later)

    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if worth(won, lost, left, middle) > 0 else (low, middle)
    return low


def test_gittins_index_is_the_fair_price_of_the_stopping_problem():
    pulls = 5
    index = bandit_policies.gittins_table(pulls)
    # Two pulls: stop after a failure. (1/2 + 1/2 * 2/3) / (1 + 1/2) = 5/9 per pull.
    assert float(index[2, 0, 0]) == pytest.approx(5 / 9, abs=1e-4)
    for left in range(1, pulls + 1):
        for won, lost in itertools.product(range(pulls), repeat=2):
            if won + lost <= pulls - left:
                expected = brute_force_index(won, lost, left)
                assert float(index[left, won, lost]) == pytest.approx(expected, abs=1e-3)
    # The last pull is worth its mean, and more pulls left never lower an index.
    assert float(index[1, 2, 1]) == pytest.approx(3 / 5, abs=1e-5)
    assert (index[1:, 0, 0].diff() > 0).all()


def test_gittins_policy_nears_the_exact_optimum_and_does_not_beat_it():
    pulls = 8
    index = bandit_policies.gittins_table(pulls)

    @cache
    def value(counts, left):  # of the index policy on two arms, exactly
        if left == 0:
            return 0.0
        arm = max((0, 1), key=lambda i: float(index[left, *counts[i]]))
        won, lost = counts[arm]
        chance = (won + 1) / (won + lost + 2)

        def after(new):
            return value(tuple(new if i == arm else c for i, c in enumerate(counts)), left - 1)

        return chance * (1 + after((won + 1, lost))) + (1 - chance) * after((won, lost + 1))

    optimum = bayes_optimum(pulls, 2)
    assert optimum - 0.01 < value(((0, 0), (0, 0)), pulls) <= optimum + 1e-9


def test_bandit_belief_is_bayes_rule(rng):
    env = Bandit(BanditConfig(arms=3, pulls=12))
    posterior = env.spec.belief
    assert isinstance(posterior, Belief)
    obs = env.reset(env.sample_tasks(2, "train", rng), 4, rng)
    belief = posterior.prior(obs)
    rate = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    likelihood = torch.ones(2, 4, 3, 4000, dtype=torch.float64)
    for _ in range(9):
        action = torch.randint(3, (2, 4), generator=rng)
        step = env.step(action)
        belief = posterior.update(belief, obs, action, step.reward, step.next_obs)
        seen = torch.where(step.reward.unsqueeze(-1) > 0, rate, 1 - rate)
        n, e = torch.meshgrid(torch.arange(2), torch.arange(4), indexing="ij")
        likelihood[n, e, action] *= seen
        obs = step.obs
    weight = likelihood / likelihood.sum(-1, keepdim=True)
    mean = (weight * rate).sum(-1)
    variance = (weight * rate.square()).sum(-1) - mean.square()
    features = posterior.features(belief, obs)
    assert features.shape == (2, 4, posterior.dim)
    torch.testing.assert_close(features[..., :3].double(), mean, rtol=0, atol=1e-5)
    # Var = m (1 - m) / (n + 3), and the second part of the features is 1 / (n + 2).
    count = 1 / features[..., 3:6].double()
    torch.testing.assert_close(mean * (1 - mean) / (count + 1), variance, rtol=0, atol=1e-5)
    torch.testing.assert_close(features[..., 6], torch.full((2, 4), 3 / 12))


# ---- tabular MDPs --------------------------------------------------------------------------


def test_value_iteration_finds_the_best_of_all_plans(rng):
    chance = torch.rand(5, 2, 2, 2, generator=rng)
    chance /= chance.sum(-1, keepdim=True)
    reward = torch.randn(5, 2, 2, generator=rng)
    value, policy = value_iteration(chance, reward, 2, discount=0.9)

    def worth(n, plan):  # plan: an action per step and state
        later = torch.stack([reward[n, s, plan[1][s]] for s in range(2)])
        return [reward[n, s, plan[0][s]] + 0.9 * chance[n, s, plan[0][s]] @ later for s in range(2)]

    rows = list(itertools.product(range(2), repeat=2))
    for n in range(5):
        every = torch.tensor([worth(n, plan) for plan in itertools.product(rows, repeat=2)])
        torch.testing.assert_close(every.amax(0), value[n])
        torch.testing.assert_close(torch.tensor(worth(n, policy[n].tolist())), value[n])


def test_tabular_references_score_as_published():
    env = TabularMDP()
    tasks = env.sample_tasks(10_000, "test", seeded())
    cumulated, reward = tasks.params["cumulated"], tasks.params["mean_reward"]
    chance = torch.diff(cumulated, dim=-1, prepend=torch.zeros_like(cumulated[..., :1]))
    # Exact values per episode of ten steps, +- 0.04; the published normaliser is the second.
    for discount, expected in ((1.0, 21.83), (0.99, 20.87)):
        value = value_iteration(chance, reward, 10, discount)[0][:, 0]
        noise = math.hypot(0.04, error(value))
        assert float(value.mean()) == pytest.approx(expected, abs=3 * noise)

    some = tasks.select(slice(2000))
    scores = env.references(some, 10, seeded(1))
    assert all(v.shape == (2000, 10) for v in scores.values())
    totals = {name: v.sum(1) for name, v in scores.items()}
    # Duan et al. 2016, Table 2: means of 1000 trials, spread about 26 for PSRL and 15 at random.
    for name, published, spread in (("random", 100.1, 15), ("PSRL, prior N(0, 1)", 138.1, 27)):
        noise = math.hypot(error(totals[name]), spread / math.sqrt(1000))
        assert float(totals[name].mean()) == pytest.approx(published, abs=3 * noise)
    torch.testing.assert_close(totals["value iteration"], env.optimum(some))
    assert (totals["random"] < totals["value iteration"]).all()
    psrl = scores["PSRL"].mean(0)
    assert float(totals["random"].mean()) / 10 < psrl[0] + 0.5
    assert psrl[0] + 3 < psrl[-1] < float(totals["value iteration"].mean()) / 10
    # The true prior explores more: worse over ten episodes.
    assert totals["PSRL"].mean() < totals["PSRL, prior N(0, 1)"].mean() - 2


def test_random_policy_scores_its_expectation(rng):
    env = TabularMDP()
    tasks = env.sample_tasks(100, "train", rng)
    env.reset(tasks, 200, rng)
    total = sum(env.step(torch.randint(5, (100, 200), generator=rng)).reward for _ in range(10))
    difference = total.mean(1) - env.references(tasks, 1, rng)["random"][:, 0]
    assert abs(float(difference.mean())) < 4 * error(difference)


def test_tabular_belief_is_bayes_rule(rng):
    env = TabularMDP(TabularMDPConfig(states=2, actions=2, horizon=5))
    posterior = env.spec.belief
    assert isinstance(posterior, Belief)
    obs = env.reset(env.sample_tasks(2, "train", rng), 3, rng)
    belief = posterior.prior(obs)
    chance = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000  # of going to state 0
    mean = torch.linspace(-7, 9, 4001, dtype=torch.float64)
    on_chance = torch.ones(2, 3, 2, 2, 2000, dtype=torch.float64)
    on_mean = (-(mean - 1).square() / 2).exp().expand(2, 3, 2, 2, -1).clone()
    lanes = list(itertools.product(range(2), range(3)))
    for _ in range(12):  # across two resets of the state
        action = torch.randint(2, (2, 3), generator=rng)
        step = env.step(action)
        belief = posterior.update(belief, obs, action, step.reward, step.next_obs)
        for n, e in lanes:
            cell = n, e, int(obs[n, e].argmax()), int(action[n, e])
            on_chance[cell] *= chance if step.next_obs[n, e, 0] > 0 else 1 - chance
            on_mean[cell] *= (-(float(step.reward[n, e]) - mean).square() / 2).exp()
        obs = step.obs
    on_chance /= on_chance.sum(-1, keepdim=True)
    on_mean /= on_mean.sum(-1, keepdim=True)
    features = posterior.features(belief, obs).double()
    assert features.shape == (2, 3, posterior.dim)
    first = (on_mean * mean).sum(-1)
    variance = (on_mean * mean.square()).sum(-1) - first.square()
    close = {"rtol": 0, "atol": 1e-5}
    to_zero = (on_chance * chance).sum(-1)
    best = first.amax(-1)  # of each state
    after = to_zero * best[..., :1, None] + (1 - to_zero) * best[..., 1:, None]
    for k, table in enumerate((first, variance, after)):
        here = torch.stack([table[n, e, int(obs[n, e].argmax())] for n, e in lanes])
        torch.testing.assert_close(features[..., 2 * k : 2 * k + 2].flatten(0, 1), here, **close)
    averages = first.mean((2, 3)), variance.mean((2, 3)), best.mean(2)
    torch.testing.assert_close(features[..., 6:], torch.stack(averages, -1), **close)


# ---- Harlow --------------------------------------------------------------------------------


def cells(obs):
    """(..., 45) -> (..., 9, 5): mark, object, colours."""
    return obs.unflatten(-1, (9, 5))


def test_a_harlow_episode_by_hand(rng):
    env = Harlow()
    tasks = env.sample_tasks(1, "train", rng)
    env.reset(tasks, 2, rng)
    # A mark two cells to the right; the rewarded object will be right on lane 0, left on lane 1.
    env.state["offset"] = torch.tensor([[2, 2]])
    env.state["side"] = torch.tensor([[1, -1]])
    right = torch.ones(1, 2, dtype=torch.long)
    step = env.step(right)
    expected = torch.zeros(9, 5)
    expected[5, 0] = 1
    assert torch.equal(cells(step.obs)[0, 0], expected)
    assert not step.reward.any()
    step = env.step(right)
    torch.testing.assert_close(step.reward, torch.tensor([[0.2, 0.2]]))
    seen = cells(step.obs)[0]
    looks = {k: 2 * tasks.params[k][0] - 1 for k in ("rewarded", "other")}
    assert not seen[..., 0].any()
    assert torch.equal(seen[..., 1], torch.tensor([[0.0, 1, 0, 0, 0, 0, 0, 1, 0]] * 2))
    torch.testing.assert_close(seen[0, 7, 2:], looks["rewarded"])
    torch.testing.assert_close(seen[0, 1, 2:], looks["other"])
    torch.testing.assert_close(seen[1, 7, 2:], looks["other"])
    torch.testing.assert_close(seen[1, 1, 2:], looks["rewarded"])
    for _ in range(2):
        step = env.step(right)
        assert not step.reward.any() and not step.terminated.any()
    assert cells(step.obs)[0, 0, :, 1].nonzero().tolist() == [[5]]  # the other is out of sight
    step = env.step(right)
    assert step.reward.tolist() == [[1, -1]]
    assert step.info["success"].tolist() == [[1, 0]]
    assert step.terminated.all() and not step.truncated.any()
    torch.testing.assert_close(cells(step.next_obs)[0, 0, 4, 2:], looks["rewarded"])
    fresh = cells(step.obs)[0]  # the next choice starts with a mark in sight, off the centre
    assert fresh[..., 0].sum(-1).tolist() == [1, 1]
    assert not fresh[:, 4].any() and not fresh[..., 1:].any()


def test_the_ring_closes(rng):
    env = Harlow(HarlowConfig(horizon=40))
    env.reset(env.sample_tasks(1, "train", rng), 1, rng)
    env.state["offset"] = torch.tensor([[3]])
    rewards = [float(env.step(torch.zeros(1, 1, dtype=torch.long)).reward) for _ in range(14)]
    assert rewards == pytest.approx([0.0] * 13 + [0.2])  # 17 - 3 turns the long way


def test_harlow_objects_differ_and_splits_share_none():
    env = Harlow()
    for seed, split in enumerate(SPLITS):
        params = env.sample_tasks(4000, split, seeded(seed)).params
        apart = (params["rewarded"] - params["other"]).abs().amax(-1)
        assert apart.min() > CONTRAST - 1e-5
        pair = torch.stack([params["rewarded"], params["other"]])  # (2, n, 3)
        low = float(split == "shifted")
        assert pair.min() >= low and pair.max() <= low + 1
        residues = {"train": set(range(8)), "valid": {8}, "test": {9}}
        if split in residues:
            assert set(split_of(pair[..., 0], 0.0, 1.0).flatten().tolist()) == residues[split]
        # Colours do not tell which of the two is rewarded.
        noise = pair.std() / math.sqrt(4000)
        assert (pair.mean(1)[0] - pair.mean(1)[1]).abs().max() < 5 * noise
        assert (pair.std(1)[0] - pair.std(1)[1]).abs().max() < 5 * noise


class OneShot:
    """Goes right for its first choice; then to what looks like it, or does not if it was wrong."""

    def __init__(self, num):
        self.acted, self.look = {}, torch.zeros(num, 1, 3)
        self.verdict = torch.zeros(num, 1)  # on the first choice: 0 before, +1 right, -1 wrong

    def act(self, obs, *, explore=True):
        mark, thing, look = cells(obs).split([1, 1, 3], -1)
        likeness = -(look - self.look.unsqueeze(2)).norm(dim=-1) * self.verdict.unsqueeze(-1)
        likeness[thing.squeeze(-1) == 0] = -9.0
        to_wanted = (likeness.argmax(-1) > 4) | (self.verdict == 0)
        mark = mark.squeeze(-1)
        return torch.where(mark.any(-1), mark.argmax(-1) > 4, to_wanted).long()

    def observe(self, action, step):
        first = step.terminated & (self.verdict == 0)
        self.look = torch.where(first.unsqueeze(-1), cells(step.next_obs)[:, :, 4, 2:], self.look)
        self.verdict = torch.where(first, step.reward, self.verdict)


def test_harlow_references_are_what_playing_gives(rng):
    env = Harlow()
    tasks = env.sample_tasks(3000, "test", rng)
    scores = env.references(tasks, 6, rng)
    env.reset(tasks, 1, rng)
    over, total = torch.zeros(3000, 1, dtype=torch.bool), torch.zeros(3000, 1)
    for _ in range(20):
        step = env.step(torch.randint(2, (3000, 1), generator=rng))
        total += step.reward * ~over
        over |= step.terminated
    assert float(total.mean()) == pytest.approx(
        float(scores["random"][0, 0]), abs=4 * error(total[:, 0])
    )

    rollout = collect(env, tasks, OneShot(3000), 1, 6 * 7, rng)
    ends = rollout.terminated[:, 0]
    before = ends.long().cumsum(-1) - ends.long()  # choices made before each step
    returns = torch.stack([(rollout.reward[:, 0] * (before == k)).sum(-1) for k in range(6)], 1)
    assert float(returns[:, 0].mean()) == pytest.approx(0.2, abs=4 * error(returns[:, 0]))
    torch.testing.assert_close(returns[:, 1:], scores["one-shot"][:, 1:])
    torch.testing.assert_close(env.optimum(tasks), scores["one-shot"].sum(1))


@pytest.mark.parametrize("split", ["train", "shifted"])
def test_harlow_draws_what_is_in_sight(rng, split):
    env = Harlow()
    tasks = env.sample_tasks(1, split, rng)
    env.reset(tasks, 1, rng)
    before = env.render(0, 0)
    assert before.shape == (320, 320, 3)
    env.state |= {"offset": torch.tensor([[0]]), "objects": torch.tensor([[True]])}
    env.state["side"] = torch.tensor([[1]])
    colour = tasks.params["rewarded"][0]
    brightest = max(1.0, *(float(v.max()) for v in tasks.params.values()))
    shown = env.render(0, 0)[160, 160 + round(3 * 320 / 10)]  # 10 cells across
    assert shown.tolist() == (255 * colour / brightest).long().tolist()


# ---- two-step ------------------------------------------------------------------------------


def test_two_step_frequencies(rng):
    cfg = TwoStepConfig(hidden_transitions=True, reversal_chance=0.1)
    env = TwoStep(cfg)
    tasks = env.sample_tasks(4, "train", rng)
    assert sorted(tasks.id.tolist()) == [0, 1, 2, 3] == list(range(env.spec.num_tasks))
    env.reset(tasks, 5000, rng)
    good = env.state["good"].clone()
    assert torch.equal(good[:, 0], tasks.params["good"])
    for _ in range(4):
        action = torch.randint(2, (4, 5000), generator=rng)
        first = env.step(action)
        second = first.next_obs.argmax(-1)
        assert set(second.unique().tolist()) == {1, 2} and not first.reward.any()
        usual = 1 + (action ^ tasks.params["swapped"].unsqueeze(1))
        assert float((second == usual).float().mean()) == pytest.approx(0.8, abs=0.012)
        last = env.step(1 - action)
        assert last.truncated.all() and not last.terminated.any()
        assert torch.equal(last.next_obs, first.next_obs)
        assert (last.obs.argmax(-1) == 0).all()
        for hit, chance in ((second == good, 0.9), (second != good, 0.1)):
            assert float(last.reward[hit].mean()) == pytest.approx(chance, abs=0.012)
        changed = env.state["good"] != good
        assert float(changed.float().mean()) == pytest.approx(0.1, abs=0.01)
        good = env.state["good"].clone()


@pytest.mark.parametrize("hidden", [False, True])
def test_two_step_belief_is_bayes_rule_over_all_reversals(rng, hidden):
    cfg = TwoStepConfig(hidden_transitions=hidden, reversal_chance=0.15, common_chance=0.7)
    env = TwoStep(cfg)
    posterior = env.spec.belief
    assert isinstance(posterior, Belief)
    obs = env.reset(env.sample_tasks(2, "train", rng), 3, rng)
    belief = posterior.prior(obs)
    history = []  # per episode: first action, second state, reward
    for _ in range(4):
        action = torch.randint(2, (2, 3), generator=rng)
        first = env.step(action)
        belief = posterior.update(belief, obs, action, first.reward, first.next_obs)
        last = env.step(action)
        belief = posterior.update(belief, first.obs, action, last.reward, last.next_obs)
        history.append((action, first.obs.argmax(-1), last.reward))
        obs = last.obs
    features = posterior.features(belief, obs)
    assert features.shape == (2, 3, 2 if hidden else 1)
    for n, e in itertools.product(range(2), range(3)):
        joint = {}
        for goods in itertools.product((1, 2), repeat=5):  # the fifth episode is to come
            for swapped in (0, 1) if hidden else (0,):
                p = 1.0
                for k, (action, second, reward) in enumerate(history):
                    a, z, r = int(action[n, e]), int(second[n, e]), float(reward[n, e])
                    p *= 0.7 if z == 1 + (a ^ swapped) else 0.3
                    p *= 0.9 if (z == goods[k]) == (r > 0) else 0.1
                    p *= 0.15 if goods[k + 1] != goods[k] else 0.85
                key = goods[-1], swapped
                joint[key] = joint.get(key, 0.0) + p
        total = sum(joint.values())
        first_good = sum(v for (good, _), v in joint.items() if good == 1) / total
        swap = sum(v for (_, swapped), v in joint.items() if swapped) / total
        numbers = [2 * first_good - 1, 2 * swap - 1][: posterior.dim]
        assert features[n, e].tolist() == pytest.approx(numbers, abs=1e-5)


def test_a_step_copies_no_bounds_to_the_device(rng, monkeypatch):
    env = PointNav()
    env.reset(env.sample_tasks(2, "train", rng), 3, rng)
    monkeypatch.setattr(torch, "tensor", None)  # what would copy them
    env.step(torch.zeros(2, 3, 2))


class OnBelief:
    """Acts greedily on the exact belief."""

    def __init__(self, posterior):
        self.acted, self.posterior, self.belief = {}, posterior, None

    def act(self, obs, *, explore=True):
        self.obs = obs
        self.belief = self.belief or self.posterior.prior(obs)
        return self.posterior.best_first_action(self.belief)

    def observe(self, action, step):
        self.belief = self.posterior.update(
            self.belief, self.obs, action, step.reward, step.next_obs
        )


class WinStay:
    """Model-free: repeats the first action after a reward, switches after none."""

    def __init__(self, lanes):
        self.acted, self.action = {}, torch.zeros(lanes, dtype=torch.long)

    def act(self, obs, *, explore=True):
        self.second = obs[..., 0] == 0
        return self.action

    def observe(self, action, step):
        self.action = action ^ (self.second & (step.reward == 0)).long()


def outcomes(rollout):
    """First actions, whether transitions were common, whether a reward came, each (N, E, K)."""
    first = rollout.action[..., ::2]
    common = (first == 1) == (rollout.obs[..., 1::2, 2] == 1)
    return first, common, rollout.reward[..., 1::2] > 0


def test_stay_probabilities_show_who_plans(rng):
    env = TwoStep()
    tasks = env.sample_tasks(400, "test", rng)
    planned = collect(env, tasks, OnBelief(env.spec.belief), 1, 200, rng)
    stay = stay_probability(*outcomes(planned))
    assert stay[1, 1] - stay[1, 0] > 0.1 < stay[0, 0] - stay[0, 1]
    habit = stay_probability(*outcomes(collect(env, tasks, WinStay((400, 1)), 1, 200, rng)))
    assert habit.tolist() == [[0, 0], [1, 1]]

    scores = env.references(tasks, 100, rng)
    returns = planned.reward.sum((1, 2))
    exact = scores["exact belief"].sum(1)
    noise = math.hypot(error(returns), error(exact))
    assert float(returns.mean()) == pytest.approx(float(exact.mean()), abs=4 * noise)
    assert 50 < exact.mean() < scores["informed"].sum(1).mean() == pytest.approx(74.0)
    torch.testing.assert_close(env.optimum(tasks), scores["informed"].sum(1))


def test_stay_probability_by_hand():
    first = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 0, 0, 1]])
    common = torch.tensor([[1, 0, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    rewarded = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 1]]).bool()
    # Lane 0: (rewarded, common) stays, (rewarded, rare) leaves, (none, common) stays twice.
    # Lane 1: (none, common) leaves, (rewarded, common) stays twice, (none, rare) leaves.
    expected = torch.tensor([[0, 2 / 3], [0, 1]])
    torch.testing.assert_close(stay_probability(first, common, rewarded), expected)
    assert stay_probability(first[:1], common[:1], rewarded[:1])[0, 0].isnan()


def test_an_informed_two_step_policy_scores_its_expectation(rng):
    env = TwoStep(TwoStepConfig(common_chance=0.9, reward_chance=0.7))
    env.reset(env.sample_tasks(200, "test", rng), 50, rng)
    total = 0.0
    for _ in range(5):
        action = env.state["good"] - 1
        env.step(action)
        total = total + env.step(action).reward
    tasks = env.sample_tasks(1, "test", rng)
    expected = float(env.references(tasks, 5, rng)["informed"].sum())
    assert expected == pytest.approx(5 * (0.9 * 0.7 + 0.1 * 0.3))
    assert float(total.mean()) == pytest.approx(expected, abs=0.04)


# ---- settings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (HarlowConfig, {"choices": 0}, "--env-choices is 0; expected 1 or more"),
        (HarlowConfig, {"horizon": 6}, "--env-horizon is 6; expected 7 or more"),
        (TwoStepConfig, {"episodes": 0}, "--env-episodes is 0"),
        (TwoStepConfig, {"common_chance": 0.4}, "--env-common-chance is 0.4; .* 0.5 to 1"),
        (TwoStepConfig, {"reward_chance": math.nan}, "--env-reward-chance is nan"),
        (TwoStepConfig, {"reversal_chance": 1.5}, "--env-reversal-chance is 1.5; .* 0 to 1"),
    ],
)
def test_values_without_a_meaning_are_refused(config, options, message):
    with pytest.raises(UserError, match=message):
        config(**options)


# ---- four corners ---------------------------------------------------------------------------


def test_corners_pay_within_their_radius_and_count_at_the_last_step(rng):
    env = PointNavCorners(PointNavCornersConfig(horizon=20))
    tasks = env.sample_tasks(8, "test", rng)
    goal = tasks.params["goal"]
    assert sorted(map(tuple, goal.tolist())) == sorted([*CORNERS, *CORNERS])
    assert torch.equal(torch.tensor(CORNERS)[tasks.id], goal)
    obs = env.reset(tasks, 5, rng)
    assert obs.abs().max() <= 0.2 and obs.abs().max() > 0.1
    for time in range(1, 21):
        before = obs
        toward = goal.unsqueeze(1) - before
        step = env.step(toward / 0.2)
        left = (goal.unsqueeze(1) - step.next_obs).norm(dim=-1)
        assert torch.allclose(step.reward, (1 - left).clamp(min=0), atol=1e-6)
        assert torch.allclose(step.next_obs - before, toward.clamp(-0.2, 0.2), atol=1e-6)
        assert step.info["success"].eq(float(time == 20)).all()
        assert step.truncated.eq(time == 20).all() and not step.terminated.any()
        obs = step.obs
    assert (obs.abs() <= 0.2).all()


def test_whoever_always_goes_to_one_corner_earns_a_quarter(rng):
    env = PointNavCorners()
    scores = env.references(env.sample_tasks(4, "test", rng), 50, rng)
    known, one = (scores[k] for k in ("known corner", "always one corner"))
    assert known.min() > 80 and known.max() < 95
    assert one.sum() == pytest.approx(float(known.mean(0).sum()), rel=0.02)
    with pytest.raises(UserError, match="--env-radius is 9"):
        PointNavCornersConfig(radius=9)
