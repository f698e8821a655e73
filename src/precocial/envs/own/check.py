"""What is wrong with an environment, found by playing it: ``precocial check-env``.

``check_env`` is for a user's Gymnasium environment; a registered family is looked at as a family.
Everything is compared at the same seed and under the same actions, so that what differs is due to
the task.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float32, Shaped

from precocial.envs import ENVS, env_config, make_env
from precocial.envs.own.adapter import (
    GymTaskEnv,
    TaskSource,
    action_bounds,
    equal,
    resolve,
)
from precocial.envs.own.check_family import check_family
from precocial.envs.own.findings import Pace, Paced, Problem, TimeUp
from precocial.envs.own.layout import Layout
from precocial.envs.own.leaks import NUM_SEEDS, NUM_TASKS, leak, task_components
from precocial.envs.own.workers import (
    Copies,
    EnvError,
    Factory,
    Seat,
    as_numpy,
    copied,
    described,
    method_of,
    misfit,
)
from precocial.types import SPLITS, Split, TaskEnv, UserError


def check(env: str, horizon: int = 0, pace: Pace | None = None) -> list[Problem]:
    """Check what a string names: a registered family, a Gymnasium id or ``module:Class``.

    Args:
        env: As for ``--env``.
        horizon: Time limit in steps for an environment that names none, as ``--env-horizon``.
        pace: Time that the checks of a user's environment may take; as long as they need without.

    Raises:
        UserError: Nothing has that name.
    """
    if env not in ENVS:
        factory = resolve(env).factory
        if pace and pace.say:  # here, because what is built first may hang
            pace.say(f"plays {env} for {pace.budget_s:g} s at most (--budget)")
        return check_env(factory, horizon, pace)
    with closing(make_env(env, env_config(env))) as family:
        return check_task_env(family)


def check_task_env(env: TaskEnv) -> list[Problem]:
    """Everything wrong with a family of tasks; of an adapted one, with the environment itself."""
    if isinstance(env, GymTaskEnv):
        return check_env(env.factory, env.spec.horizon)
    return check_family(env)


_STEPS = 200
"""Longest play per check, in steps; whole episodes are followed for up to 1000."""


def check_env(factory: Factory, horizon: int = 0, pace: Pace | None = None) -> list[Problem]:
    """Everything wrong with a user's environment; stops early where it cannot be played.

    Where time is short the plays have fewer tasks and steps, and what there is no time for is left
    out: see ``pace.left_out``.

    The criterion for a task showing in the observation: at one seed the first observation differs
    between tasks, and over eight seeds a two-way analysis of variance finds that the task itself,
    not the start drawn from the seed, moves some component (p < 0.0001 after Bonferroni); or from
    the first step on some component is a constant of the task under any seed and actions.
    """
    problems: list[Problem] = []
    pace = pace or Pace()
    opened = ExitStack()
    try:
        source = opened.enter_context(closing(TaskSource(factory)))
        problems += _check_contract(source)
        if not problems:
            problems += _check_spaces(source)
        if problems:
            return problems
        limit = horizon or source.horizon() or _played_limit(source, pace)
        if not limit:
            problems.append(Problem(
                "no-time-limit", f"{source.name} names no time limit, and playing it shows none; "
                "register it with max_episode_steps, wrap it in TimeLimit, set the attribute "
                "max_episode_steps, or give --env-horizon",
            ))  # fmt: skip
        problems += pace.run("how tasks are drawn", _check_tasks(source, factory, pace))
        tasks = _distinct(source)
        problems += pace.run("get_task", _check_get_task(source, tasks, pace))
        problems += pace.run("episodes", _check_play(factory, limit or 1000, tasks, pace))
    except EnvError as error:
        problems.append(Problem(error.code, str(error)))
    finally:
        opened.close()
    if {"get-task", "task-changed"} & {problem.code for problem in problems}:  # it is said already
        return [problem for problem in problems if problem.code != "task-lost"]
    return problems


def _played_limit(source: TaskSource, pace: Pace) -> int:
    """The time limit that play shows within half of the time; 0 where it shows none."""
    pace.doing = "how long an episode lasts"
    try:
        return source.probe(partial(Paced, pace=pace), pace.left_s / 2)
    except TimeUp:
        return 0


def _check_contract(source: TaskSource) -> Iterator[Problem]:
    for name in ("sample_tasks", "set_task", "get_task"):
        if method_of(source.env, name) is None:
            yield Problem(
                "contract", f"{source.name} has no {name}; without sample_tasks(n), set_task(task) "
                "and get_task() there is nothing to adapt to",
            )  # fmt: skip


def _check_spaces(source: TaskSource) -> Iterator[Problem]:
    try:
        Layout(source.env.observation_space).check(source.name)
    except UserError as error:
        yield Problem("observation-space", str(error))
    try:
        action_bounds(source.env.action_space, source.name)
    except UserError as error:
        yield Problem("action-space", str(error))


def _check_tasks(source: TaskSource, factory: Factory, pace: Pace) -> Iterator[Problem]:
    """How tasks are drawn."""

    def draw(source: TaskSource, n: int, split: Split, seed: int) -> list[Any]:
        pace.tick()
        return source.draw(n, split, seed)

    def drawn_anew(seed: int) -> list[Any]:
        with closing(TaskSource(factory)) as another:
            return draw(another, NUM_TASKS, "train", seed)

    first = draw(source, NUM_TASKS, "train", 1)
    again = drawn_anew(1), draw(source, NUM_TASKS, "train", 1)
    if not all(equal(first, tasks) for tasks in again):
        yield Problem(
            "tasks-not-reproducible", "the same seed drew different tasks; in sample_tasks draw "
            "from self.np_random, which reset(seed=...) seeds",
        )  # fmt: skip
    elif source.finite is None and equal(first, drawn_anew(2)):
        yield Problem(
            "same-tasks", "two copies with different seeds drew the same tasks, so that every "
            "worker would; draw from self.np_random, or where there are only so many tasks give "
            "the list of all as the attribute `tasks`",
        )  # fmt: skip
    if source.takes_split:
        drawn = {split: draw(source, 100, split, 3) for split in SPLITS}
        for one, two in combinations(SPLITS, 2):
            if {one, two} == {"test", "shifted"}:
                continue  # shifted need only be away from training
            shared = [t for t in drawn[one] if any(equal(t, u) for u in drawn[two])]
            if shared:
                yield Problem(
                    "split-overlap", f"sample_tasks takes a split, but {one} and {two} share "
                    f"{len(shared)} of 100 tasks, e.g. {described(shared[0])}; keep them apart",
                )  # fmt: skip


def _distinct(source: TaskSource) -> list[Any]:
    """Up to 12 different training tasks."""
    found: list[Any] = []
    for task in source.finite or source.draw(4 * NUM_TASKS, "train", 4):
        if not any(equal(task, other) for other in found):
            found.append(task)
    return found[:NUM_TASKS]


def _check_get_task(source: TaskSource, tasks: list[Any], pace: Pace) -> Iterator[Problem]:
    set_task, get_task = (method_of(source.env, name) for name in ("set_task", "get_task"))
    assert set_task is not None and get_task is not None
    for task in tasks:
        where = f"while get_task is being checked, task {described(task)}"
        own = copied(task)
        source.call(where, set_task, own)
        for when, seed in (("set_task", None), ("reset", 0), ("a second reset", None)):
            pace.tick()
            if when != "set_task":
                source.call(where, source.env.reset, seed=seed)
            given = source.call(where, get_task)
            if not equal(given, task) and equal(own, task):  # else it is "task-changed"
                yield Problem(
                    "get-task", f"after {when} get_task() gave {described(given)}; "
                    f"{described(task)} was set and should stay until the next set_task",
                )  # fmt: skip
                return


class Play(NamedTuple):
    """T steps of every task at the same seed and under the same actions; K tasks."""

    obs: Float32[np.ndarray, "t1 k o"]
    """The reset's observation, then every true successor."""
    reward: Float32[np.ndarray, "t k"]
    terminated: Bool[np.ndarray, "t k"]
    truncated: Bool[np.ndarray, "t k"]


def _play(copies: Copies, tasks: list[Any], seed: int, actions: Shaped[np.ndarray, "t *a"]) -> Play:
    """One task after the other on one copy, so that each finds the same random streams."""
    columns: list[tuple[np.ndarray, ...]] = []
    for task in tasks:
        obs = [copies.reset([Seat(task, seed, 0, 0)])]
        steps = [copies.step(action[None]) for action in actions]
        obs += [step.next_obs for step in steps]
        rest = ([getattr(s, name) for s in steps] for name in Play._fields[1:])
        columns.append((np.concatenate(obs), *(np.concatenate(c) for c in rest)))
    return Play(*(np.stack(column, 1) for column in zip(*columns, strict=True)))


def _action_sequences(space: spaces.Space, length: int) -> Iterator[Shaped[np.ndarray, "t *a"]]:
    """Four sequences of random actions, then four of one random action repeated."""
    space.seed(0)
    for i in range(8):
        one = np.asarray(space.sample())
        rest = [np.asarray(space.sample()) if i < 4 else one for _ in range(length - 1)]
        yield np.stack([one, *rest])


def _check_play(factory: Factory, horizon: int, tasks: list[Any], pace: Pace) -> Iterator[Problem]:
    """What shows only when the environment is played."""
    with ExitStack() as opened:
        copies = opened.enter_context(closing(Paced(factory, horizon, pace)))
        copies.reset([Seat(tasks[0], 0, 0, 0)])
        space = copies.envs[0].action_space
        most = min(horizon, _STEPS)
        some, length = _affordable(copies, tasks, next(_action_sequences(space, most)), pace)
        sequences = list(_action_sequences(space, length))
        plays = [_play(copies, some, 10, sequences[0])]
        source = opened.enter_context(closing(TaskSource(factory)))
        yield from pace.run(
            "dtypes, bounds and actions", _check_step_by_step(source, some[0], sequences[0], pace)
        )
        yield from (global_use := list(_check_streams(copies)))
        fresh = Paced(factory, horizon, pace)
        unsteady = list(pace.run(
            "the same seed twice", _check_reproducible(fresh, some, sequences[0], plays[0])
        ))  # fmt: skip
        if unsteady:  # whatever else is compared would only show this again
            yield from unsteady
            return
        if not global_use:  # copies that share the global streams do change each other's episodes
            fresh = Paced(factory, horizon, pace)
            check = _check_apart(fresh, some, sequences[0], plays[0])
            yield from pace.run("two copies side by side", check)
            check = _check_second_episode(source, some, sequences, pace)
            yield from pace.run("second episodes", check)
        if len(some) > 1:
            check = _check_tasks_differ(copies, some, sequences, plays, length < most)
            yield from pace.run("what tasks change", check)
            check = _check_leak(copies, some, plays)
            yield from pace.run("whether observations tell the task", check)
        yield from _check_size(plays)
        yield from pace.run("time limits", _check_time_limit(copies, horizon, some))


_SIZES = ((NUM_TASKS, _STEPS), (NUM_TASKS, 50), (6, 50), (6, 20), (3, 20), (2, 10))
"""Tasks and steps of a play, from what is usual to the least that shows anything."""


def _affordable(
    copies: Copies, tasks: list[Any], actions: Shaped[np.ndarray, "t *a"], pace: Pace
) -> tuple[list[Any], int]:
    """As many tasks, and steps of each, as the time that is left allows."""
    start = time.monotonic()
    copies.reset([Seat(tasks[0], 0, 0, 0)])
    reset_s = time.monotonic() - start
    for action in actions[:5]:
        copies.step(action[None])
    step_s = (time.monotonic() - start - reset_s) / len(actions[:5])
    num, steps = len(tasks), len(actions)
    for most_tasks, most_steps in _SIZES:
        num, steps = min(len(tasks), most_tasks), min(len(actions), most_steps)
        # Three plays of every task, one for each thing looked at beside, two episodes twice each;
        # Three plays of every task, eight for what is looked at beside, two episodes twice a try;
        # and the resets whose observations are compared.
        plays = 3 * num + 8 + 4 * NUM_SEEDS * min(1, _SECOND_STEPS / steps)
        if plays * (reset_s + steps * step_s) + NUM_SEEDS * num * reset_s < 0.8 * pace.left_s:
            break
    if num < len(tasks):
        pace.left_out.append(f"{len(tasks) - num} of {len(tasks)} tasks")
    if steps < len(actions):
        pace.left_out.append(f"steps {steps + 1} to {len(actions)} of an episode")
    return tasks[:num], steps


def _check_tasks_differ(
    copies: Copies,
    tasks: list[Any],
    sequences: list[Shaped[np.ndarray, "t *a"]],
    plays: list[Play],
    cut: bool,
) -> Iterator[Problem]:
    """Play on, until some task differs from the others and there are three plays to compare.

    The new ones are added to ``plays``. Where these are ``cut`` for lack of time, nothing can be
    said of tasks that have no effect in them.
    """
    for seed, actions in enumerate(sequences[1:], 11):
        plays.append(_play(copies, tasks, seed, actions))
        if _differ(plays[-1]) and len(plays) >= 3:
            break
    if not any(map(_differ, plays)):
        if cut:
            raise TimeUp
        yield Problem(
            "task-without-effect", f"set_task changed neither rewards nor transitions: "
            f"{len(tasks)} tasks gave equal episodes under {len(plays)} sequences of actions "
            f"of {len(sequences[0])} steps; see that step() reads the task (or, where rewards are "
            "rare, that random actions can reach one)",
        )  # fmt: skip


def _differ(play: Play) -> bool:
    """Whether tasks differ in anything after the first observation."""
    columns = (play.obs[1:], play.reward, play.terminated, play.truncated)
    return any((column != column[:, :1]).any() for column in columns)


def _check_step_by_step(
    source: TaskSource, task: Any, actions: Shaped[np.ndarray, "t *a"], pace: Pace
) -> Iterator[Problem]:
    """Declared dtype and bounds, and that task and action are left as they were.

    Shapes and finite values are checked at every step of every play anyway.
    """
    env, where = source.env, f"while its spaces are being checked, task {described(task)}"
    assert source.set_task is not None
    own = copied(task)
    source.call(where, source.set_task, own)
    space, ended, changed = env.observation_space, False, False
    obs = as_numpy(source.call(where, env.reset, seed=0)[0])
    for step, action in enumerate(actions):
        pace.tick()
        when = f"at step {step}" if step else "at reset"
        if step == 0 or ended or obs not in space:
            dtypes = _dtypes(space, obs)
            if dtypes:
                yield Problem("dtype", f"{when} {dtypes}; return what the space declares")
                return
        if misfit(space, obs) is None and obs not in space:
            yield Problem(
                "bounds", f"{when} the observation {described(obs)} lies outside {space}; widen "
                "the space or clip",
            )  # fmt: skip
            return
        if ended:
            obs, ended = as_numpy(source.call(where, env.reset)[0]), False
        else:
            given = action.copy()
            obs, _, terminated, truncated, _ = source.call(where, env.step, given)
            obs, ended = as_numpy(obs), terminated or truncated
            if not changed and not np.array_equal(given, action):
                changed = True
                yield Problem(
                    "action-changed", f"step() turned the action {described(action)} that it was "
                    f"given into {described(given)}; who plays it may need that array again, so "
                    "work on a copy (`action = 0.1 * action`, not `action *= 0.1`)",
                )  # fmt: skip
    if not equal(own, task):
        yield Problem(
            "task-changed", f"reset or step changed the task that set_task was given, "
            f"{described(task)}, to {described(own)}; let set_task keep a copy "
            "(copy.deepcopy(task)), or the next episode begins with another task",
        )  # fmt: skip


def _dtypes(space: spaces.Space, obs: Any, name: str = "the observation") -> str:
    """Which part of ``obs`` has another dtype than its box declares; "" for none."""
    if isinstance(space, spaces.Dict):
        return next(filter(None, (_dtypes(space[k], obs[k], f"{name}[{k!r}]") for k in space)), "")
    if isinstance(space, spaces.Tuple):
        parts = (
            _dtypes(s, o, f"{name}[{i}]") for i, (s, o) in enumerate(zip(space, obs, strict=True))
        )
        return next(filter(None, parts), "")
    if isinstance(space, spaces.Box) and np.asarray(obs).dtype != space.dtype:
        return f"{name} has dtype {np.asarray(obs).dtype}, its space says {space.dtype}"
    return ""


def _check_streams(copies: Copies) -> Iterator[Problem]:
    """Whether the play just made drew from ``random`` or ``numpy.random``."""
    used = copies.streams.inside
    copies.streams.seed(10)
    fresh = copies.streams.inside
    for name, one, other in zip(("random", "numpy.random"), used, fresh, strict=True):
        if repr(one) != repr(other):
            yield Problem(
                "global-random", f"reset or step draws from the global {name}; draw from "
                "self.np_random, or results will depend on the number of workers",
            )  # fmt: skip


def _check_reproducible(
    fresh: Copies, tasks: list[Any], actions: np.ndarray, play: Play
) -> Iterator[Problem]:
    """The first task twice on a fresh copy, against the first play of all tasks."""
    try:
        first, again = (_play(fresh, tasks[:1], 10, actions) for _ in range(2))
    finally:
        fresh.close()
    columns = zip(first, again, play, strict=True)
    if any(not np.array_equal(a, b) or not np.array_equal(a, c[:, :1]) for a, b, c in columns):
        yield Problem(
            "not-reproducible", "the same seed, task and actions gave different episodes; in reset "
            "call super().reset(seed=seed), begin from nothing left over, and draw from "
            "self.np_random only",
        )  # fmt: skip


def _check_apart(
    pair: Copies, tasks: list[Any], actions: np.ndarray, play: Play
) -> Iterator[Problem]:
    """Two copies with different tasks side by side, against the first task alone."""
    try:
        pair.reset([Seat(task, 10, row, 0) for row, task in enumerate(tasks[:2])])
        together = [pair.step(np.repeat(a[None], len(tasks[:2]), 0)) for a in actions]
    finally:
        pair.close()
    reward, obs = np.stack([s.reward[0] for s in together]), [s.next_obs[0] for s in together]
    if not np.array_equal(reward, play.reward[:, 0]) or not np.array_equal(obs, play.obs[1:, 0]):
        yield Problem(
            "shared-state", "a copy's episodes changed when another copy with another task was "
            "stepped beside it; keep the task in the instance, not in the class or module",
        )  # fmt: skip


_SECOND_STEPS = 50
"""Longest of two episodes in a row, in steps."""


def _check_second_episode(
    source: TaskSource,
    tasks: list[Any],
    sequences: list[Shaped[np.ndarray, "t *a"]],
    pace: Pace,
) -> Iterator[Problem]:
    """A second episode, which must be the same whether or not the task is set again before it.

    With eight tries, because one drawn anew may be the one that was set.
    """

    def second(task: Any, seed: int, actions: np.ndarray, *, again: bool) -> np.ndarray:
        """All numbers of the second episode."""
        env, where = source.env, f"while a second episode is being played, task {described(task)}"
        layout, seen = Layout(env.observation_space), list[np.ndarray]()
        assert source.set_task is not None
        for start in ({"seed": seed}, {}):
            pace.tick()
            if start or again:
                source.call(where, source.set_task, copied(task))
            obs = source.call(where, env.reset, **start)[0]
            seen = [layout.row(as_numpy(obs))]
            for action in actions[:_SECOND_STEPS]:
                pace.tick()
                obs, *rest, _ = source.call(where, env.step, action.copy())
                reward, terminated, truncated = (float(as_numpy(x)) for x in rest)
                seen += [layout.row(as_numpy(obs)), np.array([reward, terminated])]
                if terminated or truncated:
                    break
        return np.concatenate(seen)

    for i, actions in enumerate(sequences):
        play = tasks[i % len(tasks)], 40 + i, actions
        one, other = (second(*play, again=again) for again in (False, True))
        if np.array_equal(one, other):
            continue
        if not np.array_equal(one, second(*play, again=False)):
            yield Problem(
                "not-reproducible", "the same seed, task and actions gave different second "
                "episodes; reset without a seed must go on with self.np_random as it stands",
            )  # fmt: skip
        else:
            yield Problem(
                "task-lost", f"the task does not outlast an episode: after {described(play[0])} "
                "was set, the second episode differed from one before which it was set again; keep "
                "it until the next set_task, and never draw a new one in reset",
            )  # fmt: skip
        return


_SATURATED = 10.0
"""Weighted sum at which tanh is within 1e-8 of its bound."""
_VARIED = 0.05
"""Least share of its size by which an observation should vary."""


def _check_size(plays: list[Play]) -> Iterator[Problem]:
    """Whether observations are large beside what varies in them.

    A layer of 64 units as policies have it (Glorot) sees the mean observation as a sum of about
    |mean| sqrt(2 / (O + 64)). Where all units are saturated by it and what differs from it is less
    than a twentieth, the output hardly depends on the observation.
    """
    mean = np.mean([play.obs.mean((0, 1), dtype=np.float64) for play in plays], 0)
    size = float(np.linalg.norm(mean))
    apart = [((play.obs - mean.astype(np.float32)) ** 2).sum(-1).mean() for play in plays]
    varied = float(np.sqrt(np.mean(apart)))
    if size * math.sqrt(2 / (len(mean) + 64)) < _SATURATED or varied > _VARIED * size:
        return
    i = int(np.abs(mean).argmax())
    seen = np.concatenate([play.obs[..., i].ravel() for play in plays])
    yield Problem(
        "observation-size", f"observations are large and hardly vary (component {i} of the "
        f"flattened observation was {seen.min():g} to {seen.max():g} in all plays), "
        "which a policy cannot tell apart; train with --normalize-obs where the algorithm has it, "
        "or shift and scale them to the order of 1",
    )  # fmt: skip


def _check_time_limit(copies: Copies, horizon: int, tasks: list[Any]) -> Iterator[Problem]:
    """Eight first episodes under different tasks, seeds and actions."""
    lengths = set()
    for i, actions in enumerate(_action_sequences(copies.envs[0].action_space, min(horizon, 1000))):
        copies.reset([Seat(tasks[i % len(tasks)], 20 + i, 0, 0)])
        steps = ((copies.step(action[None]), n) for n, action in enumerate(actions, 1))
        ends = ((s.terminated[0], n) for s, n in steps if s.terminated[0] or s.truncated[0])
        terminated, length = next(ends, (False, 0))
        if not terminated:  # or no end within 1000 steps
            return
        lengths.add(length)
    if len(lengths) == 1 and max(lengths) > 1:
        yield Problem(
            "time-limit", f"all episodes ended as terminated after {max(lengths)} steps, whatever "
            "the actions; a time limit is `truncated`, or better left to max_episode_steps",
        )  # fmt: skip


def _check_leak(copies: Copies, tasks: list[Any], plays: list[Play]) -> Iterator[Problem]:
    seeds = range(30, 30 + NUM_SEEDS)
    rows = [
        np.concatenate([copies.reset([Seat(task, seed, 0, 0)]) for seed in seeds]) for task in tasks
    ]
    first = np.stack(rows)  # (K, S, O)
    shown = task_components(first)
    where = "the first observation"
    if not shown:
        where = "the observation after the first step"
        constant = np.ones(first.shape[-1], bool)
        for play in plays:
            constant &= (play.obs[1:] == plays[0].obs[1]).all((0, 1))
        differs = (plays[0].obs[1] != plays[0].obs[1, :1]).any(0)
        shown = np.flatnonzero(constant & differs).tolist() if len(plays) > 1 else []
    if shown:
        yield leak(where, shown)
