"""The data every part of Precocial exchanges, and the axes they carry. No logic.

A batch of tasks is a tensor axis, always the first.

======  =============================  ======  ================================
letter  meaning                        letter  meaning
======  =============================  ======  ================================
N, n    tasks in the meta-batch        O, A    observation, action size
E, e    parallel episodes per task     K       inner updates
T, t    time steps                     B       transitions drawn from replay
======  =============================  ======  ================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from precocial.errors import UserError as UserError
from precocial.statistics import TaskSample

Split = Literal["train", "valid", "test", "shifted"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test", "shifted")
Metrics = dict[str, float]
"""What one iteration reports. Keys: ``episode_reward_mean...``, ``loss/...``, ``time/...``."""

Params = dict[str, Tensor]
"""Network parameters by name; each leaf shared ``(...)`` or one per task ``(N, ...)``."""


RewardFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Reward (...) of ``(obs (..., O), action (..., A), next_obs (..., O))``; the action clipped, +-1
spanning the bounds."""
TerminalFn = Callable[[Tensor], Tensor]
"""Whether ``next_obs`` (..., O) ends the episode: bool (...)."""


class Tasks(NamedTuple):
    """A batch of N tasks."""

    params: dict[str, Tensor]
    """Each ``(N, ...)``, e.g. ``{"goal": (N, 2)}``; empty for a user's opaque task objects."""
    id: Int[Tensor, " n"]
    """Stable identity: keys report rows, and the adapter's table of opaque tasks."""

    @property
    def num(self) -> int:
        """N, the number of tasks."""
        return int(self.id.shape[0])

    def select(self, index: slice) -> Tasks:
        """The tasks at ``index`` of the task axis."""
        return Tasks({k: v[index] for k, v in self.params.items()}, self.id[index])

    @classmethod
    def join(cls, parts: Sequence[Tasks]) -> Tasks:
        """All of them, one after the other."""
        params = {k: torch.cat([p.params[k] for p in parts]) for k in parts[0].params}
        return cls(params, torch.cat([p.id for p in parts]))


@runtime_checkable
class Belief(Protocol):
    """Exact posterior over the tasks of a family, given what an agent saw during its trial.

    A belief is a tensor dict with leaves ``(N, E, ...)``. It knows the family's prior and nothing
    of the task at hand.
    """

    dim: int
    """D, the size of ``features``."""

    def prior(self, obs: Float[Tensor, "n e o"]) -> dict[str, Tensor]:
        """The belief at the start of a trial, given its first observation."""
        ...

    def update(
        self,
        belief: dict[str, Tensor],
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        next_obs: Tensor,
    ) -> dict[str, Tensor]:
        """Bayes' rule for one transition; it goes on across episode ends."""
        ...

    def features(self, belief: dict[str, Tensor], obs: Tensor) -> Float[Tensor, "n e d"]:
        """The posterior as numbers of order one, as far as it matters at ``obs``."""
        ...


class Picture(NamedTuple):
    """An observation that is a square picture of bytes, with or without numbers beside it."""

    side: int
    """Height and width, pixels."""
    channels: int
    numbers: int = 0
    """How many there are beside it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the picture: height, width, channels."""
        return self.side, self.side, self.channels

    @property
    def size(self) -> int:
        """Bytes of a row that holds all (``nets/pictures.py``)."""
        return 4 * self.numbers + self.side * self.side * self.channels


class EnvSpec(NamedTuple):
    """What an algorithm may know of a task family."""

    name: str
    obs_dim: int
    """O, the size of the flat observation: float32 numbers, or the bytes of a picture's row."""
    action_kind: Literal["box", "discrete"]
    action_dim: int
    """A: the number of action components (box) or of actions (discrete)."""
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    """Bounds in the environment's own units; empty for discrete actions."""
    horizon: int
    """Time limit of an episode, in steps."""
    num_tasks: int | None
    """Number of distinct tasks of a finite family, None for a continuum."""
    task_dim: int
    """Size of ``task_features``, what ``oracle`` appends to the observation."""
    trial_episodes: int | None = None
    """Episodes of one trial, where the family says so (a bandit's pulls)."""
    lanes_at_once: int = 4000
    """Lanes that fit in memory together; evaluation takes tasks in chunks of at most this many."""
    threaded: bool = False
    """Stepping takes the cores for itself: torch had better not keep threads spinning meanwhile."""
    belief: Belief | None = None
    """The exact posterior over tasks, where the family knows it; for ``belief-oracle``."""
    reward_fn: RewardFn | None = None
    """The reward as a function of what can be seen, where it is one; for planners."""
    terminal_fn: TerminalFn | None = None
    """Whether a state ends the episode, where the family can end early and shows it; for
    planners."""
    command_dim: int = 0
    """The last so many columns of the observation are commands, such as a target: no action
    changes them, so a model does not predict them and a planner holds them."""
    action_scale: float = 1.0
    """The policy's output that spans the action bounds."""
    obs_names: tuple[tuple[str, tuple[int, int]], ...] = ()
    """First and last + 1 column of each named part of the observation, where parts have names."""
    split_sizes: tuple[tuple[Split, int], ...] = ()
    """Number of distinct tasks of each split that has only so many of its own."""
    picture: Picture | None = None
    """What a row of bytes holds; None where observations are float32 numbers."""

    @property
    def obs_dtype(self) -> torch.dtype:
        """Of observations, wherever they are kept."""
        return torch.uint8 if self.picture else torch.float32

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Of an observation as a Gymnasium environment gives it: a picture's, or a vector's."""
        return self.picture.shape if self.picture else (self.obs_dim,)

    def tasks_of(self, split: Split) -> int | None:
        """Number of distinct tasks of a split, None for a continuum."""
        return self.num_tasks or dict(self.split_sizes).get(split)


class Step(NamedTuple):
    """What one environment step returns."""

    obs: Shaped[Tensor, "n e o"]
    """What the policy sees next; after an ending, the new episode's first observation."""
    next_obs: Shaped[Tensor, "n e o"]
    """The true successor, never a reset observation."""
    reward: Float[Tensor, "n e"]
    terminated: Bool[Tensor, "n e"]
    """The MDP ended: bootstrap with 0."""
    truncated: Bool[Tensor, "n e"]
    """The clock ended: bootstrap with V(next_obs)."""
    info: dict[str, Tensor]
    """Each ``(n, e)``: ``success`` and the like, for metrics; never for a Learner."""


class Rollout(NamedTuple):
    """T steps on each of N x E lanes. Lanes are full: an ended episode restarts in place."""

    obs: Shaped[Tensor, "n e t o"]
    action: Shaped[Tensor, "n e t *a"]
    """Raw policy samples: box ``(N, E, T, A)`` float, discrete ``(N, E, T)`` int64."""
    reward: Float[Tensor, "n e t"]
    next_obs: Shaped[Tensor, "n e t o"]
    terminated: Bool[Tensor, "n e t"]
    truncated: Bool[Tensor, "n e t"]
    extra: dict[str, Tensor]
    """What the method needs besides, each ``(N, E, T, ...)``: the parameters of the
    distribution that acted, and ``info/NAME`` for what the environment reported."""

    @property
    def diverged(self) -> Bool[Tensor, "n e t"]:
        """Steps on which a simulation diverged: they led nowhere and say nothing of the action."""
        lost = self.extra.get("info/diverged")
        return torch.zeros_like(self.truncated) if lost is None else lost.bool()


@runtime_checkable
class TaskEnv(Protocol):
    """A family of tasks, N x E copies of it stepped together.

    ``reset`` must come first; the environment draws all of its randomness (reset, transition,
    noisy reward) from the generator given there. Policies hand over raw samples: the environment
    scales and clips them, a policy's +-1 spanning the action bounds.
    """

    spec: EnvSpec
    steps_taken: int
    """Environment steps since construction, over all lanes."""

    def sample_tasks(self, n: int, split: Split, rng: torch.Generator) -> Tasks: ...

    def reset(self, tasks: Tasks, lanes: int, rng: torch.Generator) -> Shaped[Tensor, "n e o"]: ...

    def switch(self, tasks: Tasks) -> None:
        """The world changes, the state stays."""
        ...

    def step(self, action: Tensor) -> Step:
        """Box actions: float ``(n, e, a)``; discrete: int64 ``(n, e)``."""
        ...

    def render(self, task: int, lane: int) -> UInt8[np.ndarray, "h w 3"]: ...

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n d"]:
        """The task as numbers of order one; only ``oracle`` reads them."""
        ...

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"] | None:
        """Expected return of the best task-ignorant learner or informed policy, where known."""
        ...

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """What known methods score on these tasks: returns of episode 1, 2, ..., k by name."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Continuing(Protocol):
    """An environment whose lanes can be left and taken up again, to the bit."""

    def leave(self) -> dict[str, Tensor]:
        """Where every lane stands, each ``(n, e, ...)``."""
        ...

    def enter(
        self, tasks: Tasks, standing: dict[str, Tensor], rng: torch.Generator
    ) -> Shaped[Tensor, "n e o"]:
        """Go on from there, instead of ``reset``; ``rng`` is drawn from henceforth."""
        ...


@runtime_checkable
class Acting(Protocol):
    """What ``collect`` needs: something that acts and may look at what follows.

    One whose ``act`` is long enough for all of torch's threads has an attribute ``plans``, True.
    """

    acted: dict[str, Tensor]
    """What the last ``act`` wants kept beside the action, each ``(n, e, ...)``."""

    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor: ...

    def observe(self, action: Tensor, step: Step) -> None:
        """Every step, every method; it keeps what it needs."""
        ...


@runtime_checkable
class Learner(Acting, Protocol):
    """One trial on N tasks that it must discover for itself, through reward and transition."""

    def adapt(self) -> None:
        """End of a stage; nothing to do for memory methods."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it has learned, to save it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Algorithm(Protocol):
    """A meta-learner. One file per paper implements it."""

    stage_unit: Literal["update", "episode"]
    """What one stage of the adaptation curve is."""
    num_stages: int
    """Stages of the adaptation curve in training."""
    is_trial: bool
    """Every stage counts: the score is the sum over the stages of a trial."""
    greedy: bool
    """Scored by its most likely actions, whatever ``eval`` is asked for."""
    progress: float
    """Share of the run that is done, 0 to 1; the loop sets it, schedules read it."""

    def test_lrs(self, num_updates: int) -> list[float]:
        """Inner rates of updates 1, 2, ... at test time; empty where nothing is updated."""
        ...

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> Learner:
        """A learner on a frozen copy of parameters and statistics; ``rng`` draws its actions."""
        ...

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One outer iteration; every random draw comes from ``rng``."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Stackable(Protocol):
    """An algorithm of which S, equal but for their seeds, can compute as one.

    Tasks and lanes of all lie one after the other on the task axis, and ``rng`` (``Generators``)
    has one generator for each. What comes out is, to rounding, what each would have got alone.
    """

    @staticmethod
    def update_together(
        members: Sequence[Any], env: TaskEnv, tasks: Tasks, rng: torch.Generator
    ) -> list[Metrics]:
        """``meta_update`` of each."""
        ...

    @staticmethod
    def learner_together(
        members: Sequence[Any], num_tasks: int, lanes: int, rng: torch.Generator
    ) -> Learner:
        """A learner on ``num_tasks`` tasks of each, frozen copies as always."""
        ...


@runtime_checkable
class Transferable(Protocol):
    """An algorithm that can begin from networks that were trained elsewhere, or be such a source.

    Networks have the field's names, which say what they can start: ``actor`` (a policy), ``critic``
    (a state's value), ``q`` (an action's), ``dynamics``, ``memory``; ``normaliser`` has the mean,
    variance and count of observations.
    """

    def networks(self) -> dict[str, Params]:
        """By name, as they stand."""
        ...

    def begin_with(self, networks: dict[str, Params]) -> None:
        """Take copies; optimisers and counters stay as they are at the start."""
        ...


@runtime_checkable
class Diagnosis(Protocol):
    """What one kind of algorithm alone can say of a rollout, such as how well a model predicts."""

    @property
    def key(self) -> str:
        """Its name in the result of ``eval``."""
        ...

    @property
    def reference_key(self) -> str:
        """The name of what references say of the same rollouts."""
        ...

    @staticmethod
    def summarise(parts: list[list[Any]], tasks: TaskSample) -> dict[str, Any]:
        """Several of its kind as JSON: of each run a list, rollout by rollout."""
        ...


@runtime_checkable
class Diagnosing(Protocol):
    """An algorithm that has more to say of an evaluation than returns."""

    def diagnose(self, rollout: Rollout, spec: EnvSpec) -> Diagnosis:
        """Look at what was met on N tasks, whoever acted; ``spec`` is of the environment then."""
        ...


@runtime_checkable
class Growing(Protocol):
    """State that is only ever added to, row by row: saved once, undone by its length."""

    @property
    def oldest(self) -> int:
        """Number of the first row that is still asked for, now or after an iteration is undone.

        0 where none is ever dropped.
        """
        ...

    def __len__(self) -> int:
        """Rows that were ever added."""
        ...

    def rows(self, start: int) -> dict[str, Tensor]:
        """Rows ``start``, ``start + 1``, ... to the last, each field ``(rows, ...)``.

        Where the first of them are not here any more, they are left out.
        """
        ...

    def skip(self, length: int) -> None:
        """Count the first ``length`` rows as added and dropped."""
        ...

    def extend(self, rows: dict[str, Tensor]) -> None:
        """Append rows."""
        ...

    def shrink(self, length: int) -> None:
        """Forget all rows but the first ``length``."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """An algorithm that keeps what it experienced beside the state that changes."""

    replay: Growing
