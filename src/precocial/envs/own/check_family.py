"""What is wrong with a family of tasks, written as tensors, found by playing it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch

from precocial.envs.own.findings import Problem
from precocial.envs.own.leaks import NUM_SEEDS, NUM_TASKS, leak, task_components
from precocial.types import SPLITS, Split, Step, TaskEnv, Tasks


def check_family(env: TaskEnv) -> list[Problem]:
    """Everything wrong with a family of tasks: shapes, bounds, seeds, splits, leaks, endings."""
    return [*_check_family_tasks(env), *_check_family_steps(env), *_check_family_play(env)]


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(tasks: Tasks) -> list[bytes]:
    """One comparable value per task."""
    return [
        b"".join(v[i].numpy().tobytes() for v in tasks.params.values()) for i in range(tasks.num)
    ]


def _check_family_tasks(env: TaskEnv) -> Iterator[Problem]:
    drawn: dict[Split, list[bytes]] = {}
    for seed, split in enumerate(SPLITS):
        tasks = env.sample_tasks(100, split, _rng(seed))
        drawn[split] = _rows(tasks)
        if tasks.num != 100 or any(len(v) != 100 for v in tasks.params.values()):
            yield Problem("shape", f"100 {split} tasks were asked for; got {tasks.num}")
        if drawn[split] != _rows(env.sample_tasks(100, split, _rng(seed))):
            yield Problem("tasks-not-reproducible", f"one generator drew two sets of {split} tasks")
        features = env.task_features(tasks)
        if features.shape != (100, env.spec.task_dim) or not features.isfinite().all():
            yield Problem(
                "shape", f"task_features has shape {tuple(features.shape)} or is not finite; "
                f"expected (100, {env.spec.task_dim})",
            )  # fmt: skip
    if env.spec.num_tasks is None:
        if drawn["train"] == _rows(env.sample_tasks(100, "train", _rng(9))):
            yield Problem("same-tasks", "two generators drew the same tasks")
        for one, other in combinations(SPLITS, 2):
            if {one, other} != {"test", "shifted"} and set(drawn[one]) & set(drawn[other]):
                yield Problem("split-overlap", f"{one} and {other} share tasks")


def _actions(env: TaskEnv, n: int, lanes: int, rng: torch.Generator) -> torch.Tensor:
    """Random raw actions, the same for every task."""
    spec = env.spec
    if spec.action_kind == "discrete":
        one = torch.randint(spec.action_dim, (1, lanes), generator=rng)
        return one.expand(n, -1).contiguous()
    return torch.randn((1, lanes, spec.action_dim), generator=rng).expand(n, -1, -1).contiguous()


def _check_family_steps(env: TaskEnv) -> Iterator[Problem]:
    """Shapes, dtypes, endings and bounds over a little more than one time limit."""
    n, lanes, spec = 3, 4, env.spec
    tasks = env.sample_tasks(n, "train", _rng(0))
    obs, rng = env.reset(tasks, lanes, _rng(1)), _rng(2)
    floats = torch.get_default_dtype()
    if obs.shape != (n, lanes, spec.obs_dim) or obs.dtype != floats:
        yield Problem("shape", f"reset gave {tuple(obs.shape)}, {obs.dtype}; expected {floats} "
                      f"({n}, {lanes}, {spec.obs_dim})")  # fmt: skip
        return
    since, moved, kept = torch.zeros(n, lanes, dtype=torch.long), False, True
    start, seen_end = obs, False
    for _ in range(spec.horizon + 1):
        before = env.steps_taken
        step = env.step(_actions(env, n, lanes, rng))
        yield from (found := list(_check_step(step, (n, lanes, spec.obs_dim), floats)))
        if found:
            return
        if env.steps_taken - before != n * lanes:
            yield Problem("steps-taken", f"a step added {env.steps_taken - before} to steps_taken; "
                          f"expected {n * lanes}")  # fmt: skip
            return
        ended = step.terminated | step.truncated
        since += 1
        if (since > spec.horizon).any() or ((since == spec.horizon) & ~ended).any():
            yield Problem("time-limit", f"an episode outlasted its {spec.horizon} steps")
            return
        if (step.truncated & (since < spec.horizon)).any():
            yield Problem("time-limit", f"an episode was truncated before {spec.horizon} steps")
            return
        if not torch.equal(step.obs[~ended], step.next_obs[~ended]):
            yield Problem("next-obs", "obs and next_obs differ where no episode ended")
            return
        moved |= not torch.equal(step.next_obs, start)
        if ended.any():
            seen_end = True
            kept &= torch.equal(step.obs[ended], step.next_obs[ended])
        since[ended] = 0
    if seen_end and moved and kept:
        yield Problem("next-obs", "at every ending next_obs is the next episode's observation")
    env.close()


def _check_step(step: Step, shape: tuple[int, int, int], floats: torch.dtype) -> Iterator[Problem]:
    for name, kind in (
        ("obs", floats), ("next_obs", floats), ("reward", floats), ("terminated", torch.bool),
        ("truncated", torch.bool),
    ):  # fmt: skip
        value: torch.Tensor = getattr(step, name)
        expected = shape if name.endswith("obs") else shape[:2]
        if value.shape != expected or value.dtype != kind:
            yield Problem("shape", f"{name} is {tuple(value.shape)}, {value.dtype}; expected "
                          f"{expected}, {kind}")  # fmt: skip
        elif not value.isfinite().all():
            yield Problem("not-finite", f"{name} has values that are not finite")
    if (step.terminated & step.truncated).any():
        yield Problem("flags", "an ending is both terminated and truncated; termination wins")
    if any(v.shape != shape[:2] for v in step.info.values()):
        yield Problem("shape", f"an entry of info is not {shape[:2]}")


def _trace(
    env: TaskEnv, tasks: Tasks, seed: int, length: int, scale: float = 1.0
) -> list[torch.Tensor]:
    """First observation, then next_obs, reward and ends of ``length`` steps on four lanes."""
    seen, rng = [env.reset(tasks, 4, _rng(seed))], _rng(seed + 1)
    for _ in range(length):
        action = _actions(env, tasks.num, 4, rng)
        if env.spec.action_kind == "box":
            action = action.sign() * scale
        step = env.step(action)
        seen += [step.next_obs, step.reward, step.terminated, step.truncated]
    return seen


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def _check_family_play(env: TaskEnv) -> Iterator[Problem]:
    """The same seed twice, actions beyond the bounds, and what changes with the task."""
    tasks = env.sample_tasks(NUM_TASKS, "train", _rng(3))
    length = min(env.spec.horizon + 1, 50)
    if not _same(_trace(env, tasks, 4, length), _trace(env, tasks, 4, length)):
        yield Problem("not-reproducible", "the same generator gave different episodes")
    wide, wider = (_trace(env, tasks, 4, length, scale) for scale in (1e3, 1e4))
    if env.spec.action_kind == "box" and not _same(wide, wider):
        yield Problem("action-bounds", "actions far beyond the bounds are not clipped")
    ones = [tasks.select(slice(i, i + 1)) for i in range(NUM_TASKS)]
    played = [_trace(env, one, 6, length) for one in ones]
    if env.spec.num_tasks != 1 and all(_same(played[0][1:], p[1:]) for p in played):
        yield Problem("task-without-effect", f"{NUM_TASKS} tasks gave equal episodes")
    state_dim = env.spec.obs_dim - env.spec.command_dim  # a command may tell the task
    first = np.stack([env.reset(one, NUM_SEEDS, _rng(7))[0].numpy() for one in ones])
    first = first[..., :state_dim]
    if shown := task_components(first):
        yield leak("the first observation", shown)
    env.close()
