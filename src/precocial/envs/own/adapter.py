"""A user's own Gymnasium environment as a family of tasks.

The environment is a ``gymnasium.Env`` with ``sample_tasks(n) -> list``, ``set_task(task)`` and
``get_task()``, the contract that RLlib and garage users already have. What it may add:

- a ``split`` keyword of ``sample_tasks``, given "train", "valid", "test" or "shifted"; without it
  the splits differ in their random draws only;
- ``tasks``, a sequence of all tasks, or ``num_tasks``, their number, where there are only so many;
- ``max_episode_steps``, its time limit, where neither registration nor a wrapper names one; an
  environment that names none is played until its episodes show it;
- ``reward_fn(obs, action, next_obs)`` and, where episodes can end, ``terminal_fn(next_obs)`` on
  tensors (..., O) of flat observations and (..., A) of actions in its own units: reward and end as
  functions of what can be seen, which planning with a model needs;
- ``command_dim``, how many of the last columns of the observation are commands, such as a target.

All of these are looked for on wrappers and below. One without ``sample_tasks`` is a family with a
single task.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, GymConfig
from precocial.envs.own.guard import Streams, guard
from precocial.envs.own.layout import Layout
from precocial.envs.own.pictures import pictured
from precocial.envs.own.workers import (
    Copies,
    Crew,
    Factory,
    Here,
    Lost,
    Outcome,
    Seat,
    as_numpy,
    attribute_of,
    build,
    build_id,
    close,
    copied,
    described,
    integer,
    method_of,
    misfit,
    raised,
    whereabouts,
)
from precocial.envs.own.workers import EnvError as EnvError
from precocial.seeding import child_seed, derive
from precocial.types import SPLITS, EnvSpec, Picture, Split, Step, Tasks, UserError

LANES_AT_ONCE = 400
"""Copies of a user's environment that evaluation keeps at a time."""

_PROBE_EPISODES, _PROBE_TRUNCATED = 30, 3
"""Episodes played, at most, to find a time limit; how many of them have to show it."""
_PROBE_STEPS, _PROBE_S = 5_000, 120.0
"""Steps and seconds after which it counts as not to be found."""


# ---- from a string to an environment -------------------------------------------------------


class Source(NamedTuple):
    """What an environment string names."""

    factory: Factory
    """Builds one copy; importable in another process."""
    name: str


def resolve(env: str) -> Source:
    """Find ``module:Class``, ``module:factory`` or a Gymnasium id; the current folder counts.

    Raises:
        UserError: Nothing has that name; the message has the nearest names.
        EnvError: The module itself fails while being imported.
    """
    module_name, colon, attribute = env.partition(":")
    if not colon:
        if env in gymnasium.registry:
            return Source(functools.partial(build_id, env), env)
        from precocial.envs import ENVS

        hint = _nearest(env, [*ENVS, *gymnasium.registry])
        raise UserError(
            f"unknown environment {env!r}; {hint}expected a family from `precocial list envs`, "
            "a Gymnasium id, or module:Class"
        )
    if not module_name or module_name.startswith("."):
        raise UserError(f"{env!r} names no module; expected module:Class")
    module = _import(module_name, env)
    if attribute in gymnasium.registry:  # Gymnasium's own "module:Id-v0"
        return Source(functools.partial(build_id, attribute, module_name), env)
    factory = getattr(module, attribute, None)
    if factory is None:
        names = [k for k, v in vars(module).items() if callable(v)]
        raise UserError(
            f"module {module_name} has no {attribute!r}; {_nearest(attribute, names)}"
            "expected a gymnasium.Env class or a function that builds one"
        )
    if not callable(factory):
        raise UserError(
            f"{env} is a {type(factory).__name__}; expected a gymnasium.Env class or a function "
            "that builds one"
        )
    return Source(factory, env)


def _import(name: str, env: str) -> Any:
    here = str(Path.cwd())
    if not {here, ""} & set(sys.path):
        sys.path.insert(0, here)
    try:
        with guard:
            return import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            files = [p.stem for p in Path.cwd().glob("*.py")]
            raise UserError(
                f"no module named {error.name!r} for {env!r}; {_nearest(name, files)}expected "
                "module:Class, importable from the current folder"
            ) from error
        raise raised(error, f"while importing {name}") from error


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}? " if close else ""


# ---- drawing tasks -------------------------------------------------------------------------


class TaskSource:
    """One copy of the environment that is never stepped: spaces, time limit, and fresh tasks."""

    def __init__(self, factory: Factory) -> None:
        self.factory, self.streams, self.is_open = factory, Streams(), False
        try:
            self._open()
            self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the copy; the next ``draw`` builds another."""
        if self.is_open:
            self.is_open = False
            close(self.env)

    def _open(self) -> None:
        with self.streams:
            self.env = self.call("while being built", build, self.factory)
        self.is_open = True
        self.name = type(self.env.unwrapped).__name__
        self.sample = method_of(self.env, "sample_tasks")
        self.set_task = method_of(self.env, "set_task")

    def _read(self) -> None:
        """What the environment says of its tasks."""
        if self.sample is not None and self.set_task is None:
            raise EnvError(f"{self.name} has sample_tasks but no set_task(task)", "contract")
        self.takes_split = (
            self.sample is not None and "split" in inspect.signature(self.sample).parameters
        )
        self.example: Any = None
        self.finite = self._finite()
        self.example = self.finite[0] if self.finite else self.draw(1, "train", 0)[0]

    def draw(self, n: int, split: Split, seed: int) -> list[Any]:
        """``n`` new tasks: a function of the arguments alone.

        The environment is reset with the seed, and so are ``random`` and ``numpy.random``, as
        ``sample_tasks`` sees them.
        """
        assert self.sample is not None
        where = f"while drawing {n} {split} tasks"
        seed %= 2**31
        if not self.is_open:
            self._open()
        self.streams.seed(seed)
        with self.streams:
            if self.example is not None and self.set_task is not None:
                self.call(where, self.set_task, copied(self.example))
                self.call(where, self.env.reset, seed=seed)
            else:  # some cannot be reset before they have a task
                self.env.unwrapped.np_random = np.random.default_rng(seed)
            kwargs = {"split": split} if self.takes_split else {}
            tasks = self.call(where, self.sample, n, **kwargs)
        try:
            tasks = list(tasks)
        except TypeError as error:
            raise EnvError(
                f"{self.name}: sample_tasks({n}) gave {described(tasks)}, {where}; expected a list "
                "of tasks", "contract",
            ) from error  # fmt: skip
        if len(tasks) != n:
            raise EnvError(
                f"{self.name}: sample_tasks({n}) gave {len(tasks)} tasks, {where}", "contract"
            )
        return copied(tasks)  # the environment may keep what it gave, and change it

    def horizon(self) -> int:
        """The time limit in steps that registration, wrapper or attribute names; 0 for none."""
        env, limits = self.env, []
        if env.spec is not None:
            limits.append(env.spec.max_episode_steps)
        while isinstance(env, gymnasium.Wrapper):
            limits.append(getattr(env, "_max_episode_steps", None))  # TimeLimit
            limits.append(getattr(env, "max_episode_steps", None))
            env = env.env
        limits.append(getattr(env, "max_episode_steps", None))
        found = (integer(limit) for limit in limits)
        return min((limit for limit in found if limit and limit > 0), default=0)

    def probe(
        self, kind: Callable[[Factory, int], Copies] = Copies, longest_s: float = math.inf
    ) -> int:
        """The time limit in steps that play shows, said on stderr; 0 where it cannot be told.

        Random episodes of different tasks are played until three of them were truncated. They must
        be of one length, and none that terminated may have lasted longer.

        Args:
            kind: Builds what is played, of the factory and a time limit.
            longest_s: Time after which it is given up, in seconds, if two minutes are too long.
        """
        tasks = self.finite or self.draw(_PROBE_EPISODES, "train", 0)
        copies = kind(self.factory, _PROBE_STEPS + 1)
        left, give_up = _PROBE_STEPS, time.monotonic() + min(_PROBE_S, longest_s)
        lengths: dict[bool, list[int]] = {False: [], True: []}  # by whether it was truncated
        try:
            for i in range(_PROBE_EPISODES):
                copies.reset([Seat(tasks[i % len(tasks)], i, 0, 0)])
                for length, action in enumerate(_random_actions(copies.action_space, i), 1):
                    if length > left or time.monotonic() > give_up:
                        return 0
                    step = copies.step(action[None])
                    if step.terminated[0] or step.truncated[0]:
                        lengths[bool(step.truncated[0])].append(length)
                        left -= length
                        break
                if len(lengths[True]) == _PROBE_TRUNCATED:
                    break
        finally:
            copies.close()
        found = max(lengths[True], default=0)
        steady = lengths[True] == [found] * _PROBE_TRUNCATED
        if not steady or max(lengths[False], default=0) > found:
            return 0
        print(
            f"precocial: {self.name} names no time limit; it truncates its episodes after {found} "
            "steps, which is taken as --env-horizon", file=sys.stderr,
        )  # fmt: skip
        return found

    def call(self, where: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the user's code; ``where`` ends the line about what it raises."""
        try:
            with guard:
                return function(*args, **kwargs)
        except EnvError:
            raise
        except Exception as error:
            raise raised(error, where) from error

    def _finite(self) -> list[Any] | None:
        """All tasks, where there are only so many and no split divides them."""
        if self.takes_split:
            return None
        where = "while its tasks are being counted"
        listed = self.call(where, attribute_of, self.env, "tasks")
        if is_sequence(listed) and len(listed):
            return list(copied(listed))
        if self.sample is None:
            return [None]
        count = integer(self.call(where, attribute_of, self.env, "num_tasks"))
        if count is None or count < 1:
            return None
        found: list[Any] = []
        for task in self.draw(64 * count, "train", 0):
            if not any(equal(task, other) for other in found):
                found.append(task)
        if len(found) != count:
            raise EnvError(
                f"{self.name}: num_tasks is {count}, but {64 * count} draws hold {len(found)} "
                "different tasks; correct it, or give the list of all as `tasks`", "contract",
            )  # fmt: skip
        return found


def _random_actions(space: spaces.Space, seed: int) -> Iterator[Shaped[np.ndarray, "*a"]]:
    """Random actions without end; at odd seeds the first is held."""
    space.seed(seed)
    first = np.asarray(space.sample())
    while True:
        yield first.copy() if seed % 2 else np.asarray(space.sample())


def is_sequence(value: Any) -> bool:
    """Whether it holds things in order: a list, an array, a range, a tensor; no text."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def equal(a: Any, b: Any) -> bool:
    """Whether two opaque tasks are the same, by value; NaN is the same as NaN."""
    if a is b:
        return True
    if np.isscalar(a) and np.isscalar(b) and not isinstance(a, np.void):
        return bool(_same(a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray | np.void) and a.dtype.kind in "OV":  # of objects, of fields
        return a.shape == b.shape and equal(a.tolist(), b.tolist())
    if isinstance(a, np.ndarray | Tensor):
        return a.shape == b.shape and bool(_same(a, b).all())
    try:
        if a == b:
            return True
    except Exception:  # as arrays within make it do
        pass
    try:
        return equal(_contents(a), _contents(b))
    except Exception:  # some, such as functions, cannot be taken apart
        return False


def _same(a: Any, b: Any) -> Any:
    return (a == b) | ((a != a) & (b != b))


def _contents(value: Any) -> list[Any]:
    """What an object would be rebuilt from."""
    parts = value.__reduce_ex__(4)
    return [list(part) if isinstance(part, Iterator) else part for part in parts]


def parts(space: spaces.Space) -> tuple[tuple[str, tuple[int, int]], ...]:
    """First and last + 1 column of each part of a Dict space, as it is flattened."""
    named, end = [], 0
    for name, part in space.spaces.items() if isinstance(space, spaces.Dict) else ():
        start, end = end, end + spaces.flatdim(part)
        named.append((name, (start, end)))
    return tuple(named)


def numbers(task: Any) -> list[float] | None:
    """A task that is a number, an array or a nest of them, flattened; None for any other."""
    if isinstance(task, Number | np.number | np.bool_):
        return None if isinstance(task, complex) else [float(task)]  # type: ignore[arg-type]
    if isinstance(task, np.ndarray | Tensor):
        array = np.asarray(task)
        return array.astype(float).ravel().tolist() if array.dtype.kind in "biuf" else None
    if dataclasses.is_dataclass(task) and not isinstance(task, type):
        task = dataclasses.asdict(task)
    if isinstance(task, Mapping):
        task = [task[k] for k in sorted(task, key=str)]
    if not isinstance(task, list | tuple):
        return None
    parts = [numbers(part) for part in task]
    return None if None in parts else [x for part in parts if part for x in part]


_KEPT_DRAWS = 32
_INDEX_BITS = 20
_POOL_SEED = 20_260


class TaskTable:
    """The opaque task objects that ids stand for.

    Tasks of a finite family or a fixed pool have the ids 0, 1, ... and stay. Others are named by
    the seed of their draw and their place in it; the 32 draws used last are kept, so that memory
    stays flat, and the same generator gives the same ids and the same tasks after a resume.
    """

    def __init__(self, source: TaskSource, train_tasks: int) -> None:
        self.source = source
        self.fixed: list[Any] = source.finite or []
        self.pool_size = 0
        if train_tasks and source.finite is None:  # a finite family is a fixed pool already
            self.fixed, self.pool_size = source.draw(train_tasks, "train", _POOL_SEED), train_tasks
        self.draws: OrderedDict[int, list[Any]] = OrderedDict()

    def sample(self, n: int, split: Split, rng: torch.Generator) -> Tensor:
        """Ids of ``n`` tasks, (n,) int64; a finite family repeats none before all have come."""
        if self.source.finite:
            size = len(self.source.finite)
            rounds = [
                torch.randperm(size, generator=rng, device=rng.device) for _ in range(-(-n // size))
            ]
            return torch.cat(rounds)[:n]
        if split == "train" and self.pool_size:
            return torch.randint(self.pool_size, (n,), generator=rng, device=rng.device)
        seed = derive(child_seed(rng), "tasks", split) % 2**31 + 1
        self.draws[seed] = self.source.draw(n, split, seed)
        if len(self.draws) > _KEPT_DRAWS:
            self.draws.popitem(last=False)
        return (seed << _INDEX_BITS) + torch.arange(n, device=rng.device)

    def look_up(self, ids: Tensor) -> list[Any]:
        """The tasks with these ids."""
        found = []
        for number in ids.tolist():
            seed, index = number >> _INDEX_BITS, number % (1 << _INDEX_BITS)
            if seed and seed not in self.draws:
                raise UserError(
                    f"task {number} is no longer in the table of {_KEPT_DRAWS} draws; "
                    "sample the tasks again with the same generator"
                )
            if seed:
                self.draws.move_to_end(seed)
            found.append(self.draws[seed][index] if seed else self.fixed[index])
        return found


# ---- the family ----------------------------------------------------------------------------


def make_gym_env(env: str, cfg: EnvConfig) -> GymTaskEnv:
    """The adapter around what an environment string names."""
    factory, name = resolve(env)
    assert isinstance(cfg, GymConfig)
    return GymTaskEnv(factory, cfg, name)


class GymTaskEnv:
    """N x E copies of a user's environment, stepped together.

    Copies are built when first needed and kept. Observations are flattened to float32 (discrete
    ones to one-hot), or with a picture to bytes (``layout.py``); a box policy's +-1 spans the
    action bounds. Every first reset of a copy is
    seeded from the generator given to ``reset``; within ``reset``, ``step`` and ``switch`` the
    global ``random`` and ``numpy.random`` belong to the copies and start from the same generator.
    An environment that draws from these instead of from ``self.np_random`` is reproducible, but
    not the same with another number of workers; ``check-env`` says so.

    Raises:
        UserError: The environment does not fit, or names no time limit and neither does ``cfg``.
        EnvError: It fails; also from every method.
    """

    def __init__(self, factory: Factory, cfg: GymConfig | None = None, name: str = "") -> None:
        self.cfg = cfg or GymConfig()
        self.factory = pictured(factory, self.cfg.pixels, self.cfg.frames)
        self.source = TaskSource(self.factory)
        self.crew: Here | Crew | None = None
        self.broken = False
        """Whether a call failed, after which the crew serves no more."""
        self.steps_taken = 0
        try:
            self._read(name)
        except BaseException:
            self.source.close()
            raise

    def _read(self, name: str) -> None:
        """Everything known before the first reset."""
        env = self.source.env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.layout = layout = Layout(self.observation_space)
        layout.check(self.source.name)
        kind = "discrete" if isinstance(self.action_space, spaces.Discrete) else "box"
        self.action_low, self.action_high = action_bounds(self.action_space, self.source.name)
        self.action_start = int(getattr(self.action_space, "start", 0))
        """The number of the first action, where actions are discrete."""
        dtype = self.action_space.dtype
        self.whole_actions = kind == "box" and dtype is not None and dtype.kind in "iu"
        self.table = TaskTable(self.source, self.cfg.train_tasks)
        self.spec = EnvSpec(
            name or self.source.name,
            layout.size,
            "discrete" if kind == "discrete" else "box",
            int(self.action_space.n) if kind == "discrete" else len(self.action_low),
            tuple(self.action_low.tolist()),
            tuple(self.action_high.tolist()),
            self._horizon(),
            len(self.source.finite) if self.source.finite else None,
            len(self.source.finite or numbers(self.source.example) or []),
            lanes_at_once=LANES_AT_ONCE,
            threaded=self.cfg.workers > 0,
            reward_fn=self._seen("reward_fn", torch.float32),
            command_dim=self._commands(),
            obs_names=parts(self.observation_space) if layout.plain else (),
            picture=picture_of(layout),
            terminal_fn=self._seen("terminal_fn", torch.bool),
        )

    def _seen(self, name: str, dtype: torch.dtype) -> Callable[..., Tensor] | None:
        """The environment's function of what can be seen, given actions in [-1, 1]."""
        own, source = attribute_of(self.source.env, name), self.source.name
        if own is None:
            return None
        if not callable(own):
            raise EnvError(f"{source}: {name} is {described(own)}; expected a method", "contract")
        bounds = self.action_low, self.action_high
        low, high = (torch.as_tensor(x, dtype=torch.float32) for x in bounds)

        def function(*seen: Tensor) -> Tensor:
            given = [x.clone() for x in seen]  # which the user's code may change in place
            if len(given) == 3:  # obs, action, next_obs
                given[1] = torch.lerp(low.to(seen[1]), high.to(seen[1]), (seen[1] + 1) / 2)
                given[1] = given[1].round() if self.whole_actions else given[1]
            value = self.source.call(f"in {name}, called by a planner", own, *given)
            expected = tuple(seen[0].shape[:-1])
            if not isinstance(value, Tensor) or (tuple(value.shape), value.dtype) != (
                expected, dtype,
            ):  # fmt: skip
                tensor = isinstance(value, Tensor)
                got = f"{tuple(value.shape)} {value.dtype}" if tensor else described(value)
                raise EnvError(
                    f"{source}: {name} gave {got} for observations {tuple(seen[0].shape)}; "
                    f"expected a tensor {expected} {dtype}", "contract",
                )  # fmt: skip
            return value

        return function

    def _commands(self) -> int:
        most = self.layout.numbers - 1 if self.layout.plain else 0
        given = attribute_of(self.source.env, "command_dim", 0)
        count = integer(given)
        if count is None or not 0 <= count <= most:
            raise EnvError(
                f"{self.source.name}: command_dim is {described(given)}; expected a number of "
                f"columns of the observation, 0 to {most}", "contract",
            )  # fmt: skip
        return count

    def _horizon(self) -> int:
        own, given = self.source.horizon(), self.cfg.horizon
        if own and given > own:
            raise UserError(
                f"--env-horizon is {given}, but {self.source.name} ends its episodes at {own} steps"
            )
        if not own and not given:
            given = self.source.probe()
            if not given:
                raise UserError(
                    f"{self.source.name} names no time limit, and playing it shows none; give one "
                    "with --env-horizon"
                )
            self.cfg = dataclasses.replace(self.cfg, horizon=given)
        return given or own

    # ---- the TaskEnv protocol -------------------------------------------------------------

    def sample_tasks(self, n: int, split: Split, rng: torch.Generator) -> Tasks:
        """N tasks; ``params`` is empty, ``id`` stands for the task objects."""
        if n < 1:
            raise UserError(f"{n} tasks were asked for; expected at least 1")
        assert split in SPLITS, split
        return Tasks({}, self.table.sample(n, split, rng))

    def reset(self, tasks: Tasks, lanes: int, rng: torch.Generator) -> Shaped[Tensor, "n e o"]:
        """Start an episode on every lane."""
        self.lanes, self.device = (tasks.num, lanes), rng.device
        shape = (tasks.num, lanes)
        seeds = torch.randint(2**31 - 1, shape, generator=rng, device=rng.device).tolist()
        self.seats = [
            Seat(task, seeds[row][lane], row, lane)
            for row, task in enumerate(self.table.look_up(tasks.id))
            for lane in range(lanes)
        ]
        if self.broken:
            self._dismiss()
        if self.crew is None:
            self.crew = self._hire()
        # Lanes are dealt out evenly, in order; with fewer lanes than workers some stay idle.
        size = min(self.crew.size, len(self.seats))
        cuts = np.linspace(0, len(self.seats), size + 1).astype(int).tolist()
        self.parts = [slice(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
        return self._tensor(np.concatenate(self._call("reset", self._deal(self.seats))))

    def switch(self, tasks: Tasks) -> None:
        """The world changes, the state stays (as far as the environment's ``set_task`` does so)."""
        new = [t for t in self.table.look_up(tasks.id) for _ in range(self.lanes[1])]
        self.seats = [s._replace(task=t) for s, t in zip(self.seats, new, strict=True)]
        self._call("switch", self._deal(new))

    def step(self, action: Shaped[Tensor, "n e *a"]) -> Step:
        """One step on every lane; ended episodes restart in place."""
        outcomes: list[Outcome] = self._call("step", self._deal(self.to_env_units(action)))
        columns = list(zip(*outcomes, strict=True))
        obs, next_obs, reward, terminated, truncated = (
            self._tensor(np.concatenate(c)) for c in columns[:5]
        )
        info = {}
        if all(s is not None for s in columns[5]):
            info["success"] = self._tensor(np.concatenate(columns[5]))
        self.steps_taken += reward.numel()
        return Step(obs, next_obs, reward, terminated, truncated, info)

    def render(self, task: int, lane: int) -> UInt8[np.ndarray, "h w 3"]:
        """A picture by the environment's own ``render``."""
        index = task * self.lanes[1] + lane
        member = next(i for i, part in enumerate(self.parts) if index < part.stop)
        return self._call("render", [index - self.parts[member].start], first=member)[0]

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n d"]:
        """A task's numbers, standardised over a reference draw; one-hot for a finite family.

        Raises:
            UserError: The tasks are not made of numbers.
        """
        if self.source.finite:
            return torch.nn.functional.one_hot(tasks.id, len(self.source.finite)).float()
        mean, std = self._feature_scale
        rows = (self._numbers(self.table.look_up(tasks.id)) - mean) / std
        return torch.as_tensor(rows, dtype=torch.float32, device=tasks.id.device)

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Nobody has scored known methods here."""
        return {}

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"] | None:
        """Nobody knows."""
        return None

    def close(self) -> None:
        """Close the copies and end the workers; ``reset`` would start anew."""
        self._dismiss()
        self.source.close()

    # ---- conversions ----------------------------------------------------------------------

    def encode(self, obs: Any, lanes: tuple[int, ...] = ()) -> Shaped[np.ndarray, "*lanes o"]:
        """Observations of the user's environment as the policy sees them.

        Args:
            obs: One; with ``lanes`` an array of them, of a Dict or Tuple space a dict or tuple of
                arrays.
            lanes: Axes that every array has before an observation's own.

        Raises:
            UserError: They do not fit the space.
        """
        space = self.observation_space
        singles = lane_by_lane(space, as_numpy(obs), lanes) if lanes else [as_numpy(obs)]
        for single in singles:
            if fault := misfit(space, single):
                raise UserError(fault[1])
        return np.stack([self.layout.row(single) for single in singles]).reshape(*lanes, -1)

    def to_env_units(self, action: Shaped[Tensor, "n e *a"]) -> Shaped[np.ndarray, "l *b"]:
        """Raw policy samples to what the copies take, one row per lane, in their dtype."""
        if self.spec.action_kind == "discrete":
            return action.cpu().numpy().ravel() + self.action_start
        raw = action.detach().cpu().numpy().reshape(-1, self.spec.action_dim)
        unit = (raw.astype(np.float64).clip(-1, 1) + 1) / 2
        value = self.action_low + unit * (self.action_high - self.action_low)
        space = self.action_space
        assert isinstance(space, spaces.Box)
        if self.whole_actions:
            value = value.round()
        # The clip is for the last digit, which float32 may have rounded out of the bounds.
        return value.astype(space.dtype).reshape(-1, *space.shape).clip(space.low, space.high)

    # ---- within ---------------------------------------------------------------------------

    def _hire(self) -> Here | Crew:
        builder = functools.partial(Copies, self.factory, self.spec.horizon)
        if not self.cfg.workers:
            return Here(builder)
        try:
            return Crew(builder, self.cfg.workers, self.cfg.step_timeout)
        except Lost as lost:
            raise EnvError(
                f"worker {lost.member} {lost.reason} while starting; a script that trains with "
                "workers must begin under `if __name__ == '__main__':`", "worker",
            ) from lost  # fmt: skip

    def _dismiss(self) -> None:
        crew, self.crew, self.broken = self.crew, None, False
        if crew is not None:
            crew.close()

    def _deal(self, values: Sequence[Any] | np.ndarray) -> list[Any]:
        """What every worker gets of one value per lane."""
        return [values[part] for part in self.parts]

    def _call(self, method: str, parts: list[Any], first: int = 0) -> list[Any]:
        """A method of the copies.

        After a failure the next ``reset`` starts a new crew. The old one is not closed here: that
        takes a while, and who is to stop wants to save first.
        """
        assert self.crew is not None, "reset comes first"
        try:
            return self.crew.call(method, parts, first)
        except Lost as lost:
            self.broken = True
            seat = self.seats[self.parts[lost.member].start + lost.lane]
            raise EnvError(
                f"{self.source.name} in worker {lost.member} {lost.reason}, "
                f"{whereabouts(seat, lost.step)}", "worker",
            ) from lost  # fmt: skip
        except BaseException:
            self.broken = True
            raise

    def _tensor(self, lanes: Shaped[np.ndarray, "l *x"]) -> Shaped[Tensor, "n e *x"]:
        return torch.from_numpy(lanes).reshape(*self.lanes, *lanes.shape[1:]).to(self.device)

    def _numbers(self, tasks: list[Any]) -> Float[np.ndarray, "n d"]:
        rows = [numbers(task) for task in tasks]
        for task, row in zip(tasks, rows, strict=True):
            if not row or len(row) != self.spec.task_dim or not np.isfinite(row).all():
                raise UserError(
                    f"{self.source.name} has the task {described(task)}, which is not the same "
                    "count of finite numbers for every task; the oracle needs numbers, arrays, or "
                    "dicts or lists of them"
                )
        return np.array(rows, float)

    @functools.cached_property
    def _feature_scale(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """Mean and standard deviation of each number over 100 training tasks, always the same."""
        rows = self._numbers(self.source.draw(100, "train", _POOL_SEED))
        std = rows.std(0)
        return rows.mean(0), np.where(std > 0, std, 1.0)


def picture_of(layout: Layout) -> Picture | None:
    """What a row of bytes holds."""
    if not layout.channels:
        return None
    return Picture(layout.side, layout.channels, layout.numbers)


def lane_by_lane(space: spaces.Space, obs: Any, lanes: tuple[int, ...]) -> list[Any]:
    """The observations of all lanes, one after the other.

    Raises:
        UserError: An array without the axes ``lanes`` before an observation's own, or no array for
            a part of the space.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or obs.keys() != space.keys():
            got = f"the keys {list(obs)}" if isinstance(obs, dict) else f"a {type(obs).__name__}"
            raise UserError(
                f"the observation is {got}; expected a dict of arrays, with the keys {list(space)}"
            )
        columns = [lane_by_lane(space[key], obs[key], lanes) for key in space]
        return [dict(zip(space, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple) or len(obs) != len(space):
            raise UserError(f"the observation is no tuple of {len(space)} arrays")
        columns = [lane_by_lane(*pair, lanes) for pair in zip(space, obs, strict=True)]
        return list(zip(*columns, strict=True))
    array, own = np.asarray(obs), space.shape or ()
    if array.shape != (*lanes, *own):
        raise UserError(
            f"the observation has shape {array.shape}; expected {(*lanes, *own)}: tasks, lanes, "
            "and an observation's own"
        )
    return list(array.reshape(-1, *own))


def action_bounds(space: spaces.Space, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Flat bounds in the environment's units, each (A,) float64; empty for discrete actions.

    Raises:
        UserError: The actions are of another kind, or have no bounds.
    """
    if isinstance(space, spaces.Discrete):
        return np.empty(0), np.empty(0)
    if not isinstance(space, spaces.Box):
        raise UserError(f"{name} takes actions from {space}; expected a Box or Discrete space")
    low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UserError(
            f"{name} has unbounded actions ({space}); give its Box finite bounds, or wrap it so "
            "that it has (gymnasium.wrappers.RescaleAction needs them too)"
        )
    return low, high
