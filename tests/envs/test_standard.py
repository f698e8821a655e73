"""Gymnasium's own environments as tensors: the same physics, and old runs of them."""

import math

import gymnasium
import numpy as np
import pytest
import torch
import yaml

import precocial
from precocial.envs import ENVS, env_config, make_env
from precocial.envs.base import TensorTaskEnv
from precocial.envs.own.adapter import GymTaskEnv
from precocial.runs.folder import load_algorithm, read_plan
from precocial.seeding import Generators
from precocial.types import UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(name, count, **options):
    """A family on so many lanes, a while after a reset so that all kinds of states are met."""
    env = make_env(name, env_config(name, **options))
    env.reset(env.sample_tasks(1, "train", seeded()), count, seeded(1))
    return env


def set_cart_pole(env, s):
    env.state = np.array(s, np.float64)


STATES = {  # where to start one step, and how to put Gymnasium's there
    "CartPole-v1": (
        lambda n: torch.rand(n, 4, generator=seeded(2)) * 2 - 1,
        torch.tensor([2.6, 3.0, 0.25, 3.0]),
    ),
    "Acrobot-v1": (
        lambda n: torch.rand(n, 4, generator=seeded(2)) * 2 - 1,
        torch.tensor([math.pi, math.pi, 4.0, 9.0]),
    ),
    "MountainCar-v0": (
        lambda n: torch.rand(n, 2, generator=seeded(2)) * 2 - 1,
        torch.tensor([1.2, 0.07]),
    ),
    "Pendulum-v1": (
        lambda n: torch.rand(n, 2, generator=seeded(2)) * 2 - 1,
        torch.tensor([6.0, 8.0]),
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_one_step_is_gymnasiums(name):
    draw, size = STATES[name]
    count = 400
    states = draw(count) * size
    if name == "MountainCar-v0":
        states[:, 0].clamp_(max=0.6)
    env = drawn(name, count)
    if name in ("CartPole-v1", "Acrobot-v1"):
        env.state = {"s": states[None]}
    elif name == "MountainCar-v0":
        env.state = {"place": states[None, :, 0], "speed": states[None, :, 1]}
    else:
        env.state = {"angle": states[None, :, 0], "speed": states[None, :, 1]}
    if env.spec.action_kind == "discrete":
        action = torch.randint(env.spec.action_dim, (1, count), generator=seeded(3))
    else:
        action = torch.rand(1, count, 1, generator=seeded(3)) * 3 - 1.5  # beyond the bounds, too
    step = env.step(action)
    theirs = gymnasium.make(name).unwrapped
    theirs.reset(seed=0)
    ends = 0
    for i in range(count):
        theirs.state = states[i].double().numpy()
        if name == "CartPole-v1":
            theirs.steps_beyond_terminated = None
        act = int(action[0, i]) if action.ndim == 2 else 2 * action[0, i].clamp(-1, 1).numpy()
        obs, reward, terminated, _, _ = theirs.step(act)
        np.testing.assert_allclose(step.next_obs[0, i], obs, rtol=3e-6, atol=3e-6)
        assert float(step.reward[0, i]) == pytest.approx(float(reward), rel=1e-6, abs=1e-6)
        assert bool(step.terminated[0, i]) == terminated
        ends += terminated
    assert (ends > 0) == (name != "Pendulum-v1")  # both outcomes were met


@pytest.mark.parametrize("name", ["FrozenLake-v1", "FrozenLake8x8-v1"])
@pytest.mark.parametrize("slippery", [True, False])
def test_a_lake_has_gymnasiums_chances(name, slippery):
    theirs = gymnasium.make(name, is_slippery=slippery).unwrapped
    env = drawn(name, 1, slippery=slippery)
    hole = env.tasks["hole"][0, 0]
    assert env.spec.horizon == gymnasium.spec(name).max_episode_steps
    from precocial.envs.grid.frozen_lake import outcomes

    table = outcomes(env.size, slippery, hole.device)
    for cell in range(len(hole)):
        if bool(hole[cell]) or cell == len(hole) - 1:
            continue
        for action in range(4):
            chances = dict.fromkeys(range(len(hole)), 0.0)
            for chance, following, reward, ended in theirs.P[cell][action]:
                chances[following] += chance
                assert reward == float(following == len(hole) - 1)
                assert ended == (bool(hole[following]) or following == len(hole) - 1)
            ours = torch.bincount(table[cell, action], minlength=len(hole)) / table.shape[-1]
            np.testing.assert_allclose(ours, list(chances.values()), atol=1e-7)


@pytest.mark.parametrize("name", [*STATES, "FrozenLake-v1"])
def test_starts_and_time_limits_are_gymnasiums(name):
    env = drawn(name, 2000)
    theirs = gymnasium.make(name)
    env_obs = env.observation(env.state, env.tasks)[0]
    if name != "FrozenLake-v1":
        starts = torch.tensor(np.stack([theirs.reset(seed=i)[0] for i in range(2000)]))
        for q in (0.05, 0.5, 0.95):
            ours, exact = (x.quantile(q, 0) for x in (env_obs, starts))
            assert (ours - exact).abs().max() < 0.12 * starts.std(0).max() + 1e-6
    assert env.spec.horizon == theirs.spec.max_episode_steps
    assert env.spec.num_tasks == 1


def test_exact_steps_gymnasiums_own_and_refuses_another_physics():
    env = make_env("CartPole-v1", env_config("CartPole-v1", exact=True))
    assert isinstance(env, GymTaskEnv) and env.spec.horizon == 500
    env.close()
    with pytest.raises(UserError, match=r"--env-half-length is 2.0; --env-exact"):
        env_config("CartPole-v1", exact=True, half_length=2.0)


def test_runs_from_before_load_as_what_they_were(tmp_path):
    small = {"num_tasks": 2, "episodes_per_task": 2, "hidden": (4,), "eval_every": 0}
    folder = precocial.train(
        "maml", "CartPole-v1", iterations=1, env_horizon=5, env_exact=True, out=tmp_path / "r",
        quiet=True, **small,
    )  # fmt: skip
    path = folder / "config.yaml"
    document = yaml.safe_load(path.read_text())
    document["env_config"] = {
        k: document["env_config"][k] for k in ("train_tasks", "horizon", "workers", "step_timeout")
    }
    path.write_text(yaml.safe_dump(document))
    assert read_plan(folder).env_config.exact
    _, env, _, _ = load_algorithm(folder)
    assert isinstance(env, GymTaskEnv)
    env.close()


def test_another_pole_force_sensor_and_action():
    plain, odd = (
        drawn("CartPole-v1", 300, **options)
        for options in ({}, {"force": -10.0, "extra_inputs": 2, "extra_actions": 1})
    )
    assert (odd.spec.obs_dim, odd.spec.action_dim) == (6, 3)
    odd.state["s"] = plain.state["s"].clone()
    left, right = (torch.full((1, 300), i) for i in (0, 1))
    assert torch.equal(plain.step(left).next_obs, odd.step(right).next_obs[..., :4])
    odd.state = {"s": torch.zeros(1, 300, 4), "noise": torch.zeros(1, 300, 2)}
    still = odd.step(torch.full((1, 300), 2)).next_obs
    assert torch.equal(still[..., :4], torch.zeros(1, 300, 4))
    assert still[..., 4:].std() == pytest.approx(1, abs=0.15)
    long, pole = (drawn("CartPole-v1", 1, half_length=x) for x in (2.0, 0.5))
    for env in (long, pole):
        env.state = {"s": torch.tensor([[[0.0, 0.0, 0.1, 0.0]]])}
        env.step(torch.tensor([[1]]))
    assert long.state["s"][0, 0, 3] > pole.state["s"][0, 0, 3]  # it turns more slowly, leftwards


# ---- lanes that go on, and one generator for each run ----------------------------------------

TENSOR = [name for name in ENVS if isinstance(make_env(name, env_config(name)), TensorTaskEnv)]


def actions(env, shape, seed):
    if env.spec.action_kind == "discrete":
        return torch.randint(env.spec.action_dim, shape, generator=seeded(seed))
    return torch.randn(*shape, env.spec.action_dim, generator=seeded(seed))


@pytest.mark.parametrize("name", TENSOR)
def test_lanes_that_were_left_go_on_to_the_bit(name):
    def play(leave):
        env = make_env(name, env_config(name))
        tasks = env.sample_tasks(3, "train", seeded())
        rng = seeded(1)
        env.reset(tasks, 4, rng)
        seen = []
        for t in range(30):
            if leave and t % 7 == 3:
                standing = {k: v.clone() for k, v in env.leave().items()}
                env = make_env(name, env_config(name))
                env.enter(tasks, standing, rng)
            step = env.step(actions(env, (3, 4), t))
            seen.append(torch.cat([step.obs.float().flatten(), step.reward.flatten()]))
        return torch.stack(seen)

    assert torch.equal(play(False), play(True))


@pytest.mark.parametrize("name", TENSOR)
def test_runs_stepped_together_are_those_stepped_alone(name):
    runs = 3
    env = make_env(name, env_config(name))
    tasks = [env.sample_tasks(2, "train", seeded(10 + i)) for i in range(runs)]
    length = min(3 * env.spec.horizon, 90)
    moves = [[actions(env, (2, 4), 1000 * i + t) for t in range(length)] for i in range(runs)]

    def play(env, tasks, rng, moves):
        first = env.reset(tasks, 4, rng)
        steps = [env.step(move) for move in moves]
        return [first, *(s.obs for s in steps), *(s.reward for s in steps)]

    together = play(
        env, type(tasks[0]).join(tasks), Generators([seeded(i) for i in range(runs)]),
        [torch.cat(some) for some in zip(*moves, strict=True)],
    )  # fmt: skip
    for i in range(runs):
        alone = play(make_env(name, env_config(name)), tasks[i], seeded(i), moves[i])
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one, all_[2 * i : 2 * i + 2], rtol=1e-5, atol=1e-5)
