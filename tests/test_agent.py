"""Precocial as a library: a loop of one's own around any Gymnasium environment."""

import re
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch

import precocial
from precocial.envs import env_config, make_env
from precocial.training import run
from precocial.types import UserError

SMALL = {
    "num_tasks": 3, "episodes_per_task": 3, "hidden": (8,), "eval_every": 0, "iterations": 1,
    "quiet": True,
}  # fmt: skip


def episode(env, learner):
    obs, _ = env.reset()
    total, done = 0.0, False
    while not done:
        obs, reward, terminated, truncated, _ = env.step(learner.act(obs))
        learner.observe(obs, reward, terminated, truncated)
        total, done = total + reward, terminated or truncated
    return total


@pytest.mark.parametrize(
    ("family", "gym_id"),
    [("point-nav", "precocial/PointNav-v0"), ("cart-pole", "precocial/CartPole-v0"),
     ("half-cheetah-dir", "precocial/HalfCheetahDir-v0")],
)  # fmt: skip
def test_act_observe_adapt_in_a_loop_of_ones_own(family, gym_id, tmp_path):
    folder = precocial.train("maml", family, out=tmp_path / "run", env_horizon=20, **SMALL)
    env = gymnasium.make(gym_id, horizon=20)
    learner = precocial.load(folder).learner(num_tasks=1)
    for _ in range(2):
        for _ in range(3):
            episode(env, learner)
        before = learner.inner.params["bias_0"].clone()
        learner.adapt()
        assert not torch.equal(before, learner.inner.params["bias_0"])
    learner.save(tmp_path / "adapted")
    back = precocial.load_agent(folder, tmp_path / "adapted")
    obs, _ = env.reset(seed=1)
    mine, theirs = learner.act(obs, explore=False), back.act(obs, explore=False)
    assert np.array_equal(mine, theirs)
    assert env.action_space.contains(np.asarray(mine, env.action_space.dtype))
    assert back.inner.updates == 2


def test_a_loop_of_ones_own_adapts_like_the_evaluation(tmp_path):
    """The same transitions through ``Agent`` and through ``collect`` give the same parameters."""
    from precocial.rollout import collect
    from precocial.runs.folder import load_algorithm
    from precocial.seeding import generator

    folder = precocial.train("maml", "point-nav", out=tmp_path / "run", env_horizon=20, **SMALL)
    _, env, algorithm, _ = load_algorithm(folder)
    tasks = env.sample_tasks(1, "test", generator(0, "t"))
    inner = algorithm.learner(1, 1, generator(0, "a"))
    rollout = collect(env, tasks, inner, 1, 60, generator(0, "e"))
    inner.adapt()
    agent = precocial.load(folder).learner()
    for t in range(60):
        agent.act(rollout.obs[0, 0, t].numpy())
        agent.raw = rollout.action[:, :, t]
        agent.inner.acted = {
            k: v[:, :, t] for k, v in rollout.extra.items() if not k.startswith("info/")
        }
        agent.observe(
            rollout.next_obs[0, 0, t].numpy(), float(rollout.reward[0, 0, t]),
            bool(rollout.terminated[0, 0, t]), bool(rollout.truncated[0, 0, t]),
        )  # fmt: skip
    agent.adapt()
    for k, v in inner.params.items():
        assert torch.allclose(v, agent.inner.params[k], atol=1e-6)


@pytest.mark.parametrize("axes", [(1, 1), (2, 3)])
def test_nothing_of_the_callers_is_kept(axes, tmp_path):
    folder = precocial.train("maml", "point-nav", out=tmp_path / "run", env_horizon=5, **SMALL)
    learner = precocial.load(folder).learner(*axes)
    shape = () if axes == (1, 1) else axes
    buffers = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    obs, reward, ended = buffers
    for t in range(5):
        obs[...] = 0.1 * t
        learner.act(obs)[...] = 9.0
        obs[...], reward[...], ended[...] = 0.1 * (t + 1), -t, t == 4
        learner.observe(obs, reward, np.zeros(shape, bool), ended)
    obs[...], reward[...], ended[...] = 7, 7, True
    kept, times = learner.inner.take(), torch.arange(5.0)
    assert torch.allclose(kept.obs, (0.1 * times).unsqueeze(-1).expand(*axes, 5, 2))
    assert torch.allclose(kept.next_obs, (0.1 * times + 0.1).unsqueeze(-1).expand(*axes, 5, 2))
    assert torch.equal(kept.reward, -times.expand(*axes, 5))
    assert torch.equal(kept.truncated, (times == 4).expand(*axes, 5))
    assert kept.action.abs().max() < 9


class Dial(gymnasium.Env):
    """A whole number is turned to, and it is rewarded to turn far."""

    action_space = gymnasium.spaces.Box(0, 4, (1,), np.int64)
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    max_episode_steps = 4
    turned: ClassVar[list] = []

    def sample_tasks(self, n):
        return list(self.np_random.uniform(0, 1, n))

    def set_task(self, task):
        self.task = task

    def get_task(self):
        return self.task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.turned.append(int(action[0]))
        return np.zeros(1, np.float32), float(action[0]), False, False, {}

    def reward_fn(self, obs, action, next_obs):
        return action[..., 0]


def test_an_action_is_converted_in_one_way(tmp_path):
    """Training, evaluation, a loop of one's own and a planner's reward take the same one."""
    env = make_env("test_agent:Dial", env_config("test_agent:Dial"))
    raw = torch.linspace(-1.2, 1.2, 25).reshape(25, 1, 1)
    expected = np.clip(np.round((raw.numpy().clip(-1, 1) + 1) * 2), 0, 4).ravel()
    tasks = env.sample_tasks(25, "train", torch.Generator().manual_seed(0))
    env.reset(tasks, 1, torch.Generator().manual_seed(0))
    Dial.turned.clear()
    step = env.step(raw)
    assert Dial.turned == expected.tolist()
    seen = env.spec.reward_fn(step.obs, raw.clamp(-1, 1), step.obs)
    assert torch.equal(seen, step.reward)
    folder = precocial.train("maml", "test_agent:Dial", out=tmp_path / "run", **SMALL)
    learner = precocial.load(folder).learner(25, 1)
    actions = learner.to_env_units(raw)
    assert actions.dtype == np.int64 and actions.ravel().tolist() == expected.tolist()


class Parts(Dial):
    """Sees a dict of a place, a number and a pair."""

    observation_space = gymnasium.spaces.Dict(
        {
            "place": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
            "kind": gymnasium.spaces.Discrete(3),
            "pair": gymnasium.spaces.Tuple(2 * (gymnasium.spaces.Box(-1, 1, (), np.float32),)),
        }
    )

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return {"place": np.zeros(2, np.float32), "kind": 0, "pair": (obs[0], obs[0])}, info

    def step(self, action):
        return self.reset()[0], *super().step(action)[1:]


def test_lanes_of_a_dict_come_as_a_dict_of_arrays(tmp_path):
    folder = precocial.train("maml", "test_agent:Parts", out=tmp_path / "run", **SMALL)
    learner = precocial.load(folder).learner(2, 3)
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    obs = {
        "kind": numbers.astype(int) % 3, "pair": (numbers + 20, numbers + 30),
        "place": np.stack([numbers, numbers + 10], -1),
    }  # fmt: skip
    flat = learner.encode(obs)
    one = precocial.load(folder).learner()
    for n in range(2):
        for e in range(3):
            lane = {
                "kind": obs["kind"][n, e], "pair": tuple(x[n, e] for x in obs["pair"]),
                "place": obs["place"][n, e],
            }  # fmt: skip
            assert torch.equal(flat[n, e], one.encode(lane)[0, 0])
    for wrong, words in (
        ({"kind": obs["kind"]}, r"keys \['kind'\]; expected a dict of arrays"),
        (obs | {"kind": obs["kind"].T}, r"shape \(3, 2\); expected \(2, 3\)"),
        (obs | {"pair": numbers}, "no tuple of 2 arrays"),
    ):
        with pytest.raises(UserError, match=words):
            learner.act(wrong)
    assert learner.act(obs).shape == (2, 3, 1)


def test_guards_leave_the_learner_unharmed(tmp_path):
    folder = precocial.train("maml", "point-nav", out=tmp_path / "run", env_horizon=2, **SMALL)
    learner = precocial.load(folder).learner(2, 3)
    obs, zero, no = np.zeros((2, 3, 2), np.float32), np.zeros((2, 3)), np.zeros((2, 3), bool)
    with pytest.raises(UserError, match="without an act"):
        learner.observe(obs, zero, no, no)
    with pytest.raises(UserError, match=r"shape \(3, 2, 2\); expected \(2, 3, 2\)"):
        learner.act(obs.swapaxes(0, 1))
    with pytest.raises(UserError, match="NaN"):
        learner.act(np.full_like(obs, np.nan))
    learner.act(obs)
    with pytest.raises(UserError, match="twice"):
        learner.act(obs)
    for wrong, words in (
        ((np.full_like(obs, np.inf), zero, no, no), "the observation holds NaN or inf"),
        ((obs, zero * np.nan, no, no), "reward holds NaN"),
        ((obs, zero.T, no, no), r"reward has shape \(3, 2\); expected \(2, 3\)"),
        ((obs, zero, no.T, no), "terminated has shape"),
        ((obs, 0.0, no, no), "reward has shape"),
        ((obs, None, no, no), "reward is a NoneType; expected numbers"),
        ((obs, zero, no, no * np.nan), "truncated holds NaN"),
    ):
        with pytest.raises(UserError, match=words):
            learner.observe(*wrong)
    learner.observe(obs, torch.tensor(zero, requires_grad=True), no, no)
    with pytest.raises(UserError, match="without an act"):
        learner.observe(obs, zero, no, no)
    learner.act(obs)
    learner.observe(obs, zero, no, ~no)
    learner.adapt()
    assert all(torch.isfinite(v).all() for v in learner.inner.params.values())
    learner.act(obs, explore=False), learner.act(obs, explore=False)  # its best, as often as wanted


def test_wrong_use_is_explained(tmp_path):
    folder = precocial.train("maml", "point-nav", out=tmp_path / "run", env_horizon=20, **SMALL)
    learner = precocial.load(folder).learner()
    with pytest.raises(UserError, match="shape"):
        learner.act(np.zeros(5))
    with pytest.raises(UserError, match="lanes is 0; expected 1 or more"):
        precocial.load(folder).learner(lanes=0)
    with pytest.raises(UserError, match=r"before any observe"):
        learner.adapt()
    oracle = precocial.train("oracle", "point-nav", out=tmp_path / "o", env_horizon=20, **SMALL)
    with pytest.raises(UserError, match="oracle needs"):
        precocial.load(oracle).learner()
    with pytest.raises(UserError, match="no run folder"):
        precocial.load(tmp_path / "nothing")


def test_the_readme_example_runs(tmp_path, monkeypatch):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    blocks = [b for b in re.findall(r"```python\n(.*?)```", readme, re.S) if "load(" in b]
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    code = blocks[0].replace("iterations=100", "iterations=1, num_tasks=2, quiet=True")
    exec(compile(code, "README.md", "exec"), {})


TRIAL = {
    "num_tasks": 6, "minibatches": 1, "outer_epochs": 1, "eval_every": 0, "iterations": 1,
    "quiet": True,
}  # fmt: skip


@pytest.mark.parametrize("memory", ["gru", "transformer"])
def test_a_memory_learns_in_a_loop_of_ones_own_without_adapt(memory, tmp_path):
    folder = precocial.train("rl2", "grid-world", out=tmp_path / "run", memory=memory, **TRIAL)
    env = gymnasium.make("precocial/GridWorld-v0", task_seed=3)
    learner = precocial.load(folder).learner()
    for _ in range(3):
        episode(env, learner)
    learner.save(tmp_path / "half-way")
    back = precocial.load_agent(folder, tmp_path / "half-way")
    obs, _ = env.reset(seed=1)
    learner.act(obs), back.act(obs)
    assert torch.equal(learner.inner.acted["logits"], back.inner.acted["logits"])
    fresh = precocial.load(folder).learner()
    fresh.act(obs)
    assert not torch.equal(fresh.inner.acted["logits"], back.inner.acted["logits"])


def test_a_saved_planner_goes_on_with_its_own_model_though_the_run_trained_on(tmp_path):
    small = {"hidden": (8,), "model_updates": 2, "candidates": 4, "num_tasks": 2, "quiet": True}
    small |= {"iterations": 1, "eval_every": 0, "env_horizon": 40}
    folder = precocial.train("grbal", "hidden-gain", out=tmp_path / "run", **small)
    env = gymnasium.make("precocial/HiddenGain-v0", horizon=20)
    learner = precocial.load(folder, "best").learner()
    episode(env, learner)
    learner.save(tmp_path / "half-way")
    run(folder, 2, quiet=True)
    back, other = precocial.load_agent(folder, tmp_path / "half-way"), precocial.load(folder)
    at = torch.zeros(1, 1, 3), torch.ones(1, 1, 1)
    expected = learner.inner.adapter.predict(*at)
    assert torch.equal(back.inner.adapter.predict(*at), expected)
    assert not torch.equal(other.learner().inner.adapter.predict(*at), expected)


def test_trials_are_scored_beside_known_methods_and_robust_policies(tmp_path):
    trial = precocial.train("rl2", "bandit", out=tmp_path / "rl2", **TRIAL)
    robust = precocial.train("domain-randomization", "bandit", out=tmp_path / "dr", **TRIAL)
    small = {"num_tasks": 4, "episodes_per_task": 2, "eval_every": 0, "iterations": 1}
    joint = precocial.train("multi-task", "bandit", out=tmp_path / "joint", quiet=True, **small)
    result = precocial.evaluate(trial, tasks=50, references=[robust, joint], keep=False)
    assert result["stage_unit"] == "episode"
    names = {"random", "greedy", "UCB1", "Thompson", "Gittins", "best arm"}
    assert names | {"domain-randomization", "multi-task"} == set(result["reference_curves"])
    curve = [s["return_mean"] for s in result["reference_curves"]["multi-task"]]
    assert len(curve) == 10 and len(set(curve)) == 1  # no stage of its own kind: flat
    total = sum(s["return_mean"] for s in result["reference_curves"]["Gittins"])
    assert abs(total - result["references"]["Gittins"]) < 1e-9
    total = sum(s["return_mean"] for s in result["stages"])
    assert abs(total - result["trial_return_mean"]) < 1e-9
    longer = precocial.evaluate(trial, tasks=5, episodes=12, keep=False)
    assert len(longer["stages"]) == 12 and "trial_return_mean" not in longer


def test_updates_and_episodes_never_share_a_table(tmp_path):
    trial = precocial.train("rl2", "cart-pole", out=tmp_path / "rl2", env_horizon=10, **TRIAL)
    maml = precocial.train("maml", "cart-pole", out=tmp_path / "maml", env_horizon=10, **SMALL)
    with pytest.raises(UserError, match="never share"):
        precocial.evaluate(trial, tasks=2, references=[maml], keep=False)


def test_a_learner_of_another_run_is_refused(tmp_path):
    short = {"iterations": 1, "eval_every": 0, "quiet": True, "num_tasks": 4}
    runs = {
        algo: precocial.train(algo, env, out=tmp_path / algo, **short)
        for algo, env in (("maml", "point-nav"), ("rl2", "bandit"))
    }
    for own, other in (("maml", "rl2"), ("rl2", "maml")):
        precocial.load(runs[other]).learner().save(tmp_path / "adapted")
        with pytest.raises(UserError, match=f"adapted holds no learner of {own} on"):
            precocial.load_agent(runs[own], tmp_path / "adapted")
    with pytest.raises(UserError, match="holds no learner of rl2 on bandit; expected what"):
        precocial.load_agent(runs["rl2"], runs["rl2"] / "checkpoint" / "last.safetensors")
