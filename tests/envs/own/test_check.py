"""Every check of check-env is set off by one bad environment, and by no good one."""

import dataclasses
import random
import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from precocial.envs import ENVS, env_config, make_env
from precocial.envs.base import GymConfig
from precocial.envs.control.point_nav import PointNav, PointNavConfig
from precocial.envs.own import adapter
from precocial.envs.own.adapter import GymTaskEnv
from precocial.envs.own.check import check, check_env, check_task_env
from precocial.envs.own.findings import Pace
from precocial.envs.own.leaks import task_components
from precocial.types import Step, UserError


class Good(gymnasium.Env):
    """Walk to a hidden place on a line; the bad ones below each spoil one thing."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    max_episode_steps = 8

    def __init__(self):
        self.goal = 0.0

    def sample_tasks(self, n):
        return list(self.np_random.uniform(-1, 1, n))

    def set_task(self, task):
        self.goal = task

    def get_task(self):
        return self.goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(0, 0.1), 0
        return self.obs(), {}

    def obs(self):
        return np.array([self.x, 0.0], np.float32)

    def step(self, action):
        self.t += 1
        self.x += 0.3 * float(action[0])
        return self.obs(), -abs(self.x - self.goal), False, False, {}


class EndsEarly(Good):
    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, abs(self.x) > 0.5, False, {}


class OneStep(Good):
    """A bandit: every episode ends after one step, and that is no time limit."""

    max_episode_steps = 1

    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, True, False, {}


class Listed(Good):
    tasks = (-1.0, 0.5)


class OwnClock(Good):
    """Truncates itself, and names no limit."""

    max_episode_steps = None

    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, False, self.t >= 6, {}


@dataclasses.dataclass
class Place:
    goal: np.ndarray
    wind: float = float("nan")


class Odd(Good):
    """Tasks that ``==`` cannot compare, and that are not equal to themselves."""

    def sample_tasks(self, n):
        return [Place(self.np_random.uniform(-1, 1, 1)) for _ in range(n)]

    def step(self, action):
        self.t += 1
        self.x += 0.3 * float(action[0])
        return self.obs(), -abs(self.x - float(self.goal.goal[0])), False, False, {}


class Wrapped(gymnasium.Wrapper):
    """Builds its own environment."""

    def __init__(self):
        super().__init__(OwnClock())


class Dynamic(Good):
    """The task shows in transitions only."""

    def step(self, action):
        self.x += 0.1 * self.goal
        obs, *_ = super().step(action)
        return obs, 0.0, False, False, {}


class FarFromGoal(Good):
    """Starts are drawn again when too near the goal: they depend on it, but hardly tell it."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        while abs(self.x - self.goal) < 0.02:
            self.x = self.np_random.normal(0, 0.5)
        return self.obs(), {}


class NestedBoxes(Good):
    observation_space = spaces.Dict(
        {"x": spaces.Box(-9, 9, (1,), np.float32), "t": spaces.Discrete(9)}
    )
    action_space = spaces.Discrete(2)

    def obs(self):
        return {"x": np.array([self.x], np.float32), "t": self.t}

    def step(self, action):
        return super().step([2.0 * action - 1])


class Graph(Good):
    """Observes and rewards by torch tensors that a gradient could go through."""

    weight = torch.ones(2, requires_grad=True)

    def obs(self):
        return self.weight * torch.tensor([self.x, 0.0])

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, self.weight[0] * reward, *rest


class Large(Good):
    """Numbers far from the order of one, but which do vary."""

    observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)

    def obs(self):
        return np.array([101_325 + 20_000 * self.x, self.t], np.float32)


class Warm(Good):
    """A temperature in degrees Celsius, hardly changing: not so large that a unit is saturated."""

    observation_space = spaces.Box(-99, 99, (2,), np.float32)

    def obs(self):
        return np.array([self.x, 20 + self.x / 10], np.float32)


class Picture(Good):
    """A dark spot on a white ground."""

    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)

    def obs(self):
        picture = np.full((8, 8, 3), 255, np.uint8)
        picture[round(np.clip(4 + 4 * self.x, 0, 7)), 3:5] = 0
        return picture


@pytest.mark.parametrize(
    "cls",
    [
        Good, EndsEarly, OneStep, Listed, OwnClock, Odd, Wrapped, Dynamic, FarFromGoal, NestedBoxes,
        Graph, Large, Warm, Picture,
    ],
)  # fmt: skip
def test_good_environments_raise_no_alarm(cls):
    assert check_env(cls) == []


class GoalInObs(Good):
    def obs(self):
        return np.array([self.x, self.goal], np.float32)


class RelativeGoal(Good):
    def obs(self):
        return np.array([0, self.x - self.goal], np.float32)


class GoalLater(Good):
    """Hides the goal at the reset only."""

    def obs(self):
        return np.array([self.x, self.goal if self.t else 0], np.float32)


class NoEffect(Good):
    def step(self, action):
        return (*super().step(action)[:1], -abs(self.x), False, False, {})


class ForgetsTask(Good):
    def reset(self, *, seed=None, options=None):
        self.goal = 0.0
        return super().reset(seed=seed)


class ChangesTask(Good):
    """Its task is an array, and it is that very array that it changes."""

    def sample_tasks(self, n):
        return list(self.np_random.uniform(-1, 1, (n, 1)))

    def step(self, action):
        self.goal += 0.05
        obs, reward, *rest = super().step(action)
        return obs, float(reward[0]), *rest


class ChangesAtReset(ChangesTask):
    def reset(self, *, seed=None, options=None):
        self.goal += 0.05
        return super().reset(seed=seed)

    def step(self, action):
        obs, reward, *rest = Good.step(self, action)
        return obs, float(reward[0]), *rest


class BoundsFollow(Good):
    def set_task(self, task):
        super().set_task(task)
        self.action_space = spaces.Box(-1 - abs(task), 1 + abs(task), (1,), np.float32)


class SizeFollows(Good):
    def set_task(self, task):
        super().set_task(task)
        self.observation_space = spaces.Box(-9, 9, (3,), np.float32)

    def obs(self):
        return np.zeros(self.observation_space.shape, np.float32)


class OneEpisode(Good):
    """Plays the task that was set in the next episode alone; get_task goes on about it."""

    pending = None

    def set_task(self, task):
        self.pending = self.task = task

    def get_task(self):
        return self.task

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.goal = self.np_random.uniform(-1, 1) if self.pending is None else self.pending
        self.pending = None
        return obs, info


class OneEpisodeOfTwo(OneEpisode):
    tasks = (-1.0, 0.5)

    def sample_tasks(self, n):
        return list(self.np_random.choice(self.tasks, n))

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.goal = min(self.tasks, key=lambda task: abs(task - self.goal))
        return obs, info


class SaysSo(OneEpisode):
    def get_task(self):
        return self.goal if self.pending is None else self.pending


class UnseededSecond(Good):
    def reset(self, *, seed=None, options=None):
        if seed is None:
            self.np_random = np.random.default_rng()
        return super().reset(seed=seed)


class ScalesItsAction(Good):
    def step(self, action):
        action *= 0.5
        return super().step(action)


class Pressure(Good):
    observation_space = spaces.Box(-2e5, 2e5, (2,), np.float32)

    def obs(self):
        return np.array([101_325 + 500 * self.x, self.x], np.float32)


class NoArray:
    def __array__(self, *args, **kwargs):
        raise RuntimeError("on another device")


class Elsewhere(Good):
    def obs(self):
        return NoArray()


class WrongTask(Good):
    def get_task(self):
        return "line"


class SameTasks(Good):
    def sample_tasks(self, n):
        return list(np.linspace(-1, 1, n))


class FixedSeed(Good):
    """Every copy, and so every worker, begins with the same private generator."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def sample_tasks(self, n):
        return list(self.rng.uniform(-1, 1, n))


class Unseeded(FixedSeed):
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng()


class Overlap(Good):
    def sample_tasks(self, n, split="train"):
        return list(self.np_random.integers(0, 50, n) / 25 - 1)


class WrongShape(Good):
    def obs(self):
        return np.zeros(3, np.float32)


class WrongDtype(Good):
    def obs(self):
        return np.array([self.x, 0.0])


class WrongKind(Good):
    observation_space = spaces.Box(0, 255, (2,), np.uint8)


class WrongPart(NestedBoxes):
    def obs(self):
        return {"x": np.array([self.x]), "t": self.t}


class OutOfBounds(Good):
    observation_space = spaces.Box(-0.2, 0.2, (2,), np.float32)


class OutOfRange(NestedBoxes):
    observation_space = spaces.Dict(
        {"x": spaces.Box(-9, 9, (1,), np.float32), "t": spaces.Discrete(3)}
    )


class NotFinite(Good):
    def step(self, action):
        obs, *_ = super().step(action)
        return obs, np.nan if self.t > 4 else self.goal, False, False, {}


class IntFlag(Good):
    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, 0, False, {}


class ArrayReward(Good):
    def step(self, action):
        obs, *_ = super().step(action)
        return obs, np.array([self.x]), False, False, {}


class LimitAsTermination(Good):
    max_episode_steps = 20

    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, self.t >= 6, False, {}


class NoLimit(Good):
    max_episode_steps = None


class IgnoresSeed(Good):
    def reset(self, *, seed=None, options=None):
        super().reset()
        return self.obs(), {}


class LeftOver(Good):
    """Goes on from where the last episode stood."""

    x = 0.0

    def reset(self, *, seed=None, options=None):
        before = self.x
        super().reset(seed=seed)
        self.x += before / 2
        return self.obs(), {}


class TaskOnTheClass(Good):
    shared = {}  # noqa: RUF012

    def set_task(self, task):
        self.shared["goal"] = task

    def get_task(self):
        return self.shared["goal"]

    def step(self, action):
        self.goal = self.shared["goal"]
        return super().step(action)


class GlobalNoise(Good):
    def step(self, action):
        self.x += random.gauss(0, 0.1)
        return super().step(action)


class GlobalNumpyNoise(Good):
    def step(self, action):
        self.x += np.random.normal()  # noqa: NPY002
        return super().step(action)


class Raises(Good):
    def step(self, action):
        return [][0]


class GetTaskRaises(Good):
    def get_task(self):
        raise NotImplementedError


class NoGetTask(Good):
    get_task = None


class Unbounded(Good):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Listed(Good):
    observation_space = spaces.Sequence(spaces.Discrete(2))


@pytest.mark.parametrize(
    ("cls", "code", "word"),
    [
        (GoalInObs, "task-in-observation", "component 1 "),
        (RelativeGoal, "task-in-observation", "first observation"),
        (GoalLater, "task-in-observation", "after the first step"),
        (NoEffect, "task-without-effect", "12 tasks"),
        (ForgetsTask, "get-task", "after reset"),
        (OneEpisode, "task-lost", "second episode"),
        (OneEpisodeOfTwo, "task-lost", "second episode"),
        (SaysSo, "get-task", "after a second reset"),
        (UnseededSecond, "not-reproducible", "second episodes"),
        (ScalesItsAction, "action-changed", r"action \*= 0.1"),
        (Pressure, "observation-size", "component 0 .* 10[01].* --normalize-obs"),
        (Elsewhere, "shape", "NoArray"),
        (WrongTask, "get-task", "gave 'line'"),
        (ChangesTask, "task-changed", r"array\(.*copy.deepcopy"),
        (ChangesAtReset, "task-changed", "reset or step"),
        (BoundsFollow, "action-space", "with this task and was"),
        (SizeFollows, "observation-space", "with this task and was"),
        (SameTasks, "same-tasks", "worker"),
        (FixedSeed, "tasks-not-reproducible", "np_random"),
        (Unseeded, "tasks-not-reproducible", "np_random"),
        (Overlap, "split-overlap", "train and test"),
        (WrongShape, "shape", r"\(3,\); its space says \(2,\)"),
        (WrongDtype, "dtype", "float64"),
        (WrongKind, "dtype", "uint8"),
        (WrongPart, "dtype", r"\['x'\]"),
        (OutOfBounds, "bounds", "widen"),
        (OutOfRange, "bounds", r"\['t'\] is 3"),
        (NotFinite, "not-finite", "reward is nan.*step 5"),
        (IntFlag, "flags", "terminated is 0"),
        (ArrayReward, "reward", r"shape \(1,\)"),
        (LimitAsTermination, "time-limit", "after 6 steps"),
        (NoLimit, "no-time-limit", "--env-horizon"),
        (IgnoresSeed, "not-reproducible", "seed=seed"),
        (LeftOver, "not-reproducible", "left over"),
        (TaskOnTheClass, "shared-state", "class"),
        (GlobalNoise, "global-random", "global random"),
        (GlobalNumpyNoise, "global-random", "global numpy.random"),
        (Raises, "raises", r"IndexError: .* \(.*test_check.py:\d+\), task"),
        (
            GetTaskRaises,
            "raises",
            r"NotImplementedError: \(no message\) \(.*:\d+\), while get_task",
        ),
        (NoGetTask, "contract", "get_task"),
        (Unbounded, "action-space", "finite bounds"),
        (Listed, "observation-space", "flatten"),
    ],
)
def test_every_fault_is_found(cls, code, word, monkeypatch):
    monkeypatch.setattr(adapter, "_PROBE_STEPS", 50)
    problems = check_env(cls)
    found = [p.message for p in problems if p.code == code]
    assert any(re.search(word, message) for message in found), problems
    # One cause, one finding: except where the others follow from it.
    consequences = {
        ForgetsTask: {"task-without-effect"},
        IgnoresSeed: {"tasks-not-reproducible"},
    }
    assert {p.code for p in problems} - consequences.get(cls, set()) == {code}


def test_a_given_horizon_stands_in_for_a_missing_one():
    assert check_env(NoLimit, horizon=8) == []


def test_what_there_was_no_time_for_is_named():
    pace = Pace(0)
    assert check_env(GoalInObs, pace=pace) == []
    assert pace.left_out == ["how tasks are drawn", "get_task", "episodes"]
    pace = Pace()
    assert check_env(Good, pace=pace) == [] and pace.left_out == []


class Clock:
    """A second passes at every look."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1
        return self.now


def tick_at_every_look(monkeypatch):
    clock = Clock()
    for module in ("check", "findings"):
        monkeypatch.setattr(f"precocial.envs.own.{module}.time", clock)


def test_plays_are_shortened_before_checks_are_left_out(monkeypatch):
    tick_at_every_look(monkeypatch)
    lines = []
    pace = Pace(2000, lines.append)
    found = {p.code for p in check_env(GoalInObs, pace=pace)}
    assert found == {"task-in-observation"}
    assert pace.left_out == ["6 of 12 tasks"]
    assert re.fullmatch(r"\d+ s, \d+ resets and steps: get_task", lines[0])
    assert all(b in "\n".join(lines) for b in ("second episodes", "what tasks change"))


def test_the_search_for_a_time_limit_keeps_to_half_of_the_time(monkeypatch):
    clock, lines = Clock(), []
    for module in ("findings", "adapter"):
        monkeypatch.setattr(f"precocial.envs.own.{module}.time", clock)
    pace = Pace(200, lines.append)
    assert [p.code for p in check_env(NoLimit, pace=pace)] == ["no-time-limit"]
    assert any(line.endswith("how long an episode lasts") for line in lines)
    assert "how tasks are drawn" not in pace.left_out and "episodes" in pace.left_out


def test_short_plays_say_nothing_about_the_effect_of_tasks(monkeypatch):
    tick_at_every_look(monkeypatch)
    pace = Pace(2500)
    assert check_env(NoEffect, horizon=100, pace=pace) == []
    assert "what tasks change" in pace.left_out


def test_the_example_raises_no_alarm(monkeypatch):
    monkeypatch.syspath_prepend("examples")
    assert check("own_env:Spring") == []


def test_a_plain_gymnasium_environment_has_nothing_to_adapt_to():
    assert [p.code for p in check("MountainCarContinuous-v0")] == ["contract"] * 3
    with pytest.raises(UserError, match="unknown environment"):
        check("nothing-of-the-kind")


def test_the_criterion_for_a_leak():
    rng = np.random.default_rng(0)
    start = np.broadcast_to(rng.normal(size=(1, 8, 3)), (12, 8, 3)).copy()
    assert task_components(start) == []
    task = rng.normal(size=(12, 1))
    leak = start.copy()
    leak[..., 1] += 0.01 * task  # small beside the start, but the same at every seed
    assert task_components(leak) == [1]
    noise = start.copy()
    noise[..., 2] = rng.normal(size=(12, 8))  # differs between tasks, but does not tell which
    assert task_components(noise) == []
    constant = np.zeros((2, 8, 3))
    constant[1, :, 0] = 1
    assert task_components(constant) == [0]


# ---- families ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENVS)
def test_registered_families_raise_no_alarm(name):
    assert check(name) == []


def test_the_adapter_is_a_family():
    assert check_task_env(GymTaskEnv(Good)) == []
    assert [p.code for p in check_task_env(GymTaskEnv(NoEffect, GymConfig(horizon=5)))] == [
        "task-without-effect"
    ]


class Leaky(PointNav):
    def observation(self, state, tasks):
        return state["position"] + 0 * tasks["goal"] + (state["position"] == 0) * tasks["goal"]


class Blind(PointNav):
    def reward(self, state, action, next_state, tasks, rng):
        return state["position"][..., 0]

    def terminal(self, state, tasks):
        return torch.zeros(self.lanes, dtype=torch.bool)


class OneSplit(PointNav):
    def draw_tasks(self, n, split, rng):
        grid = torch.randint(5, (n, 2), generator=rng) / 10
        return {"goal": grid}


class ForgetfulSuccessor(PointNav):
    def step(self, action):
        return (s := super().step(action))._replace(next_obs=s.obs)


class Doubled(PointNav):
    def step(self, action):
        step = super().step(action)
        return Step(*step[:2], step.reward.double(), *step[3:])


class Loose(PointNav):
    def scale(self, action):
        return action / 1e4


class Late(PointNav):
    def step(self, action):
        step = super().step(action)
        return step._replace(truncated=torch.zeros_like(step.truncated))


class Restless(PointNav):
    def transition(self, state, action, tasks, rng):
        return {"position": state["position"] + action + 0.01 * torch.randn(2)}


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (Leaky, "task-in-observation"),
        (Blind, "task-without-effect"),
        (OneSplit, "split-overlap"),
        (ForgetfulSuccessor, "next-obs"),
        (Doubled, "shape"),
        (Loose, "action-bounds"),
        (Late, "time-limit"),
        (Restless, "not-reproducible"),
    ],
)
def test_faults_of_families_are_found(cls, code):
    assert code in {p.code for p in check_task_env(cls(PointNavConfig(horizon=20)))}


def test_make_env_builds_the_adapter():
    env = make_env("CartPole-v1", env_config("CartPole-v1", horizon=20, exact=True))
    assert env.spec.horizon == 20
