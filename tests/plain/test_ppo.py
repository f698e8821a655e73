"""PPO: its loss by hand, its lanes, and that it learns."""

import dataclasses

import pytest
import torch

from precocial.algos import ALGOS, build
from precocial.algos.plain.ppo import Batch, PPOConfig, minibatches, ppo_losses, score
from precocial.algos.plain.shared import Lanes, Normalisers, PlainLearner
from precocial.envs.control.cart_pole_v1 import CartPoleV1
from precocial.envs.control.pendulum_v1 import PendulumV1
from precocial.envs.control.point_nav import PointNav, PointNavConfig
from precocial.nets.stack import Moments, Stack, clip_norms
from precocial.rollout import collect
from precocial.seeding import Generators, generator
from precocial.types import UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ppo(env=None, seed=0, **settings):
    return build(
        dataclasses.replace(PPOConfig(), **settings), (env or CartPoleV1()).spec, seeded(seed)
    )


def test_the_loss_is_equation_9(double):
    """Two transitions by hand: uniform policy, V = 0, ratios 1; then ratios that the clip cuts."""
    agent = ppo(hidden=(4,), vf_coef=0.5, ent_coef=0.1)
    nets = {
        k: {n: torch.zeros_like(p).double() for n, p in v.items()} for k, v in agent.nets.items()
    }
    stack = Stack([nets])
    half = torch.log(torch.tensor(0.5))
    batch = Batch(
        torch.zeros(1, 2, 4), torch.tensor([[0, 1]]), half.expand(1, 2),
        torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 4.0]]),
    )  # fmt: skip
    found = ppo_losses(stack, batch, agent.cfg)
    # normalised advantages -1, +1: the surrogate is 0; value (4 + 16) / 2 = 10; entropy log 2
    log2 = torch.log(torch.tensor(2.0))
    assert found["loss/policy"].item() == pytest.approx(0, abs=1e-7)
    assert found["loss/value"].item() == pytest.approx(10)
    assert found["loss/total"].item() == pytest.approx(5 - 0.1 * log2.item(), abs=1e-6)
    # acted at probability .25, so the ratio is 2: cut to 1.2 for the better action, kept at -2
    old = batch._replace(log_prob=torch.log(torch.tensor(0.25)).expand(1, 2))
    assert ppo_losses(stack, old, agent.cfg)["loss/policy"].item() == pytest.approx((2 - 1.2) / 2)


def test_advantages_are_bootstrapped_where_the_clock_ended_and_not_where_the_pole_fell():
    env = CartPoleV1()
    agent = ppo(env, lanes=200, rollout_steps=30, gamma=0.9, gae_lambda=0.0)
    stack, normalisers = Stack([agent.nets]), Normalisers([agent])
    with torch.no_grad():
        stack.nets["critic"]["bias_2"].fill_(5.0)  # V is 5 and a little
    env.spec = env.spec._replace(horizon=25)
    rng = seeded(1)
    lanes = Lanes([agent], env, env.sample_tasks(1, "train", rng), rng)
    rollout = lanes.roll(PlainLearner(agent.cfg, stack.nets["actor"], normalisers, rng), 30)
    batch = score(rollout, stack, normalisers, lanes, agent.cfg)
    target = batch.target.view(rollout.reward.shape)
    assert rollout.truncated.any() and rollout.terminated.any()
    assert torch.allclose(target[rollout.terminated], torch.tensor(1.0))
    cut = target[rollout.truncated]
    assert ((cut - (1 + 0.9 * 5)).abs() < 2.5).all() and (cut > 3).all()


def test_every_transition_is_seen_once_per_epoch_and_each_members_order_is_its_own():
    size, cfg = 70, PPOConfig(epochs=2, minibatch_size=32)
    number = torch.arange(size).float().expand(2, size)
    batch = Batch(number.unsqueeze(-1).expand(2, size, 4), number.long(), number, number, number)
    parts = list(minibatches(batch, cfg, Generators([seeded(1), seeded(2)])))
    assert [p.log_prob.shape[1] for p in parts] == [24, 23, 23] * 2
    for epoch in (parts[:3], parts[3:]):
        seen = torch.cat([p.log_prob for p in epoch], 1)
        assert torch.equal(seen.sort(1).values, number)
        assert not torch.equal(seen[0], seen[1])
        rows = torch.cat([p.obs[..., 0] for p in epoch], 1)
        assert torch.equal(rows, seen)
    alone = list(minibatches(Batch(*(x[1:] for x in batch)), cfg, seeded(2)))
    for one, both in zip(alone, parts, strict=True):
        assert torch.equal(one.action, both.action[1:])


def test_moments_are_adams_and_a_row_of_zeros_stays():
    nets = [{"a": {"w": torch.randn(3, 2, generator=seeded(i))}} for i in range(2)]
    stack = Stack(nets)
    moments = Moments([Moments.zero(n) for n in nets], eps=1e-5)
    theirs = [n["a"]["w"].clone().requires_grad_() for n in nets]
    optimizers = [
        torch.optim.Adam([p], lr, eps=1e-5) for p, lr in zip(theirs, (0.1, 0.01), strict=True)
    ]
    for step in range(5):
        grad = torch.randn(2, 6, generator=seeded(step + 9))
        moments.step(stack.flat, grad, torch.tensor([[0.1], [0.01]]))
        for i, (p, optimizer) in enumerate(zip(theirs, optimizers, strict=True)):
            p.grad = grad[i].view(3, 2).clone()
            optimizer.step()
    for p, row in zip(theirs, stack.rows(), strict=True):
        torch.testing.assert_close(row["a"]["w"], p.detach())
    still = Moments([Moments.zero(n) for n in nets], eps=1e-5)
    before = stack.flat.clone()
    still.step(stack.flat, torch.zeros(2, 6), torch.tensor([[0.1], [0.1]]))
    assert torch.equal(before, stack.flat)


def test_long_gradients_are_cut_row_by_row():
    grad = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    cut = clip_norms(grad, 1.0)
    torch.testing.assert_close(cut, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


def test_gradients_are_those_of_each_member_alone():
    env = CartPoleV1()
    agents = [ppo(env, seed=s, hidden=(8,)) for s in range(3)]
    batches = []
    for s, agent in enumerate(agents):
        rng = seeded(s)
        lanes = Lanes([agent], env, env.sample_tasks(1, "train", rng), rng)
        one, normalisers = Stack([agent.nets]), Normalisers([agent])
        rollout = lanes.roll(PlainLearner(agent.cfg, one.nets["actor"], normalisers, rng), 20)
        batches.append(score(rollout, one, normalisers, lanes, agent.cfg))
    stack = Stack([a.nets for a in agents])
    joined = Batch(*(torch.cat(x) for x in zip(*batches, strict=True)))
    together = stack.gradient(ppo_losses(stack, joined, agents[0].cfg)["loss/total"])
    for i, agent in enumerate(agents):
        one = Stack([agent.nets])
        alone = one.gradient(ppo_losses(one, batches[i], agent.cfg)["loss/total"])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-6)


def test_an_episode_goes_on_from_one_iteration_to_the_next():
    env = CartPoleV1()
    agent = ppo(env, lanes=4, rollout_steps=3, minibatch_size=12)
    tasks = env.sample_tasks(1, "train", seeded())
    lengths = []
    for i in range(3):
        agent.meta_update(env, tasks, seeded(i))
        lengths.append(int(agent.standing["time"].max()))
        assert torch.equal(agent.standing["return"], agent.standing["time"].float())
    assert lengths == [3, 6, 9] and len(agent.recent) == 0
    for i in range(30):
        metrics = agent.meta_update(env, tasks, seeded(9 + i))
    assert metrics["episode_reward_mean"] == pytest.approx(float(agent.recent.mean()))
    assert 8 < metrics["episode_reward_mean"] < 60


def test_returns_of_episodes_are_the_sums_of_their_rewards():
    env = CartPoleV1()
    agent = ppo(env, lanes=3, rollout_steps=40)
    tasks, rng = env.sample_tasks(1, "train", seeded()), seeded(4)
    lanes = Lanes([agent], env, tasks, rng)
    actor = PlainLearner(agent.cfg, Stack([agent.nets]).nets["actor"], Normalisers([agent]), rng)
    rollouts = [lanes.roll(actor, 40) for _ in range(3)]
    reward, ended = (
        torch.cat([getattr(r, k) for r in rollouts], 2) for k in ("reward", "terminated")
    )
    expected = []
    for part in range(3):
        for lane in range(3):
            total = 0.0
            for t in range(40 * (part + 1)):
                total += float(reward[0, lane, t])
                if ended[0, lane, t]:
                    if t >= 40 * part:
                        expected.append(total)
                    total = 0.0
    assert agent.recent.tolist() == expected


def test_on_a_family_every_iteration_has_new_tasks_and_begins_anew():
    env = PointNav(PointNavConfig(horizon=10))
    agent = ppo(env, num_tasks=3, lanes=2, minibatch_size=30)
    before = agent.nets["actor"]["weight_0"].clone()
    metrics = agent.meta_update(env, env.sample_tasks(3, "train", seeded()), seeded(1))
    assert agent.standing == {} and len(agent.recent) == 6
    assert not torch.equal(before, agent.nets["actor"]["weight_0"])
    assert metrics["episode_reward_mean"] < 0


def test_observations_are_normalised_by_what_was_met():
    env = PendulumV1()
    agent = ppo(env, normalize_obs=True, lanes=8, rollout_steps=50)
    tasks = env.sample_tasks(1, "train", seeded())
    agent.meta_update(env, tasks, seeded(1))
    assert agent.normaliser["count"] == 400
    obs = torch.randn(1, 5, 3, generator=seeded(2))
    mean, var = agent.normaliser["mean"], agent.normaliser["var"]
    torch.testing.assert_close(Normalisers([agent])(obs), (obs - mean) / var.sqrt())


def test_a_learner_is_a_frozen_copy_and_is_saved():
    env = CartPoleV1()
    agent = ppo(env)
    learner = agent.learner(1, 2, seeded(3))
    obs = torch.randn(1, 2, 4, generator=seeded(4))
    before = learner.act(obs, explore=False)
    tasks = env.sample_tasks(1, "train", seeded())
    agent.meta_update(env, tasks, seeded(1))
    assert torch.equal(before, learner.act(obs, explore=False))
    logits = learner.acted["logits"]
    other = agent.learner(1, 2, seeded(3))
    other.load_state_dict(learner.state_dict())
    other.act(obs, explore=False)
    assert torch.equal(logits, other.acted["logits"])


@pytest.mark.parametrize(
    ("flag", "value"),
    [("lanes", 0), ("minibatch_size", 0), ("hidden", ()), ("gamma", 1.5), ("rollout_steps", -1),
     ("lr", 0.0), ("clip_eps", float("nan")), ("epochs", 0), ("num_tasks", 0)],
)  # fmt: skip
def test_values_without_a_meaning_are_refused(flag, value):
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')} is"):
        dataclasses.replace(PPOConfig(), **{flag: value})


@pytest.mark.slow
def test_cart_pole_is_learned():
    env, cfg = (
        CartPoleV1(),
        dataclasses.replace(ALGOS["ppo"].config, rollout_steps=32, rounds=2, lr=2e-3, epochs=10),
    )
    agents = [build(cfg, env.spec, generator(s, "init")) for s in range(4)]
    for i in range(30):
        rng = Generators([generator(s, "rollout", i) for s in range(4)])
        type(agents[0]).update_together(agents, env, env.sample_tasks(4, "train", seeded()), rng)
    scores = []
    for agent in agents:
        learner = agent.learner(1, 20, seeded(7))
        tasks = env.sample_tasks(1, "test", seeded())
        rollout = collect(env, tasks, learner, 20, 500, seeded(8), explore=False, episodes=1)
        scores.append(float(rollout.extra["valid"].sum(-1).float().mean()))
    assert sorted(scores)[1] > 400, scores  # three of four, after 31 k steps
