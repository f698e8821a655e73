"""A user's own environment: the adapter, its workers, and the way back to Gymnasium."""

import dataclasses
import datetime
import functools
import os
import random
import threading
import time
import warnings
from collections import namedtuple
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from precocial.envs import ENVS
from precocial.envs.base import GymConfig
from precocial.envs.own import adapter
from precocial.envs.own.adapter import EnvError, GymTaskEnv, equal, numbers, resolve
from precocial.envs.own.workers import Copies, Seat
from precocial.envs.registration import gym_id, register_all
from precocial.envs.single import TaskGymEnv
from precocial.types import UserError

HERE = Path(__file__).name


class Line(gymnasium.Env):
    """Walk on a line: the hidden task is a gain. Ends beyond 1; every part can be overridden."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    max_episode_steps = 7

    def __init__(self):
        self.gain = 1.0

    def sample_tasks(self, n):
        return list(self.np_random.uniform(-1, 1, n))

    def set_task(self, task):
        self.gain = task

    def get_task(self):
        return self.gain

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(0, 0.1), 0
        return self.obs(), {}

    def obs(self):
        return np.array([self.x, self.t], np.float32)

    def push(self, action):
        return float(action[0])

    def step(self, action):
        self.t += 1
        self.x += 0.3 * self.gain * self.push(action) + self.np_random.normal(0, 0.01)
        return self.obs(), -abs(self.x), abs(self.x) > 1, False, {}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def started(factory, n=2, lanes=2, **fields):
    env = GymTaskEnv(factory, GymConfig(**fields))
    return env, env.reset(env.sample_tasks(n, "train", rng()), lanes, rng(1))


def ones(env):
    if env.spec.action_kind == "discrete":
        return torch.ones(env.lanes, dtype=torch.long)
    return torch.ones(*env.lanes, env.spec.action_dim)


# ---- observations and actions --------------------------------------------------------------


class Discrete(Line):
    observation_space = spaces.Discrete(4, start=2)
    action_space = spaces.Discrete(3, start=-1)

    def obs(self):
        return 2 + self.t % 4

    def push(self, action):
        assert action in (-1, 0, 1)
        return float(action)


class MultiDiscrete(Line):
    observation_space = spaces.MultiDiscrete([2, 8])

    def obs(self):
        return np.array([self.x > 0, self.t])


class Nested(Line):
    observation_space = spaces.Dict(
        {
            "where": spaces.Box(-9, 9, (2, 2), np.float64),
            "when": spaces.Tuple([spaces.Discrete(8), spaces.MultiBinary(3)]),
        }
    )

    def obs(self):
        bits = np.array([1, 0, 1], np.int8)
        return {"where": np.full((2, 2), self.x), "when": (self.t, bits)}


class Pixels(Line):
    observation_space = spaces.Box(0, 255, (4, 3, 1), np.uint8)

    def obs(self):
        return np.full((4, 3, 1), self.t, np.uint8)


@pytest.mark.parametrize(
    ("cls", "size"), [(Line, 2), (Discrete, 4), (MultiDiscrete, 10), (Nested, 15), (Pixels, 12)]
)
def test_observations_of_every_kind_are_flattened(cls, size):
    env, obs = started(cls)
    assert obs.shape == (2, 2, size)
    assert obs.dtype == torch.float32
    step = env.step(ones(env))
    assert step.next_obs.shape == (2, 2, size)
    reference = cls()
    reference.reset(seed=3)
    flat = env.encode(reference.obs())
    expected = spaces.flatten(cls.observation_space, reference.obs()).astype(np.float32)
    np.testing.assert_array_equal(flat, expected)


def test_discrete_actions_count_from_the_spaces_start():
    env, _ = started(Discrete)
    assert env.spec.action_kind == "discrete"
    assert env.spec.action_dim == 3
    assert env.to_env_units(torch.tensor([[0, 1], [2, 0]])).tolist() == [-1, 0, 1, -1]


class Motor(Line):
    action_space = spaces.Box(np.array([-2, 0], np.float32), np.array([4, 1], np.float32))


def test_the_policys_unit_spans_the_bounds():
    env, _ = started(Motor)
    raw = torch.tensor([[[-1.0, 1.0], [0.0, 0.0]], [[0.5, -9.0], [7.0, -1.0]]])
    # low + (raw + 1) / 2 * (high - low), clipped: 0 -> 1 and 0.5; 0.5 -> -2 + 0.75 * 6 = 2.5
    assert env.to_env_units(raw).tolist() == [[-2, 1], [1, 0.5], [2.5, 0], [4, 0]]
    assert env.to_env_units(raw).dtype == np.float32


class Listed(Line):
    observation_space = spaces.Sequence(spaces.Discrete(2))


class Unbounded(Line):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class BitActions(Line):
    action_space = spaces.MultiBinary(3)


class Tensors(Line):
    """Observes and rewards in tensors that a gradient could go through."""

    def obs(self):
        return torch.tensor([self.x, self.t], requires_grad=True)

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, obs[0] * reward, *rest


def test_tensors_with_a_graph_are_observations_like_others():
    def numbers(cls):
        env, obs = started(cls)
        with torch.enable_grad():
            step = env.step(ones(env))
        return obs, step.next_obs

    assert all(map(torch.equal, numbers(Tensors), numbers(Line)))
    obs = torch.ones(2, requires_grad=True)
    assert GymTaskEnv(Tensors).encode(obs).tolist() == [1, 1]


class Changes(Line):
    """Changes whatever array it is given."""

    def step(self, action):
        action *= 0.5
        return super().step(action)

    def reward_fn(self, obs, action, next_obs):
        obs.zero_(), action.zero_(), next_obs.zero_()
        return obs[..., 0]


def test_arrays_of_ours_are_handed_over_as_copies():
    copies, actions = Copies(Changes, 7), np.ones((1, 1), np.float32)
    copies.reset([Seat(1.0, 0, 0, 0)])
    copies.step(actions)
    assert actions == 1
    seen = torch.ones(3, 2), torch.ones(3, 1), torch.ones(3, 2)
    GymTaskEnv(Changes).spec.reward_fn(*seen)
    assert all((x == 1).all() for x in seen)


def test_spaces_that_cannot_be_used_are_refused():
    with pytest.raises(UserError, match="does not flatten to a vector"):
        GymTaskEnv(Listed)
    with pytest.raises(UserError, match=r"unbounded actions.*finite bounds"):
        GymTaskEnv(Unbounded)
    with pytest.raises(UserError, match="expected a Box or Discrete space"):
        GymTaskEnv(BitActions)


# ---- episodes ------------------------------------------------------------------------------


def test_early_ends_and_time_limits_are_told_apart():
    env, _ = started(Line, n=4, lanes=3)
    clock = torch.zeros(4, 3)
    seen = torch.zeros(2)
    for _ in range(30):
        step = env.step(ones(env))
        clock += 1
        assert torch.equal(step.terminated, step.next_obs[..., 0].abs() > 1)
        assert torch.equal(step.truncated, (clock == 7) & ~step.terminated)
        assert torch.equal(step.next_obs[..., 1], clock)  # the true successor
        ended = step.terminated | step.truncated
        clock[ended] = 0
        assert torch.equal(step.obs[..., 1], clock)  # restarted in place
        assert torch.equal(step.obs[~ended], step.next_obs[~ended])
        seen += torch.stack([step.terminated.any(), step.truncated.any()])
    assert (seen > 0).all()
    assert env.steps_taken == 30 * 12


class Unlimited(Line):
    max_episode_steps = None


def limited():
    return gymnasium.wrappers.TimeLimit(Unlimited(), 5)


def test_the_horizon_comes_from_the_environment_or_the_user(monkeypatch):
    monkeypatch.setattr(adapter, "_PROBE_STEPS", 50)
    assert GymTaskEnv(limited).spec.horizon == 5
    assert GymTaskEnv(limited, GymConfig(horizon=3)).spec.horizon == 3
    assert GymTaskEnv(Unlimited, GymConfig(horizon=9)).spec.horizon == 9
    with pytest.raises(UserError, match=r"and playing it shows none; .*--env-horizon"):
        GymTaskEnv(Unlimited)
    with pytest.raises(UserError, match="--env-horizon is 6, but Unlimited ends its episodes at 5"):
        GymTaskEnv(limited, GymConfig(horizon=6))


class SelfTruncating(Unlimited):
    """Ends by its own clock, as most do, and names it nowhere."""

    clock = 9

    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, self.t >= self.clock, info


def test_a_time_limit_that_is_named_nowhere_is_found_by_playing(capsys, monkeypatch):
    monkeypatch.setattr(adapter, "_PROBE_STEPS", 100)
    env = GymTaskEnv(SelfTruncating)
    assert env.spec.horizon == env.cfg.horizon == 9
    told = "precocial: SelfTruncating names no time limit; it truncates its episodes after 9 steps"
    assert capsys.readouterr().err.startswith(told)
    assert GymTaskEnv(SelfTruncating, env.cfg).spec.horizon == 9
    assert not capsys.readouterr().err
    # Neither a clock that differs, nor an end that is no clock, nor one far away is a time limit.
    varying = property(lambda env: 5 + int(env.np_random.integers(4)))
    for clock in (varying, 10**9):
        with pytest.raises(UserError, match="playing it shows none"):
            GymTaskEnv(type("Other", (SelfTruncating,), {"clock": clock}))


class Successful(Line):
    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {"is_success": self.t > 2}


def test_success_reaches_info():
    env, _ = started(Successful)
    assert [env.step(0 * ones(env)).info["success"].mean().item() for _ in range(4)] == [0, 0, 1, 1]
    env, _ = started(Line)
    assert env.step(ones(env)).info == {}


# ---- randomness ----------------------------------------------------------------------------


def play(env, steps=20, n=3, lanes=2, seed=1):
    tasks = env.sample_tasks(n, "train", rng())
    seen, noise = [env.reset(tasks, lanes, rng(seed))], rng(2)
    for _ in range(steps):
        step = env.step(torch.randn(n, lanes, env.spec.action_dim, generator=noise))
        seen += [*step[:5]]
    return seen


def identical(a, b):
    return all(map(torch.equal, a, b))


def test_the_same_generator_gives_the_same_rollout_to_the_bit():
    env = GymTaskEnv(Line)
    first = play(env)
    assert identical(first, play(env)), "state outlived a reset"
    assert identical(first, play(GymTaskEnv(Line)))
    assert not identical(first, play(env, seed=5))
    lanes = first[0].flatten(0, 1)
    assert len(lanes[:, 0].unique()) == 6, "lanes share a seed"


class OldStyle(Line):
    """Draws from the global generators, as many do."""

    def sample_tasks(self, n):
        return [random.uniform(-1, 1) + np.random.uniform(-1, 1) for _ in range(n)]  # noqa: NPY002

    def step(self, action):
        self.x += np.random.normal(0, 0.1) + random.gauss(0, 0.1)  # noqa: NPY002
        return super().step(action)


def test_global_generators_are_the_environments_own_and_left_alone_for_everyone_else():
    env, other = GymTaskEnv(OldStyle), GymTaskEnv(OldStyle)
    first = play(env)
    play(other, steps=3)  # its streams stand elsewhere now
    random.random()
    np.random.rand()  # noqa: NPY002
    assert identical(first, play(other))
    # Only numpy's: beartype, which is on in tests, draws from `random` itself.
    before = np.random.get_state()  # noqa: NPY002
    play(env)
    assert repr(before) == repr(np.random.get_state())  # noqa: NPY002


# ---- tasks ---------------------------------------------------------------------------------

Terrain = namedtuple("Terrain", "name height")


class Blob:
    """A task that is no number."""

    def __init__(self, gain):
        self.gain = gain


class Opaque(Line):
    def sample_tasks(self, n):
        return [Blob(g) for g in self.np_random.uniform(-1, 1, n)]

    def set_task(self, task):
        self.gain = task.gain if isinstance(task, Blob) else task


def gains(env, tasks):
    return [t.gain for t in env.table.look_up(tasks.id)]


def test_opaque_tasks_are_redrawn_from_seeds_and_the_table_is_bounded():
    env, resumed = GymTaskEnv(Opaque), GymTaskEnv(Opaque)
    resumed.sample_tasks(7, "valid", rng(9))
    resumed.reset(resumed.sample_tasks(2, "train", rng(8)), 2, rng(8))
    tasks, again = (e.sample_tasks(5, "train", rng(3)) for e in (env, resumed))
    assert torch.equal(tasks.id, again.id)
    assert gains(env, tasks) == gains(resumed, again)
    assert gains(env, tasks.select(slice(2, 4))) == gains(env, tasks)[2:4]
    others = [env.sample_tasks(5, split, rng(3)) for split in ("valid", "test", "shifted")]
    drawn = {g for t in [tasks, *others] for g in gains(env, t)}
    assert len(drawn) == 20, "splits share tasks"
    for seed in range(40):
        env.sample_tasks(2, "train", rng(seed + 10))
    assert len(env.table.draws) <= 32
    with pytest.raises(UserError, match="sample the tasks again"):
        env.reset(tasks, 1, rng())
    with pytest.raises(UserError, match="oracle needs numbers"):
        env.task_features(env.sample_tasks(2, "train", rng()))
    assert env.spec.task_dim == 0


def test_a_fixed_pool_is_the_same_for_every_seed():
    env = GymTaskEnv(Opaque, GymConfig(train_tasks=3))
    ids = {i for s in range(5) for i in env.sample_tasks(8, "train", rng(s)).id.tolist()}
    assert ids == {0, 1, 2}
    assert env.sample_tasks(1, "test", rng()).id.item() > 3
    other = GymTaskEnv(Opaque, GymConfig(train_tasks=3))
    fixed = torch.arange(3)
    assert [t.gain for t in env.table.look_up(fixed)] == [
        t.gain for t in other.table.look_up(fixed)
    ]


class TwoWays(Line):
    tasks = (-1.0, 1.0)


class Counted(Line):
    num_tasks = 3

    def sample_tasks(self, n):
        return [float(x) for x in self.np_random.choice([-1, 0, 1], n)]


def test_finite_families_repeat_no_task_before_all_have_come():
    env = GymTaskEnv(TwoWays)
    assert env.spec.num_tasks == 2
    for seed in range(5):
        assert sorted(env.sample_tasks(4, "test", rng(seed)).id.tolist()) == [0, 0, 1, 1]
    assert env.task_features(env.sample_tasks(2, "train", rng())).sum(0).tolist() == [1, 1]
    env = GymTaskEnv(Counted)
    assert sorted(env.source.finite) == [-1, 0, 1]


class Numbered(Line):
    num_tasks = np.int64(3)

    def sample_tasks(self, n):
        return list(self.np_random.choice([-1.0, 0.0, 1.0], n))


@pytest.mark.parametrize(
    "tasks", [np.array([-1.0, 0.0, 1.0]), range(-1, 2), torch.tensor([-1.0, 0.0, 1.0])]
)
def test_a_finite_family_is_any_sequence_or_any_whole_number(tasks):
    for env in (GymTaskEnv(type("Given", (Line,), {"tasks": tasks})), GymTaskEnv(Numbered)):
        assert env.spec.num_tasks == 3
        assert sorted(map(float, env.source.finite)) == [-1, 0, 1]
    text = GymTaskEnv(type("Text", (Line,), {"tasks": "three"}))
    assert text.spec.num_tasks is None


class SplitAware(Line):
    def sample_tasks(self, n, split="train"):
        low = {"train": 0, "valid": 1, "test": 2, "shifted": 3}[split]
        return list(self.np_random.uniform(low, low + 1, n))


def test_a_split_keyword_is_given():
    env = GymTaskEnv(SplitAware)
    for low, split in enumerate(("train", "valid", "test", "shifted")):
        values = env.table.look_up(env.sample_tasks(9, split, rng()).id)
        assert all(low <= v <= low + 1 for v in values)


def test_a_plain_gymnasium_environment_is_one_task():
    source = resolve("CartPole-v1")
    env = GymTaskEnv(source.factory, GymConfig(), source.name)
    assert env.spec.num_tasks == 1
    assert env.spec.horizon == 500
    obs = env.reset(env.sample_tasks(3, "train", rng()), 2, rng())
    assert obs.shape == (3, 2, 4)


def test_tasks_compare_by_value_and_flatten_to_numbers():
    assert numbers({"b": np.ones(2), "a": [True, 3]}) == [1, 3, 1, 1]
    assert numbers(Terrain("hill", 2.0)) is None
    assert numbers("hill") is None
    assert equal({"a": np.ones(2)}, {"a": np.ones(2)})
    assert not equal({"a": np.ones(2)}, {"a": np.zeros(2)})
    assert equal(Blob(1.0), Blob(1.0))
    assert not equal(Blob(1.0), Blob(2.0))
    assert not equal(Blob(1.0), 1.0)


@dataclasses.dataclass
class Course:
    """``==`` raises for it: it would ask whether an array is true."""

    gates: np.ndarray
    wind: float = float("nan")


@dataclasses.dataclass(frozen=True, slots=True)
class Leg:
    course: Course


def test_tasks_that_compare_oddly():
    fields = [("x", float), ("y", float)]
    for same in (
        lambda: float("nan"),
        lambda: np.array([1.0, np.nan]),
        lambda: torch.tensor([1.0, float("nan")]),
        lambda: {"mass": [np.nan, 1.0]},
        lambda: Course(np.arange(3)),
        lambda: Leg(Course(np.arange(3))),
        lambda: np.array([np.arange(2), None], object),
        lambda: np.array([(1.0, np.nan)], fields)[0],
        lambda: functools.partial(int, base=3),
        lambda: Blob(np.arange(2)),
        lambda: datetime.date(2020, 1, 1),
    ):
        assert equal(same(), same()), same()
    for one, other in (
        (float("nan"), 1.0),
        (np.array([1.0, np.nan]), np.array([2.0, np.nan])),
        (Course(np.arange(3)), Course(np.arange(4))),
        (Leg(Course(np.arange(3))), Leg(Course(np.zeros(3)))),
        (np.array([(1.0, np.nan)], fields)[0], np.array([(2.0, np.nan)], fields)[0]),
        (functools.partial(int, base=3), functools.partial(int, base=4)),
        (lambda: 0, lambda: 1),
        (datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)),
        ("hill", 1.0),
    ):
        assert not equal(one, other), (one, other)


def test_task_features_are_standardised():
    env = GymTaskEnv(Line)
    features = env.task_features(env.sample_tasks(200, "test", rng()))
    assert features.shape == (200, env.spec.task_dim) == (200, 1)
    assert abs(features.mean()) < 0.3
    assert 0.8 < features.std() < 1.2


class Wanders(Line):
    """Changes the very object that it was given as its task."""

    def sample_tasks(self, n):
        return list(self.np_random.uniform(-1, 1, (n, 1)))

    def set_task(self, task):
        self.task = task

    def step(self, action):
        self.task += 0.05
        self.gain = self.task.item()
        return super().step(action)


def test_every_lane_has_its_own_copy_of_the_task():
    env = GymTaskEnv(Wanders)
    tasks = env.sample_tasks(2, "train", rng())
    before = [task.item() for task in env.table.look_up(tasks.id)]
    obs = env.reset(tasks, 8, rng(1))
    moved = (env.step(torch.ones(2, 8, 1)).next_obs - obs)[..., 0]
    # Every lane moves by 0.3 (task + 0.05) and noise of 0.01; with one task object for eight lanes
    # the last would move by 0.3 (task + 0.4), 0.105 more.
    expected = 0.3 * (torch.tensor(before) + 0.05)
    torch.testing.assert_close(moved, expected[:, None].expand(2, 8), atol=0.05, rtol=0)
    assert [task.item() for task in env.table.look_up(tasks.id)] == before


class Locked(Line):
    def sample_tasks(self, n):
        return [threading.Lock() for _ in range(n)]


def test_a_task_that_cannot_be_copied_is_refused():
    with pytest.raises(EnvError, match=r"a task cannot be copied.*lock.*plain data"):
        GymTaskEnv(Locked)


class FollowsTask(Line):
    """Bounds of the actions that follow the task."""

    def set_task(self, task):
        self.gain = task
        self.action_space = spaces.Box(-2, 2, (1,), np.float32)


class InPlace(Line):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def set_task(self, task):
        self.gain = task
        self.action_space.high[:] = 2


class LongerObs(Line):
    def set_task(self, task):
        self.gain = task
        self.observation_space = spaces.Box(-9, 9, (3,), np.float32)


class WiderObs(Line):
    """Bounds of observations do not matter."""

    def set_task(self, task):
        self.gain = task
        self.observation_space = spaces.Box(-9, 9, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)


def test_spaces_that_follow_the_task_are_refused():
    for cls in (FollowsTask, InPlace):
        with pytest.raises(
            EnvError, match=r"action_space is Box\(-.*was Box\(-1\.0, 1\.0.*task"
        ) as e:
            started(cls)
        assert e.value.code == "action-space"
    with pytest.raises(EnvError, match=r"observation_space is .*\(3,\).*was .*\(2,\)") as e:
        started(LongerObs)
    assert e.value.code == "observation-space"
    env, obs = started(WiderObs)
    env.switch(env.sample_tasks(2, "test", rng(3)))
    assert env.step(ones(env)).next_obs.shape == obs.shape


def test_switch_changes_the_world_and_keeps_the_state():
    env, obs = started(TwoWays, n=1, lanes=1)
    ids = env.sample_tasks(2, "train", rng())
    for i in range(2):
        env.switch(ids.select(slice(i, i + 1)))
        step = env.step(ones(env))
        gain = TwoWays.tasks[ids.id[i]]
        assert abs(step.obs[0, 0, 0] - obs[0, 0, 0] - 0.3 * gain) < 0.1
        obs = step.obs


# ---- when things go wrong ------------------------------------------------------------------


class Broken(Line):
    """Goes wrong at its third step, in the way ``fault`` says, with gain > 0 only."""

    fault = ""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.t < 3 or self.gain < 0:
            return obs, reward, terminated, truncated, info
        match self.fault:
            case "raise":
                raise ZeroDivisionError("mass is\nzero")
            case "nan":
                obs[1] = np.nan
            case "inf":
                reward = np.inf
            case "shape":
                obs = obs[:1]
            case "ragged":
                obs = [[1.0, 2.0], [3.0]]
            case "dtype":
                obs = obs.astype(str)
            case "reward":
                reward = np.ones(1)
            case "none":
                reward = None
            case "flag":
                terminated = 0
            case "tuple":
                return obs, reward, terminated, info
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("raise", "raises", rf"ZeroDivisionError: mass is zero \(.*{HERE}:\d+\)"),
        ("nan", "not-finite", "the observation is nan at index 1"),
        ("inf", "not-finite", "the reward is inf"),
        ("shape", "shape", r"shape \(1,\); its space says \(2,\)"),
        ("ragged", "shape", r"is no array; its space says \(2,\)"),
        ("dtype", "dtype", "dtype <U32; its space says float32"),
        ("reward", "reward", r"the reward has shape \(1,\); expected one number"),
        ("none", "reward", "the reward is None; expected a number"),
        ("flag", "flags", "terminated is 0; expected True or False"),
        ("tuple", "contract", "did not return the 5-tuple"),
    ],
)
def test_faults_name_what_where_and_when(fault, code, message):
    cls = type("Faulty", (Broken,), {"fault": fault, "tasks": [-1.0, 1.0]})
    env = GymTaskEnv(cls)
    tasks = env.sample_tasks(2, "train", rng())
    row = tasks.id.tolist().index(1)
    env.reset(tasks, 2, rng(1))
    env.step(0 * ones(env))
    env.step(0 * ones(env))
    where = rf", task 1.0, step 3 of the episode, lane 0 of task number {row}$"
    with pytest.raises(EnvError, match=message + ".*" + where) as caught:
        env.step(0 * ones(env))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert ("Traceback" in caught.value.trace) == (fault == "raise")
    assert env.reset(tasks, 2, rng(1)).isfinite().all(), "unusable after a fault"


class FailsToReset(Line):
    def reset(self, *, seed=None, options=None):
        raise OSError("no licence")


class FailsToDraw(Line):
    def sample_tasks(self, n):
        return []


def test_faults_before_the_first_step():
    with pytest.raises(EnvError, match=r"OSError: no licence .*, while drawing 2 train tasks"):
        started(FailsToReset)
    with pytest.raises(EnvError, match=r"OSError: no licence .*, task \S+, at reset, lane 0 of"):
        started(type("Listed", (FailsToReset,), {"tasks": [-1.0, 1.0]}))
    with pytest.raises(EnvError, match=r"sample_tasks\(1\) gave 0 tasks"):
        GymTaskEnv(FailsToDraw)
    with pytest.raises(EnvError, match=r"got a dict; expected a gymnasium\.Env"):
        GymTaskEnv(dict)


@pytest.mark.parametrize(
    ("field", "value"), [("horizon", -1), ("workers", -2), ("step_timeout", 0.0)]
)
def test_settings_without_a_meaning_are_refused(field, value):
    with pytest.raises(UserError, match=str(value)):
        GymConfig(**{field: value})


# ---- names ---------------------------------------------------------------------------------


def test_names_resolve_or_the_nearest_are_named(tmp_path, monkeypatch):
    (tmp_path / "my_home_made.py").write_text("import gymnasium\nclass Mine(gymnasium.Env): pass\n")
    (tmp_path / "my_broken.py").write_text("x = 1\nx.nothing\n")
    (tmp_path / "my_typo.py").write_text("x = = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve("my_home_made:Mine").factory.__name__ == "Mine"
    for given, message in {
        "my_home_made:Mime": "did you mean Mine",
        "my_homemade:Mine": "no module named 'my_homemade'.*did you mean my_home_made",
        "my_home_made:gymnasium": "is a module; expected",
        "CartPole-v7": "did you mean CartPole-v[01]",
        "point-naw": "did you mean point-nav",
        ":Mine": "names no module",
    }.items():
        with pytest.raises(UserError, match=message):
            resolve(given)
    with pytest.raises(EnvError, match=r"AttributeError: .* \(my_broken.py:2\)"):
        resolve("my_broken:Mine")
    with pytest.raises(EnvError, match=r"SyntaxError: .*\(my_typo.py:1\)"):
        resolve("my_typo:Mine")


# ---- pictures ------------------------------------------------------------------------------


class Drawn(Line):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.full((4, 5, 3), self.t, np.uint8)


class Handing(Drawn):
    def __init__(self, size=3, **kwargs):  # as MiniGrid's have it
        super().__init__(**kwargs)


class Elsewhere(Drawn):
    def __init__(self, **config):
        super().__init__()
        if config:
            raise ValueError(f"no setting {config}")


def test_what_it_hands_on_may_end_elsewhere():
    env, _ = started(Elsewhere)
    with pytest.raises(UserError, match="Elsewhere cannot draw itself"):
        env.render(0, 0)


@pytest.mark.parametrize("cls", [Drawn, Handing])
def test_pictures(cls, monkeypatch):
    env, _ = started(cls)
    env.step(ones(env))
    assert env.render(1, 0).shape == (4, 5, 3)
    assert env.render(1, 0).max() == 1
    monkeypatch.setattr(cls, "render", lambda self: np.full((4, 5), self.t / 2))  # grey, 0 to 1
    assert env.render(1, 0).shape == (4, 5, 3) and env.render(1, 0).max() == 128
    env, _ = started(Line)
    with pytest.raises(UserError, match="Line cannot draw itself; list 'rgb_array'"):
        env.render(0, 0)


class Bare(gymnasium.Env):
    """What a wrapper of the user's is put around: no task, no limit."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space, action_space = Line.observation_space, Line.action_space

    def __init__(self, render_mode=None):
        self.line, self.render_mode = Line(), render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.line.reset(seed=seed)

    def step(self, action):
        return self.line.step(action)

    def render(self):
        return np.full((4, 5, 3), self.line.t, np.uint8)


class Meta(gymnasium.Wrapper):
    """Builds its own environment; all of the contract is on the wrapper."""

    max_episode_steps = 7
    command_dim = np.int64(1)

    def __init__(self, render_mode=None):
        super().__init__(Bare(render_mode))

    def sample_tasks(self, n):
        return list(self.np_random.uniform(-1, 1, n))

    def set_task(self, task):
        self.env.line.gain = task

    def get_task(self):
        return self.env.line.gain

    def reward_fn(self, obs, action, next_obs):
        return -next_obs[..., 0].abs()

    def terminal_fn(self, next_obs):
        return next_obs[..., 0].abs() > 1


def test_the_contract_is_found_on_a_wrapper_that_builds_its_environment():
    env, _ = started(Meta)
    assert (env.spec.horizon, env.spec.command_dim, env.spec.num_tasks) == (7, 1, None)
    assert env.spec.reward_fn is not None
    assert env.spec.terminal_fn is not None
    env.step(ones(env))
    assert env.render(1, 0).shape == (4, 5, 3)
    assert identical(play(env), play(GymTaskEnv(Meta)))
    finite = GymTaskEnv(type("Finite", (Meta,), {"tasks": [-1.0, 1.0]}))
    assert finite.spec.num_tasks == 2
    counted = type("Counting", (Meta,), {"num_tasks": 3, "sample_tasks": Counted.sample_tasks})
    assert GymTaskEnv(counted).spec.num_tasks == 3
    below = GymTaskEnv(lambda: gymnasium.wrappers.OrderEnforcing(TwoWays()))
    assert (below.spec.horizon, below.spec.num_tasks) == (7, 2)


# ---- worker processes ----------------------------------------------------------------------


class Sleeper(Opaque):
    """Hangs or dies at its third step where the gain is positive."""

    tasks = (Blob(-1.0), Blob(1.0))

    def step(self, action):
        if self.t == 2 and self.gain > 0:
            self.fail()
        return super().step(action)

    def fail(self):
        time.sleep(60)


class Dier(Sleeper):
    def fail(self):
        os._exit(3)


def test_workers_give_the_same_numbers_to_the_bit():
    here = GymTaskEnv(Wanders)
    there = GymTaskEnv(Wanders, GymConfig(workers=2))
    assert identical(play(here), play(there))
    assert identical(play(here, n=1, lanes=1), play(there, n=1, lanes=1)), (
        "fewer lanes than workers"
    )
    there.close()
    assert identical(play(here, steps=2), play(there, steps=2)), "reset starts the workers again"
    there.close()


@pytest.mark.parametrize(
    ("cls", "reason"),
    [(Sleeper, r"gave no answer within 1 s \(--step-timeout\)"), (Dier, r"died \(exit code 3\)")],
)
def test_a_worker_that_hangs_or_dies_is_reported(cls, reason):
    env, _ = started(cls, n=2, lanes=1, workers=2, step_timeout=1.0)
    processes = [member.process.pid for member in env.crew.members]
    env.step(0 * ones(env))
    env.step(0 * ones(env))
    before = time.monotonic()
    where = ", task .*Blob object.*, step 3 of the episode, lane 0 of task number"
    with pytest.raises(EnvError, match=reason + ".*" + where):
        env.step(0 * ones(env))
    assert time.monotonic() - before < 20
    env.close()
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Raiser(Broken):
    fault = "raise"
    tasks = (1.0,)


def test_a_workers_exception_arrives_whole():
    env, _ = started(Raiser, n=1, lanes=1, workers=1)
    env.step(0 * ones(env))
    env.step(0 * ones(env))
    with pytest.raises(
        EnvError, match=rf"ZeroDivisionError: mass is zero \(.*{HERE}:\d+\), task"
    ) as e:
        env.step(0 * ones(env))
    assert "Traceback" in e.value.trace
    assert e.value.code == "raises"


def test_an_environment_that_cannot_travel_is_refused():
    with pytest.raises(UserError, match=r"cannot be handed to worker processes.*module:Class"):
        started(lambda: Line(), workers=1)


# ---- the way back --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ENVS if name not in gymnasium.registry])
def test_every_family_is_a_gymnasium_environment(name):
    register_all()
    register_all()
    env = gymnasium.make(gym_id(name))
    with warnings.catch_warnings():
        # These are advice about unbounded observations and other actions than +-1.
        warnings.filterwarnings("ignore", ".*(Box observation space|Box action spaces).*")
        warnings.filterwarnings("ignore", ".*alternative render modes.*")
        gymnasium_check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_a_registered_family_keeps_its_task():
    register_all()
    env = gymnasium.make("precocial/PointNav-v0", horizon=3).unwrapped
    task = env.get_task()
    env.reset(seed=5)
    env.reset()
    assert equal(env.get_task(), task)
    assert equal(gymnasium.make("precocial/PointNav-v0").unwrapped.get_task(), task)
    other = gymnasium.make("precocial/PointNav-v0", task_seed=1).unwrapped
    assert not equal(other.get_task(), task)
    new = env.sample_tasks(2, split="test")[1]
    env.set_task(new)
    env.reset(seed=0)
    for step in range(3):
        obs, reward, terminated, truncated, _ = env.step(np.array([0.05, -0.1], np.float32))
        # Actions are in the family's units, metres per step.
        np.testing.assert_allclose(obs, (step + 1) * np.array([0.05, -0.1]), rtol=1e-5)
        assert reward == pytest.approx(-np.linalg.norm(obs - new["goal"]), rel=1e-5)
    assert truncated
    assert not terminated
    with pytest.raises(UserError, match="no option 'horizn'; did you mean horizon"):
        TaskGymEnv("point-nav", horizn=3)


def test_the_way_there_and_back_is_the_same_family():
    register_all()
    factory = functools.partial(TaskGymEnv, "point-nav", horizon=5)
    env = GymTaskEnv(factory)
    assert env.spec.horizon == 5
    tasks = env.sample_tasks(3, "train", rng())
    obs = env.reset(tasks, 2, rng())
    step = env.step(torch.full((3, 2, 2), 0.5))
    torch.testing.assert_close(step.next_obs, obs + 0.05)
    goals = torch.stack([torch.as_tensor(t["goal"]) for t in env.table.look_up(tasks.id)])
    torch.testing.assert_close(step.reward, -(step.next_obs - goals[:, None]).norm(dim=-1))


class SeenReward(Line):
    """Its reward and end are functions of what can be seen; actions are +-3 newtons."""

    action_space = spaces.Box(-3, 3, (1,), np.float32)
    max_episode_steps = 40

    def reward_fn(self, obs, action, next_obs):
        return -next_obs[..., 0].abs() - 0.1 * action[..., 0].abs()

    def terminal_fn(self, next_obs):
        return next_obs[..., 0].abs() > 1


def test_a_planner_gets_reward_and_end_in_the_environments_units():
    assert GymTaskEnv(Line).spec.reward_fn is None and GymTaskEnv(Line).spec.terminal_fn is None
    env = GymTaskEnv(SeenReward)
    obs, action = torch.zeros(2, 5, 2), torch.full((2, 5, 1), -1.0)
    following = torch.tensor([0.5, 0.0]).expand(2, 5, 2)
    assert torch.allclose(env.spec.reward_fn(obs, action, following), torch.full((2, 5), -0.8))
    assert not env.spec.terminal_fn(following).any()
    assert env.spec.terminal_fn(3 * following).all()


def test_what_is_wrong_with_a_function_for_planners_is_said():
    class Wrong(SeenReward):
        def reward_fn(self, obs, action, next_obs):
            return next_obs[..., :1]

    class Raising(SeenReward):
        def terminal_fn(self, next_obs):
            raise KeyError("height")

    class Floats(SeenReward):
        def terminal_fn(self, next_obs):
            return next_obs[..., 0]

    class Number(SeenReward):
        reward_fn = 3

    class Commands(SeenReward):
        command_dim = 2

    with pytest.raises(
        EnvError, match=r"KeyError: 'height' \(.*test_adapter.py:\d+\), in terminal_fn"
    ):
        GymTaskEnv(Raising).spec.terminal_fn(torch.zeros(3, 2))
    with pytest.raises(EnvError, match=r"terminal_fn gave \(3,\) torch.float32.*torch.bool"):
        GymTaskEnv(Floats).spec.terminal_fn(torch.zeros(3, 2))
    with pytest.raises(EnvError, match="reward_fn is 3"):
        GymTaskEnv(Number)
    with pytest.raises(EnvError, match=r"command_dim is 2; expected a number of columns.*0 to 1"):
        GymTaskEnv(Commands)
    SeenReward.command_dim = 1
    assert GymTaskEnv(SeenReward).spec.command_dim == 1
    del SeenReward.command_dim
    env = GymTaskEnv(Wrong)
    with pytest.raises(EnvError, match=r"Wrong: reward_fn gave \(3, 1\).*expected"):
        env.spec.reward_fn(torch.zeros(3, 2), torch.zeros(3, 1), torch.zeros(3, 2))


def test_a_users_environment_can_be_planned_for():
    from precocial.algos.model.mb_mpc import MBMPC, MBMPCConfig

    env = GymTaskEnv(SeenReward)
    cfg = MBMPCConfig(
        num_tasks=2, hidden=(8,), future=4, model_updates=3, candidates=8, plan_horizon=3
    )
    algorithm = MBMPC(cfg, env.spec, torch.Generator().manual_seed(0))
    for i in range(2):
        rng = torch.Generator().manual_seed(i)
        metrics = algorithm.meta_update(env, env.sample_tasks(2, "train", rng), rng)
    assert np.isfinite(metrics["episode_reward_mean"])
    env.close()
