"""Stepping many copies of a user's Gymnasium environment, here or in worker processes.

``Copies`` steps L lanes one after the other and checks what comes back. ``Here`` holds one
``Copies`` in this process; ``Crew`` holds one in each of several processes. Both answer ``call``
alike, and every lane is seeded alike, so that the results are equal to the bit. No torch in here:
a worker needs none.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import multiprocessing
import operator
import os
import signal
import sysconfig
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from jaxtyping import Bool, Float32, Shaped, UInt8

from precocial import signals
from precocial.envs.own.guard import Streams, guard
from precocial.envs.own.layout import Layout, is_text
from precocial.envs.picture import as_pixels
from precocial.errors import UserError

Factory = Callable[..., gymnasium.Env]

# ---- what goes wrong -----------------------------------------------------------------------


class EnvError(UserError):
    """A user's environment raised, hung, died, or returned what it must not.

    Args:
        message: One line: what happened, in which task, at which step, on which lane.
        code: The kind of fault, e.g. ``raises`` or ``not-finite``.
        trace: The full traceback text, for ``error.log``; "" where nothing was raised.
    """

    def __init__(self, message: str, code: str = "raises", trace: str = "") -> None:
        super().__init__(message)
        self.code, self.trace = code, trace

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with all three parts, to travel back from a worker."""
        return EnvError, (str(self), self.code, self.trace)


def raised(error: BaseException, where: str) -> EnvError:
    """The user's exception as one line with their file and line, e.g. ``(my_env.py:41)``."""
    trace = "".join(traceback.format_exception(error))
    text = " ".join(str(error).split()) or "(no message)"
    return EnvError(f"{type(error).__name__}: {text}{_blame(error)}, {where}", "raises", trace)


_OURS = str(Path(__file__).parents[2])
_LIBRARIES = tuple(sysconfig.get_path(p) for p in ("stdlib", "purelib", "platlib"))


def _blame(error: BaseException) -> str:
    """The deepest line of the traceback that is the user's own, or failing that, a library's."""
    places = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    places = [place for place in places if not place[0].startswith((_OURS, "<"))]
    if not places:
        return ""
    own = [place for place in places if not place[0].startswith(_LIBRARIES)]
    file, line = (own or places)[-1]
    path = Path(file)
    return f" ({path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line})"


def described(task: Any) -> str:
    """A task on part of a line."""
    return textwrap.shorten(repr(task), 80, placeholder=" ...")


# ---- one copy ------------------------------------------------------------------------------


def build(factory: Factory) -> gymnasium.Env:
    """One copy of the environment, able to draw itself where its class says it can."""
    env = _drawing(factory, factory)
    if not isinstance(env, gymnasium.Env):
        raise EnvError(f"got a {type(env).__name__}; expected a gymnasium.Env", "contract")
    return env


def build_id(env_id: str, module: str = "", **kwargs: Any) -> gymnasium.Env:
    """One copy of a registered environment, once the module that registers it is imported."""
    if module:
        import_module(module)
    creator: Any = gymnasium.spec(env_id).entry_point
    creator = load_env_creator(creator) if isinstance(creator, str) else creator
    # Gymnasium's own checker would warn where ``misfit`` and ``check-env`` say more.
    make = functools.partial(gymnasium.make, env_id, disable_env_checker=True, **kwargs)
    env: gymnasium.Env = _drawing(make, creator)
    return env


def _drawing(make: Callable[..., Any], creator: Any) -> Any:
    """What ``make`` makes, able to draw itself where ``creator`` can."""
    if _can_draw(creator):
        with contextlib.suppress(Exception):  # what it hands on may end elsewhere
            return make(render_mode="rgb_array")
    return make()


def _can_draw(factory: Factory) -> bool:
    metadata = getattr(factory, "metadata", None)
    # A function, or a wrapper, which asks what is below it, has no metadata.
    draws = not isinstance(metadata, Mapping) or "rgb_array" in (metadata.get("render_modes") or [])
    return draws and _takes(factory, "render_mode")


def _takes(factory: Any, name: str) -> bool:
    """Whether it has an argument of this name, or hands it on to a class above that has."""
    above = inspect.getmro(factory) if inspect.isclass(factory) else ()
    for made_by in [factory, *(vars(c)["__init__"] for c in above if "__init__" in vars(c))]:
        try:
            takes = inspect.signature(made_by).parameters
        except (TypeError, ValueError):  # some callables have no signature
            return False
        if name in takes:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            return False
    return False


def close(env: gymnasium.Env) -> None:
    """Close one copy; what it raises does not matter, for the work is done."""
    with guard, contextlib.suppress(Exception):
        env.close()


def method_of(env: gymnasium.Env, name: str) -> Callable[..., Any] | None:
    """The method of that name, looked for through wrappers; None where there is none."""
    method: Callable[..., Any] | None = attribute_of(env, name)
    return method


def attribute_of(env: gymnasium.Env, name: str, default: Any = None) -> Any:
    """The same for any attribute."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else default


def integer(value: Any) -> int | None:
    """A whole number of any kind, NumPy's included; None for everything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def same_actions(space: spaces.Space, other: spaces.Space) -> bool:
    """Whether two spaces hold the same actions, to the last digit of their bounds."""
    if (
        isinstance(space, spaces.Box)
        and isinstance(other, spaces.Box)
        and same_layout(space, other)
    ):
        return bool((space.low == other.low).all() and (space.high == other.high).all())
    return bool(space == other)


def same_layout(space: spaces.Space, other: spaces.Space) -> bool:
    """Whether observations of two spaces flatten alike: bounds of a box do not matter."""
    match space, other:
        case (spaces.Box(), spaces.Box()):
            return (space.shape, space.dtype) == (other.shape, other.dtype)
        case (spaces.Dict(), spaces.Dict()):
            return list(space) == list(other) and all(
                same_layout(space[k], other[k]) for k in space
            )
        case (spaces.Tuple(), spaces.Tuple()):
            return len(space) == len(other) and all(map(same_layout, space, other))
    return bool(space == other) or (is_text(space) and is_text(other))


def copied(task: Any) -> Any:
    """A task of one's own, which the environment may change.

    Raises:
        EnvError: It cannot be copied.
    """
    try:
        return copy.deepcopy(task)
    except Exception as error:
        raise EnvError(
            f"a task cannot be copied, and every copy of the environment needs its own ({error}); "
            "make tasks of plain data", "contract",
        ) from error  # fmt: skip


def misfit(space: spaces.Space, obs: Any, name: str = "the observation") -> tuple[str, str] | None:
    """Why ``obs`` does not fit ``space``, as (code, message); None where it does.

    Bounds of a box, and conversions within a kind (float64 to float32), do not matter here.
    """
    match space:
        case spaces.Dict():
            if not isinstance(obs, dict) or obs.keys() != space.keys():
                got = f"the keys {list(obs)}" if isinstance(obs, dict) else type(obs).__name__
                return "shape", f"{name} is {got}; its space has the keys {list(space)}"
            faults = (misfit(space[k], obs[k], f"{name}[{k!r}]") for k in space)
            return next((f for f in faults if f), None)
        case spaces.Tuple():
            if not isinstance(obs, tuple | list) or len(obs) != len(space):
                return "shape", f"{name} is not a tuple of {len(space)}, as its space says"
            pairs = zip(space, obs, strict=True)
            faults = (misfit(s, o, f"{name}[{i}]") for i, (s, o) in enumerate(pairs))
            return next((f for f in faults if f), None)
    if is_text(space):
        fits = isinstance(obs, str | np.str_)
        return None if fits else ("dtype", f"{name} is {described(obs)}; its space says a text")
    try:
        array, dtype = np.asarray(obs), np.dtype(space.dtype)
    except Exception:  # rows of different lengths, or of a library that refuses
        kind = type(obs).__name__
        return "shape", f"{name}, a {kind}, is no array; its space says {space.shape}"
    if array.shape != space.shape:
        return "shape", f"{name} has shape {array.shape}; its space says {space.shape}"
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind"):
        return "dtype", f"{name} has dtype {array.dtype}; its space says {dtype}"
    if not isinstance(space, spaces.Box) and array.astype(dtype) not in space:
        return "bounds", f"{name} is {obs}, outside its space {space}"
    return None


def as_numpy(obs: Any) -> Any:
    """An observation or one of its parts, torch tensors without their graph and as arrays."""
    match obs:
        case dict():
            return {key: as_numpy(part) for key, part in obs.items()}
        case tuple():
            return tuple(map(as_numpy, obs))
        case list():
            return list(map(as_numpy, obs))
    return np.asarray(obs.detach().cpu()) if hasattr(obs, "detach") else obs


# ---- many copies ---------------------------------------------------------------------------


class Seat(NamedTuple):
    """Who sits on one lane."""

    task: Any
    seed: int
    row: int
    """Place of the task in the batch, counted from 0."""
    lane: int
    """Place among the lanes of that task, counted from 0."""


class Outcome(NamedTuple):
    """One step of L lanes; the fields of ``types.Step``, lanes not yet arranged by task."""

    obs: Shaped[np.ndarray, "l o"]
    next_obs: Shaped[np.ndarray, "l o"]
    reward: Float32[np.ndarray, " l"]
    terminated: Bool[np.ndarray, " l"]
    truncated: Bool[np.ndarray, " l"]
    success: Float32[np.ndarray, " l"] | None
    """From ``info["success"]`` or ``info["is_success"]``, where the first step of all had it."""


class Copies:
    """Copies of one environment, built when first needed and kept, stepped in order of lanes.

    Args:
        factory: Builds one copy.
        horizon: Time limit of an episode, in steps.
        progress: Three numbers kept up to date for whoever waits: calls made so far, the lane and
            the step of the latest.
    """

    def __init__(
        self, factory: Factory, horizon: int, progress: MutableSequence[int] | None = None
    ) -> None:
        self.factory, self.horizon = factory, horizon
        self.progress: MutableSequence[int] = [0, 0, 0] if progress is None else progress
        self.envs: list[gymnasium.Env] = []
        self.streams = Streams()

    def reset(self, seats: list[Seat]) -> Shaped[np.ndarray, "l o"]:
        """Start an episode on every lane; nothing of what was before remains."""
        self.seats = seats
        self.clock = np.zeros(len(seats), np.int64)  # steps into the episode
        self.first = True
        for i in range(len(self.envs), len(seats)):
            self.streams.seed(0)  # a copy must not depend on when it was built
            with self.streams:
                self.envs.append(self._call(i, build, self.factory))
            if i == 0:
                built = self.envs[0].observation_space, self.envs[0].action_space
                self.space, self.action_space = copy.deepcopy(built)
                self.layout = Layout(self.space)
        self.streams.seed(seats[0].seed)
        self._set_tasks()
        obs = np.empty((len(seats), self.layout.size), self.layout.dtype)
        with self.streams:
            for i, seat in enumerate(seats):
                self._restart(i, obs[i], seed=seat.seed)
        self._check_finite("the observation", self.layout.finite(obs))
        return obs

    def switch(self, tasks: list[Any]) -> None:
        """Give every lane its task, within the episode."""
        self.seats = [s._replace(task=t) for s, t in zip(self.seats, tasks, strict=True)]
        self._set_tasks()
        for i in range(len(tasks)):
            self._check_spaces(i)

    def step(self, actions: Shaped[np.ndarray, "l *a"]) -> Outcome:
        """One step on every lane; an ended episode restarts in place."""
        count = len(self.seats)
        next_obs = np.empty((count, self.layout.size), self.layout.dtype)
        reward = np.empty(count, np.float32)
        terminated, truncated = np.empty(count, bool), np.empty(count, bool)
        success = np.full(count, np.nan, np.float32)
        self.clock += 1
        with self.streams:
            for i, action in enumerate(actions):
                result = self._call(i, self.envs[i].step, action.copy())
                if not isinstance(result, tuple) or len(result) != 5:
                    raise self._fault(
                        i, "contract", "step() did not return the 5-tuple (obs, reward, "
                        "terminated, truncated, info)",
                    )  # fmt: skip
                obs, reward[i], terminated[i], truncated[i], info = self._checked(i, *result)
                self._write(i, obs, next_obs[i])
                hit = info.get("success", info.get("is_success"))
                success[i] = hit if isinstance(hit, float | int | np.number | np.bool_) else np.nan
            self._check_finite("the observation", self.layout.finite(next_obs))
            self._check_finite("the reward", reward)
            truncated |= self.clock >= self.horizon
            truncated &= ~terminated
            ended = np.flatnonzero(terminated | truncated)
            start_obs = next_obs.copy() if len(ended) else next_obs
            self.clock[ended] = 0
            for i in ended.tolist():
                self._restart(i, start_obs[i])
        if len(ended):
            self._check_finite("the observation", self.layout.finite(start_obs))
        if self.first:  # settled once per reset, so that every step of a rollout has the same keys
            self.first, self.reports_success = False, not np.isnan(success).any()
        report = np.nan_to_num(success) if self.reports_success else None
        return Outcome(start_obs, next_obs, reward, terminated, truncated, report)

    def render(self, lane: int) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of one lane as it stands."""
        env = self.envs[lane]
        name = type(env.unwrapped).__name__
        if env.render_mode != "rgb_array":
            raise UserError(
                f"{name} cannot draw itself; list 'rgb_array' in metadata['render_modes'] and take "
                "render_mode in its constructor"
            )
        with self.streams:
            picture = self._call(lane, env.render)
        return as_pixels(picture, f"{name}.render()")

    def close(self) -> None:
        """Close every copy."""
        envs, self.envs = self.envs, []
        for i, env in enumerate(envs):
            self.progress[0] += 1
            self.progress[1] = i
            close(env)

    # ---- within -----------------------------------------------------------------------------

    def _set_tasks(self) -> None:
        """Give every lane a copy of its task; environments without ``set_task`` have only one."""
        with self.streams:
            for i, seat in enumerate(self.seats):
                set_task = method_of(self.envs[i], "set_task")
                if set_task is not None:
                    self._call(i, set_task, self._call(i, copied, seat.task))

    def _restart(self, i: int, row: Shaped[np.ndarray, " o"], **seed: int) -> None:
        """Begin an episode; only the first after a reset is seeded, as Gymnasium advises."""
        result = self._call(i, self.envs[i].reset, **seed)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise self._fault(i, "contract", "reset() did not return the pair (obs, info)")
        self._check_spaces(i)
        self._write(i, result[0], row)

    def _call(self, i: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the user's code for lane ``i``."""
        self.progress[0] += 1
        self.progress[1] = i
        self.progress[2] = int(self.clock[i])
        try:
            return function(*args, **kwargs)
        except EnvError as error:
            raise EnvError(f"{error}, {self._where(i)}", error.code, error.trace) from error
        except (Exception, SystemExit) as error:
            raise raised(error, self._where(i)) from error

    def _checked(
        self, i: int, obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """What ``step`` returned, once its types are right."""
        reward = as_numpy(reward)
        if not isinstance(reward, float | int | np.number) and np.shape(reward) != ():
            message = f"the reward has shape {np.shape(reward)}; expected one number"
            raise self._fault(i, "reward", message)
        try:
            number = float("" if isinstance(reward, str) else reward)
        except (TypeError, ValueError):
            raise self._fault(i, "reward", f"the reward is {reward!r}; expected a number") from None
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                raise self._fault(i, "flags", f"{name} is {flag!r}; expected True or False")
        if not isinstance(info, dict):
            raise self._fault(i, "contract", f"info is a {type(info).__name__}; expected a dict")
        return obs, number, bool(terminated), bool(truncated), info

    def _write(self, i: int, obs: Any, row: Shaped[np.ndarray, " o"]) -> None:
        """Lay an observation into its row."""
        # A box that fits to the letter, by far the most frequent case, skips the longer look.
        fits = (
            isinstance(obs, np.ndarray)
            and isinstance(self.space, spaces.Box)
            and not self.layout.channels
            and obs.shape == self.space.shape
            and obs.dtype == self.space.dtype
        )
        if not fits and (fault := misfit(self.space, obs := as_numpy(obs))):
            raise self._fault(i, *fault)
        with np.errstate(over="ignore"):  # too large for float32 is inf, which is refused
            if fits:
                row[:] = obs.ravel()
            else:
                self.layout.write(obs, row)

    def _check_spaces(self, i: int) -> None:
        """Refuse spaces that follow the task: the policy has one output for all tasks."""
        for name, built, same in (
            ("action_space", self.action_space, same_actions),
            ("observation_space", self.space, same_layout),
        ):
            space = getattr(self.envs[i], name)
            if not same(space, built):
                raise self._fault(
                    i, name.replace("_", "-"), f"{name} is {described(space)} with this task and "
                    f"was {described(built)} when built; expected one for all tasks: give the "
                    "widest, and rescale in step()",
                )  # fmt: skip

    def _check_finite(self, what: str, values: Float32[np.ndarray, "l *x"]) -> None:
        if not np.isfinite(values).all():
            lane, *place = np.argwhere(~np.isfinite(values))[0].tolist()
            at = f" at index {place[0]}" if place else ""
            raise self._fault(lane, "not-finite", f"{what} is {values[lane, *place]}{at}")

    def _fault(self, i: int, code: str, message: str) -> EnvError:
        name = type(self.envs[i].unwrapped).__name__
        return EnvError(f"{name}: {message}, {self._where(i)}", code)

    def _where(self, i: int) -> str:
        return whereabouts(self.seats[i], int(self.clock[i]))


def whereabouts(seat: Seat, step: int) -> str:
    """Task, step and lane in words."""
    when = f"step {step} of the episode" if step else "at reset"
    return f"task {described(seat.task)}, {when}, lane {seat.lane} of task number {seat.row}"


# ---- in this process, or in several --------------------------------------------------------


class Here:
    """A crew of one, which is this process."""

    size = 1

    def __init__(self, builder: Callable[..., Copies]) -> None:
        self.copies = builder()

    def call(self, method: str, parts: Sequence[Any], first: int = 0) -> list[Any]:
        """``copies.method(part)`` for the only part."""
        return [getattr(self.copies, method)(part) for part in parts]

    def close(self) -> None:
        """Close the copies."""
        self.copies.close()


class Lost(Exception):
    """A worker that died or hung.

    Args:
        member: Which worker.
        reason: What happened, in words.
        lane: Its lane that was being stepped, counted within the worker.
        step: The step that lane was at.
    """

    def __init__(self, member: int, reason: str, lane: int, step: int) -> None:
        super().__init__(reason)
        self.member, self.reason, self.lane, self.step = member, reason, lane, step


class Member(NamedTuple):
    """One worker process."""

    process: SpawnProcess
    pipe: Connection
    progress: MutableSequence[int]
    """Shared memory: calls made, lane, step (see ``Copies``)."""

    def waits_for(self, done: Callable[[float], bool], timeout_s: float) -> bool:
        """Whether ``done``, which may wait for some seconds, came while the worker progressed."""
        calls, since = self.progress[0], time.monotonic()
        while not done(min(1.0, timeout_s / 4)):
            if self.progress[0] != calls:
                calls, since = self.progress[0], time.monotonic()
            elif time.monotonic() - since > timeout_s:
                return False
        return True

    def has_ended(self, timeout_s: float) -> bool:
        """Wait for its end."""
        self.process.join(timeout_s)
        return not self.process.is_alive()

    def kill(self) -> None:
        """End it, and whatever its environments have started."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # before it has a group of its own
        self.process.join()


_START_S = 120.0
"""Time for a worker to start and import, in seconds; on a busy machine torch alone takes ten."""
_CLOSE_S = 5.0
"""Longest time that a worker asked to leave may spend on the closing of one copy, in seconds."""


class Crew:
    """Worker processes that each hold one ``Copies``.

    Workers start with a fresh interpreter (spawn): nothing of this process leaks into them. Each
    leads a session of its own, so that what its environments start can be ended with it, and that
    Ctrl-C reaches this process alone. They leave when this process does, however it ends.

    Args:
        builder: Picklable; called in each worker as ``builder(progress=...)``.
        size: Number of processes.
        timeout_s: Longest time one call into the user's code may take, in seconds.

    Raises:
        UserError: The environment cannot be handed to another process.
        Lost: A worker did not start.
    """

    def __init__(self, builder: Callable[..., Copies], size: int, timeout_s: float) -> None:
        self.size, self.timeout_s = size, timeout_s
        context = multiprocessing.get_context("spawn")
        self.members: list[Member] = []
        # multiprocessing waits for its processes at exit; these are asked to leave before that.
        self.close = Finalize(self, _dismiss, (self.members,), exitpriority=1)
        """Let every worker close its copies, and end it."""
        try:
            for _ in range(size):
                self.members.append(_start(context, builder))
            for i in range(size):
                self._answer(i, _START_S)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, parts: Sequence[Any], first: int = 0) -> list[Any]:
        """``copies.method(part)``, each part in its own worker from number ``first`` on.

        After an exception an answer may be under way still: then the crew can only be closed.
        """
        members = range(first, first + len(parts))
        for i, part in zip(members, parts, strict=True):
            self._ask(i, method, part)
        return [self._answer(i, self.timeout_s) for i in members]

    def _ask(self, i: int, method: str, part: Any) -> None:
        try:
            self.members[i].pipe.send((method, part))
        except OSError:  # its end of the pipe is gone
            raise self._lost(i) from None
        except Exception as error:
            raise UserError(f"a task cannot be sent to a worker process: {error}") from error

    def _answer(self, i: int, timeout_s: float) -> Any:
        """Wait for worker ``i`` as long as it makes progress."""
        member = self.members[i]
        pipe, progress = member.pipe, member.progress
        try:
            # A process that the environment started may hold a dead worker's end of the pipe.
            if not member.waits_for(
                lambda s: pipe.poll(s) or not member.process.is_alive(), timeout_s
            ):
                text = f"gave no answer within {timeout_s:g} s (--step-timeout) and was stopped"
                member.kill()
                raise Lost(i, text, progress[1], progress[2])
            if not pipe.poll():
                raise self._lost(i)
            answer = pipe.recv()
        except (EOFError, OSError):
            raise self._lost(i) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _lost(self, i: int) -> Lost:
        process, _, progress = self.members[i]
        process.join(5)
        return Lost(i, f"died (exit code {process.exitcode})", progress[1], progress[2])


def _dismiss(members: list[Member]) -> None:
    """Ask all to close their copies and leave; end those that do not."""
    for member in members:
        member.process.terminate()
        member.pipe.close()
    for member in members:
        member.waits_for(member.has_ended, _CLOSE_S)
        member.kill()
        member.process.close()
    members.clear()


def _start(context: SpawnContext, builder: Callable[..., Copies]) -> Member:
    ours, theirs = context.Pipe()
    progress = context.RawArray("q", 3)
    # Not a daemon: those may have no processes of their own, which some environments need.
    process = context.Process(target=_work, args=(theirs, builder, progress), daemon=False)
    try:
        process.start()
    except Exception as error:  # what pickle raises for a lambda differs between versions
        raise UserError(
            "the environment cannot be handed to worker processes; give it as module:Class, or "
            f"leave --workers out ({error})"
        ) from error
    finally:
        theirs.close()
    return Member(process, ours, progress)


def _work(pipe: Connection, builder: Callable[..., Copies], progress: MutableSequence[int]) -> None:
    """The life of a worker: answer calls until asked to leave, or until the pipe closes."""
    os.setsid()
    signals.stop_by(signal.SIGTERM, KeyboardInterrupt)
    signals.stop_by(signal.SIGINT, KeyboardInterrupt)
    copies = builder(progress=progress)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        pipe.send(None)  # ready
        while True:
            method, part = pipe.recv()
            try:
                answer = getattr(copies, method)(part)
            except Exception as error:
                answer = error
            pipe.send(answer)
    with contextlib.suppress(KeyboardInterrupt):
        copies.close()
    # Without the user's atexit handlers, which may hang; with all that is left of the session.
    os.killpg(0, signal.SIGKILL)
