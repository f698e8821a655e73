"""DQN, SAC and tabular Q-learning: losses by hand, targets, exact resume with replay, learning."""

import dataclasses
import math
import shutil

import pytest
import torch

import precocial
from precocial.algos import build
from precocial.algos.plain.dqn import DQNConfig, dqn_losses, q_values
from precocial.algos.plain.q_learning import QLearningConfig
from precocial.algos.plain.sac import Policies, SACConfig, actor_losses, critic_losses
from precocial.envs.control.cart_pole_v1 import CartPoleV1
from precocial.envs.control.pendulum_v1 import PendulumV1
from precocial.envs.control.point_nav import PointNav, PointNavConfig
from precocial.envs.grid.frozen_lake import FrozenLakeV1, FrozenLakeV1Config, outcomes
from precocial.nets.mlp import orthogonal_layers
from precocial.runs import checkpoint
from precocial.runs.folder import create_folder
from precocial.runs.plan import plan
from precocial.runs.rows import read_rows
from precocial.seeding import Generators
from precocial.stacking import run_stacked
from precocial.task_replay import Sample
from precocial.training import run
from precocial.types import UserError

SMALL = {
    "lanes": 2, "rounds": 4, "train_every": 3, "updates": 2, "batch_size": 8, "learning_starts": 20,
    "hidden": (8,), "buffer_size": 60,
}  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stacked(*nets):
    return {k: torch.stack([n[k] for n in nets]) for k in nets[0]}


def table(*rows):
    """A network without hidden layers: Q(s, .) is row s for one-hot s."""
    return {"weight_0": torch.tensor([rows]), "bias_0": torch.zeros(1, len(rows[0]))}


def one_hot(*states):
    return torch.nn.functional.one_hot(torch.tensor([states]), 3).float()


def batch(states, actions, rewards, following, discounts, weight=None):
    weight = [1.0] * len(states) if weight is None else weight
    floats = (torch.tensor([x]) for x in (rewards, discounts, weight))
    reward, discount, weight = floats
    return Sample(
        one_hot(*states), torch.tensor([actions]), reward, one_hot(*following), discount, weight
    )


# ---- losses by hand -------------------------------------------------------------------------


def test_dqns_target_is_chosen_by_the_net_and_valued_by_its_slow_copy():
    q = table((1.0, 0.0), (0.0, 5.0), (2.0, 3.0))
    slow = table((0.0, 0.0), (7.0, 1.0), (4.0, 6.0))
    data = batch((0, 0), (0, 1), (1.0, 2.0), (1, 2), (0.5, 0.0))
    # double: in state 1 the net prefers action 1, which the slow copy values 1: y = 1 + .5 * 1;
    # the second transition ended: y = 2.  Errors 1 - 1.5 and 0 - 2.
    found = dqn_losses(q, slow, data, DQNConfig())
    assert found["loss/value"].item() == pytest.approx((0.5**2 + 2**2) / 2)
    # not double: the slow copy's own best is 7: y = 1 + 3.5
    found = dqn_losses(q, slow, data, DQNConfig(double=False))
    assert found["loss/value"].item() == pytest.approx((3.5**2 + 2**2) / 2)
    # a step on which a simulation diverged counts for nothing
    lost = batch((0, 0), (0, 1), (1.0, 2.0), (1, 2), (0.5, 0.0), (1.0, 0.0))
    assert dqn_losses(q, slow, lost, DQNConfig())["loss/value"].item() == pytest.approx(0.125)


def test_dueling_is_value_plus_centred_advantages():
    params = table((10.0, 1.0, 2.0, 6.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
    found = q_values(params, one_hot(0), DQNConfig(dueling=True))
    assert found.flatten().tolist() == [10 - 2, 10 - 1, 10 + 3]


def test_sacs_discrete_losses_are_sums_over_actions():
    cfg, env = SACConfig(hidden=(4,)), FrozenLakeV1()
    draw = Policies(cfg.activation, env.spec, seeded())
    even = table((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    nets = {
        "actor": even, "q": table((1.0, 3.0), (2.0, 4.0), (0.0, 0.0)),
        "q_twin": table((2.0, 2.0), (5.0, 3.0), (0.0, 0.0)),
    }  # fmt: skip
    data, alpha = batch((0,), (1,), (1.0,), (1,), (0.5,)), torch.tensor([[0.1]])
    # V(1) = mean of min(2, 5) and min(4, 3), and .1 log 2 of entropy: y = 1 + .5 V
    y = 1 + 0.5 * (2.5 + 0.1 * math.log(2))
    found = critic_losses(nets, nets, data, data.next_obs, alpha, draw)
    assert found["loss/value"].item() == pytest.approx((3 - y) ** 2 + (2 - y) ** 2, rel=1e-5)
    found = actor_losses(nets, data, alpha, draw)
    assert found["loss/entropy"].item() == pytest.approx(math.log(2))
    expected = -0.1 * math.log(2) - (min(1, 2) + min(3, 2)) / 2
    assert found["loss/policy"].item() == pytest.approx(expected, rel=1e-5)


def test_a_squashed_gaussians_density_is_that_of_the_change_of_variables():
    cfg, env = SACConfig(hidden=(8,)), PendulumV1()
    params = stacked(orthogonal_layers((3, 8, 2), 1.0, seeded(1)))
    draw = Policies(cfg.activation, env.spec, seeded(2))
    obs = torch.randn(1, 200, 3, generator=seeded(3))
    action, log_prob = draw.draw(params, obs)
    mean, log_std = draw.gaussian(params, obs)
    u = torch.atanh(action.double().clamp(-1 + 1e-9, 1 - 1e-9))
    normal = torch.distributions.Normal(mean.double(), log_std.double().exp()).log_prob(u)
    expected = (normal - torch.log1p(-action.double().square())).sum(-1)
    inside = action.abs().squeeze(-1) < 0.999  # float32 forgets u near the bounds
    torch.testing.assert_close(log_prob.double()[inside], expected[inside], rtol=1e-3, atol=2e-3)
    grid = torch.linspace(-1 + 1e-6, 1 - 1e-6, 200_001, dtype=torch.float64)
    m, s = mean[0, 0].double(), log_std[0, 0].double().exp()
    density = torch.distributions.Normal(m, s).log_prob(torch.atanh(grid)).exp() / (1 - grid**2)
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-3)


def test_sacs_continuous_losses_follow_their_equations():
    cfg, env = SACConfig(hidden=(8,)), PendulumV1()
    agent = build(dataclasses.replace(cfg, **{"lanes": 2}), env.spec, seeded())
    nets = {n: stacked(p) for n, p in agent.nets.items()}
    targets = {n: stacked(p) for n, p in agent.targets.items()}
    g = seeded(5)
    data = Sample(
        torch.randn(1, 6, 3, generator=g), torch.rand(1, 6, 1, generator=g) * 3 - 1.5,
        torch.randn(1, 6, generator=g), torch.randn(1, 6, 3, generator=g),
        torch.full((1, 6), 0.9), torch.ones(1, 6),
    )  # fmt: skip
    alpha = torch.tensor([[0.3]])
    action, log_prob = Policies(cfg.activation, env.spec, seeded(7)).draw(
        nets["actor"], data.next_obs
    )

    def q(net, obs, act):
        x = torch.cat([obs, act], -1)[0]
        h = torch.relu(x @ net["weight_0"][0] + net["bias_0"][0])
        return (h @ net["weight_1"][0] + net["bias_1"][0]).squeeze(-1)

    least = torch.minimum(*(q(targets[n], data.next_obs, action) for n in ("q", "q_twin")))
    y = data.reward[0] + 0.9 * (least - 0.3 * log_prob[0])
    acted = data.action.clamp(-1, 1)  # what the environment made of it
    expected = sum((q(nets[n], data.obs, acted) - y).square().mean() for n in ("q", "q_twin"))
    draw = Policies(cfg.activation, env.spec, seeded(7))
    found = critic_losses(nets, targets, data, data.next_obs, alpha, draw)
    torch.testing.assert_close(found["loss/value"][0], expected)
    action, log_prob = Policies(cfg.activation, env.spec, seeded(8)).draw(nets["actor"], data.obs)
    least = torch.minimum(*(q(nets[n], data.obs, action) for n in ("q", "q_twin")))
    found = actor_losses(nets, data, alpha, Policies(cfg.activation, env.spec, seeded(8)))
    torch.testing.assert_close(found["loss/policy"][0], (0.3 * log_prob[0] - least).mean())
    torch.testing.assert_close(found["loss/entropy"][0], -log_prob.mean())


def test_the_policys_loss_leaves_the_critics_alone_and_theirs_the_policy():
    cfg, env = SACConfig(hidden=(8,)), PendulumV1()
    agent = build(dataclasses.replace(cfg, lanes=2), env.spec, seeded())
    nets = {
        n: {k: x.unsqueeze(0).clone().requires_grad_() for k, x in p.items()}
        for n, p in agent.nets.items()
    }
    data = Sample(
        torch.randn(1, 6, 3), torch.rand(1, 6, 1), torch.randn(1, 6), torch.randn(1, 6, 3),
        torch.full((1, 6), 0.9), torch.ones(1, 6),
    )  # fmt: skip
    draw = Policies(cfg.activation, env.spec, seeded(1))
    actor_losses(nets, data, torch.tensor([[0.3]]), draw)["loss/policy"].sum().backward()
    assert all(p.grad is None for n in ("q", "q_twin") for p in nets[n].values())
    assert all(p.grad is not None for p in nets["actor"].values())
    for p in nets["actor"].values():
        p.grad = None
    alpha = torch.tensor([[0.3]])
    critic_losses(nets, nets, data, data.next_obs, alpha, draw)["loss/value"].sum().backward()
    assert all(p.grad is None for p in nets["actor"].values())


# ---- acting and learning in turns -----------------------------------------------------------


def agent_of(algo, env, **settings):
    config = {"dqn": DQNConfig, "sac": SACConfig, "q-learning": QLearningConfig}[algo]
    small = SMALL if algo != "q-learning" else {"lanes": 2, "steps": 12}
    return build(dataclasses.replace(config(), **small | settings), env.spec, seeded())


@pytest.mark.parametrize("algo", ["dqn", "sac"])
def test_so_many_steps_and_gradient_steps_in_an_iteration(algo):
    env = CartPoleV1()
    agent = agent_of(algo, env)
    tasks = env.sample_tasks(1, "train", seeded())
    agent.meta_update(env, tasks, seeded(1))
    # 2 lanes x 3 steps x 4 rounds; learning starts with the round that fills 20 transitions
    assert (agent.env_steps, len(agent.replay), agent.updates_done) == (24, 12, 2)
    agent.meta_update(env, tasks, seeded(2))
    assert (agent.env_steps, len(agent.replay), agent.updates_done) == (48, 24, 10)
    for i in range(4):
        agent.meta_update(env, tasks, seeded(3 + i))
    assert agent.replay.num_transitions == 60


def test_targets_follow_or_are_copied():
    env = CartPoleV1()
    tasks = env.sample_tasks(1, "train", seeded())
    agent = agent_of("dqn", env, tau=1.0, learning_starts=0)
    agent.meta_update(env, tasks, seeded(1))
    assert torch.equal(agent.nets["q"]["weight_0"], agent.targets["q"]["weight_0"])
    agent = agent_of("dqn", env, tau=0.0, learning_starts=0)
    before = agent.targets["q"]["weight_0"].clone()
    agent.meta_update(env, tasks, seeded(1))
    assert torch.equal(before, agent.targets["q"]["weight_0"])
    agent = agent_of("dqn", env, target_every=8, learning_starts=0)  # 8 steps an iteration
    agent.meta_update(env, tasks, seeded(1))
    assert torch.equal(agent.nets["q"]["weight_0"], agent.targets["q"]["weight_0"])
    agent = agent_of("dqn", env, target_every=7, learning_starts=0)
    agent.meta_update(env, tasks, seeded(1))
    assert not torch.equal(agent.nets["q"]["weight_0"], agent.targets["q"]["weight_0"])


def test_epsilon_falls_with_environment_steps():
    env = CartPoleV1()
    agent = agent_of("dqn", env, explore_steps=48, epsilon=1.0, final_epsilon=0.2)
    tasks = env.sample_tasks(1, "train", seeded())
    found = [agent.meta_update(env, tasks, seeded(i))["train/epsilon"] for i in range(4)]
    assert found == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_the_temperature_has_a_floor_and_moves_towards_its_target():
    env = PendulumV1()
    tasks = env.sample_tasks(1, "train", seeded())
    low = agent_of("sac", env, alpha=0.02, min_alpha=0.02, target_entropy=-50.0, lr=0.1)
    high = agent_of("sac", env, alpha=0.02, min_alpha=0.01, target_entropy=50.0, lr=0.1)
    still = agent_of("sac", env, alpha=0.02, auto_alpha=False)
    for agent in (low, high, still):
        for i in range(3):
            agent.meta_update(env, tasks, seeded(i))
    alphas = [math.exp(float(a.nets["temperature"]["log_alpha"])) for a in (low, high, still)]
    assert alphas[0] == pytest.approx(0.02) and alphas[1] > 0.1
    assert alphas[2] == pytest.approx(0.02)


def test_on_a_family_replay_is_kept_by_task_and_lanes_begin_anew():
    env = PointNav(PointNavConfig(horizon=12))
    agent = agent_of("sac", env, num_tasks=3, learning_starts=0, buffer_size=600)
    for i in range(3):
        agent.meta_update(env, env.sample_tasks(3, "train", seeded(i)), seeded(9 + i))
    assert agent.replay.fields["reward"].shape[1:] == (3, 2)
    ends = agent.replay.rows(0)["truncated"]
    assert ends[11].all() and ends[23].all()  # the end of each iteration's lanes
    drawn = agent.replay.sample(50, 0.9, seeded(1), 5)
    assert drawn.obs.shape == (3, 50, 2)


@pytest.mark.parametrize(
    ("algo", "env", "said"),
    [
        ("dqn", "Pendulum-v1", "dqn needs discrete ones"),
        ("q-learning", "Pendulum-v1", "a table needs discrete ones"),
        ("q-learning", "CartPole-v1", "q-learning needs one-hot observations"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(algo, env, said, tmp_path):
    with pytest.raises(UserError, match=said):
        precocial.train(algo, env, iterations=1, out=tmp_path / "r", quiet=True)


@pytest.mark.parametrize(
    ("config", "flag", "value"),
    [
        (DQNConfig, "n_step", 0), (DQNConfig, "tau", 1.5), (DQNConfig, "buffer_size", 3),
        (DQNConfig, "epsilon", -0.1), (SACConfig, "min_alpha", 0.0), (SACConfig, "alpha", 0.001),
        (SACConfig, "target_entropy", math.inf), (QLearningConfig, "lr_power", 2.0),
        (QLearningConfig, "steps", 0), (DQNConfig, "updates", 0),
        (DQNConfig, "learning_starts", 50_001), (SACConfig, "learning_starts", 10**9),
    ],
)  # fmt: skip
def test_values_without_a_meaning_are_refused(config, flag, value):
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')} is"):
        dataclasses.replace(config(), **{flag: value})


def test_a_tables_rows_are_where_the_table_is():
    agent = agent_of("q-learning", FrozenLakeV1())
    learner = agent.learner(1, 2, seeded())
    learner.params = {"table": torch.zeros(2, 16, 4, device="meta")}
    assert learner._row((2, 3)).device.type == "meta"


# ---- runs -----------------------------------------------------------------------------------

RUNS = [
    ("dqn", "CartPole-v1", SMALL | {"n_step": 2, "normalize_obs": True}),
    ("dqn", "CartPole-v1", SMALL | {"dueling": True, "target_every": 3}),
    ("sac", "Pendulum-v1", SMALL),
    ("sac", "CartPole-v1", SMALL),
    ("sac", "point-nav", SMALL | {"num_tasks": 2, "env_horizon": 12}),
    ("q-learning", "FrozenLake-v1", {"lanes": 2, "steps": 30, "lr_power": 0.5}),
]


def rows(folder):
    found = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in found]


def state(folder):
    found = checkpoint.load(folder / "checkpoint" / "last.safetensors")
    return torch.utils._pytree.tree_leaves(found["algorithm"])


@pytest.mark.parametrize(("algo", "env", "settings"), RUNS)
def test_stopping_and_resuming_is_to_the_bit_with_replay(algo, env, settings, tmp_path):
    options = {"eval_every": 3, "eval_tasks": 2, "save_every": 2, "quiet": True} | settings
    whole = precocial.train(algo, env, iterations=9, out=tmp_path / "w", **options)
    part = precocial.train(algo, env, iterations=5, out=tmp_path / "p", **options)
    run(part, 9, quiet=True)
    assert rows(whole) == rows(part)
    for a, b in zip(state(whole), state(part), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    store = part / "checkpoint" / "parts"
    if algo != "q-learning":
        ends = sorted(int(p.stem.split("-")[1]) for p in store.iterdir())
        assert ends[-1] == 9 * 12 and len(ends) <= 4  # 30 steps of a lane are kept


@pytest.mark.parametrize(("algo", "env", "settings"), RUNS)
def test_a_seed_in_a_stack_is_what_it_would_have_been_alone(algo, env, settings, tmp_path):
    options = {"eval_every": 2, "eval_tasks": 2, "iterations": 4} | settings
    folders = [tmp_path / f"seed-{s}" for s in (0, 1, 2)]
    for s, folder in enumerate(folders):
        create_folder(plan(algo, env, seed=s, **options), folder, overwrite=False)
    assert run_stacked(folders, quiet=True) == {}
    for s in (0, 2):
        alone = precocial.train(algo, env, seed=s, out=tmp_path / f"a{s}", quiet=True, **options)
        for one, other in zip(rows(folders[s]), rows(alone), strict=True):
            assert one.keys() == other.keys()
            for k, v in one.items():
                assert v == pytest.approx(other[k], rel=2e-3, abs=2e-3), k


def test_a_stack_with_replay_resumes_to_the_bit(tmp_path):
    found = []
    for name, stops in (("w", (6,)), ("p", (2, 3, 6))):
        folders = [tmp_path / name / f"seed-{s}" for s in (0, 1)]
        for s, folder in enumerate(folders):
            p = plan("dqn", "CartPole-v1", seed=s, iterations=6, eval_every=0, **SMALL)
            create_folder(p, folder, overwrite=False)
        for stop in stops:
            run_stacked(folders, stop, quiet=True)
        found.append([rows(f) for f in folders])
    assert found[0] == found[1]


def test_a_damaged_part_of_the_replay_is_one_line(tmp_path):
    folder = precocial.train(
        "dqn", "CartPole-v1", iterations=3, eval_every=0, out=tmp_path / "r", quiet=True, **SMALL
    )
    part = next((folder / "checkpoint" / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(UserError, match=part.name):
        run(folder, 4, quiet=True)
    shutil.rmtree(folder)


def test_the_table_converges_to_value_iteration_on_the_slippery_lake():
    env = FrozenLakeV1(FrozenLakeV1Config(slippery=True))
    cfg = dataclasses.replace(
        QLearningConfig(), lanes=64, steps=2000, lr=1.0, lr_power=0.65, epsilon=1.0,
        final_epsilon=1.0, gamma=0.95,
    )  # fmt: skip
    agents = [build(cfg, env.spec, seeded(s)) for s in range(2)]
    for i in range(6):
        rng = Generators([seeded(10 * i), seeded(10 * i + 1)])
        type(agents[0]).update_together(agents, env, env.sample_tasks(2, "train", seeded()), rng)
    hole, lanes = env.fixed, outcomes(4, True, torch.device("cpu"))
    value = torch.zeros(16)
    for _ in range(400):
        open_ = value.masked_fill(hole, 0.0)
        open_[-1] = 0.0
        reward = (lanes == 15).float().mean(-1)
        q = reward + 0.95 * open_[lanes].mean(-1)
        value = q.amax(-1)
    inside = ~hole
    inside[-1] = False
    for agent in agents:
        error = (agent.nets["q"]["table"] - q)[inside].abs().max()
        assert error < 0.05, error  # the largest value is .6 of a reward


def test_learning_must_start_within_what_all_tasks_keep_together():
    # 100 // (3 x 8) = 4 steps of each of 24 lanes: 96 transitions
    small = {"num_tasks": 3, "lanes": 8, "train_every": 1, "buffer_size": 100}
    assert dataclasses.replace(DQNConfig(), learning_starts=96, **small).capacity == 4
    with pytest.raises(UserError, match="at most the 96 transitions"):
        dataclasses.replace(DQNConfig(), learning_starts=97, **small)
