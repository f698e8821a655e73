"""Meta-learning of values: targets and updates by hand, meta-gradients by finite differences."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precocial.algos import ALGOS, build
from precocial.algos.gradient.q_maml import QMAML, QBatch, QMAMLConfig, td_loss
from precocial.envs.control.point_nav import PointNav
from precocial.envs.grid.frozen_lake import FrozenLake, FrozenLakeConfig
from precocial.ops import params
from precocial.ops.adaptation import inner_update
from precocial.types import EnvSpec, UserError

SPEC = EnvSpec("tiny", 3, "discrete", 2, (), (), 5, None, 0)


def method(**fields):
    small = {"num_tasks": 2, "episodes_per_task": 2, "inner_steps": 2, "hidden": ()}
    cfg = QMAMLConfig(**small | fields)
    q = QMAML(cfg, SPEC, torch.Generator().manual_seed(1))
    with torch.no_grad():  # values of order one, so that nothing is near enough to 0 to be missed
        for p in q.policy.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    return q


def data(seed=0, n=2, e=2, t=5, ends=0.3):
    """Made-up transitions, those of an episode joined."""
    g = torch.Generator().manual_seed(seed)
    states = torch.randn(n, e, t + 1, 3, generator=g)
    reward = torch.randn(n, e, t, generator=g)
    ended = torch.rand(n, e, t, generator=g) < ends
    terminated = ended & (torch.rand(n, e, t, generator=g) < 0.5)
    next_obs = states[:, :, 1:].clone()
    next_obs[ended] = torch.randn(int(ended.sum()), 3, generator=g)  # before the reset
    return QBatch(
        states[:, :, :-1].flatten(1, 2), torch.randint(0, 2, (n, e * t), generator=g),
        next_obs.flatten(1, 2), reward, terminated, ended & ~terminated,
    )  # fmt: skip


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([0.0, 0.9, 1.0]))
@settings(max_examples=30, deadline=None)
def test_loss_is_the_squared_distance_to_lambda_returns(seed, lam, gamma):
    q = method(td_lambda=lam, gamma=gamma)
    batch, phi = data(seed), params.expand(params.detach(q.policy.theta), 2)
    value = q.policy.values(phi, batch.obs).unflatten(1, (2, 5))
    following = q.policy.values(phi, batch.next_obs).amax(-1).unflatten(1, (2, 5))
    action = batch.action.unflatten(1, (2, 5))
    expected = torch.zeros(2)
    for n in range(2):
        for e in range(2):
            y = None
            for t in reversed(range(5)):  # Peng and Williams, backwards in time
                v = 0.0 if batch.terminated[n, e, t] else float(following[n, e, t])
                cut = y is None or batch.terminated[n, e, t] or batch.truncated[n, e, t]
                y = float(batch.reward[n, e, t]) + gamma * (v if cut else (1 - lam) * v + lam * y)
                expected[n] += (float(value[n, e, t, action[n, e, t]]) - y) ** 2 / 2 / 10
    ours = td_loss(q.policy, q.cfg, batch, phi)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_an_update_of_a_table_is_q_learning():
    q = method(td_lambda=0.0)
    q.policy.theta["bias_0"].data.zero_()
    batch = data(ends=0.0)
    hot = torch.nn.functional.one_hot(torch.arange(10) % 3, 3).float().expand(2, -1, -1)
    batch = batch._replace(obs=hot, next_obs=hot.roll(-1, 1))
    phi = params.expand(q.policy.theta, 2)
    rates = {"weight_0": torch.tensor(0.7), "bias_0": torch.tensor(0.0)}
    new = inner_update(partial(td_loss, q.policy, q.cfg, batch), phi, rates, second_order=False)
    table = q.policy.theta["weight_0"].detach()
    for n in range(2):
        expected = table.clone()
        for b in range(10):
            s, a, z = b % 3, int(batch.action[n, b]), (b + 1) % 10 % 3
            y = batch.reward[n].flatten()[b] + q.cfg.gamma * table[z].max()
            expected[s, a] += 0.7 / 10 * (y - table[s, a])
        assert torch.allclose(new["weight_0"][n], expected, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_meta_gradient_equals_finite_differences(steps, hidden, double):
    """With lambda 1 and ended episodes targets do not depend on values: L is a common loss."""
    q = method(td_lambda=1.0, inner_steps=steps, hidden=hidden, activation="tanh", inner_lr=0.3)
    batches = []
    for k in range(steps + 1):
        batch = data(k)
        batch.terminated[..., -1] = True
        batch.terminated[batch.truncated], batch.truncated[:] = True, False
        batches.append(batch)
    gradient, loss = q.outer_gradient(batches)
    assert set(gradient) == {*q.policy.theta, *(f"lr/{k}" for k in q.policy.theta)}
    at = params.flatten(q.meta).detach()
    v = torch.randn(len(at), generator=torch.Generator().manual_seed(5))

    def value(vector):
        meta = {k: p.requires_grad_() for k, p in params.unflatten(vector, q.meta).items()}
        return float(q.outer_loss(meta, batches).mean().detach())

    h = 1e-6
    slope = (value(at + h * v) - value(at - h * v)) / (2 * h)
    assert loss == pytest.approx(value(at))
    assert slope == pytest.approx(float(params.flatten(gradient) @ v), rel=1e-5)


def test_first_order_keeps_the_rates_gradient_and_drops_the_curvature():
    batches = [data(k) for k in range(3)]
    second, first = method(inner_steps=1), method(inner_steps=1, first_order=True)
    (a, _), (b, _) = (m.outer_gradient(batches[:2]) for m in (second, first))
    for name in second.policy.theta:
        assert torch.allclose(a[f"lr/{name}"], b[f"lr/{name}"], atol=1e-6)
    assert not torch.allclose(a["weight_0"], b["weight_0"], atol=1e-3)


def test_epsilon_falls_to_its_end_and_a_learner_has_the_last():
    lake = FrozenLake(FrozenLakeConfig(size=4))
    cfg = replace(ALGOS["q-maml"].config, num_tasks=2, inner_steps=1)
    q = build(cfg, lake.spec, torch.Generator().manual_seed(0))
    found = []
    for progress in (0.0, 0.2, 0.4, 0.9):
        q.progress = progress
        rng = torch.Generator().manual_seed(1)
        found.append(q.meta_update(lake, lake.sample_tasks(2, "train", rng), rng)["train/epsilon"])
    assert found == pytest.approx([1.0, 0.65, 0.3, 0.3])
    learner = q.learner(50, 40, torch.Generator().manual_seed(2))
    actions = learner.act(torch.eye(16)[0].expand(50, 40, 16))
    best = learner.act(torch.eye(16)[0].expand(50, 40, 16), explore=False)
    assert float((actions != best).float().mean()) == pytest.approx(0.3 * 3 / 4, abs=0.03)


def test_a_learner_of_learned_rates_goes_on_where_it_was_saved():
    lake = FrozenLake(FrozenLakeConfig(size=4))
    q = build(ALGOS["q-maml"].config, lake.spec, torch.Generator().manual_seed(0))
    learner = q.learner(2, 3, torch.Generator().manual_seed(1))
    assert set(learner.rates) == set(q.policy.theta)
    state = learner.state_dict()
    with torch.no_grad():
        q.log_rates["weight_0"].add_(1)
    other = q.learner(2, 3, torch.Generator().manual_seed(1))
    other.load_state_dict(state)
    assert all(torch.equal(other.rates[k], learner.rates[k]) for k in learner.rates)
    assert q.test_lrs(2)[0] > ALGOS["q-maml"].config.inner_lr


def test_values_are_no_policy_to_a_run_that_begins_from_them():
    q, other = method(), method(td_lambda=0.0)
    networks = q.networks()
    assert {*networks} == {"q", "normaliser"}
    with torch.no_grad():
        other.policy.theta["weight_0"].zero_()
    other.begin_with(networks)
    assert torch.equal(other.policy.theta["weight_0"], q.policy.theta["weight_0"])


@pytest.mark.parametrize("name", [n for n in ALGOS if n.startswith("q-") and n != "q-learning"])
def test_box_actions_are_refused_by_what_to_use(name, rng):
    with pytest.raises(UserError, match=r"continuous actions.*try maml"):
        build(ALGOS[name].config, PointNav().spec, rng)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"td_lambda": 1.5}, "--td-lambda"), ({"explore": -1}, "--explore"),
        ({"epsilon": float("nan")}, "--epsilon"), ({"rates_lr": 0.0}, "--rates-lr"),
        ({"inner_lr": 0.0}, "--inner-lr"), ({"inner_steps": 0}, "--inner-steps"),
        ({"outer_epochs": 0}, "--outer-epochs"), ({"context_dim": 0}, "--context-dim"),
    ],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(fields, word):
    with pytest.raises(UserError, match=word):
        QMAMLConfig(**fields)
