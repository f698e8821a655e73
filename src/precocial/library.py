"""Trained runs from Python: evaluate them, act with them, watch them."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from precocial.algos import ALGOS, CLASSES
from precocial.algos.model.shared import ModelBased, ModelErrors
from precocial.envs import SAME_TASKS
from precocial.envs.base import TensorTaskEnv
from precocial.envs.oracle import OracleEnv
from precocial.evaluation.curve import Curve, adaptation_curve, summarise, summarise_errors
from precocial.ops.returns import episode_returns
from precocial.presets import JOINT
from precocial.rollout import collect
from precocial.runs import checkpoint
from precocial.seeding import generator
from precocial.statistics import bootstrap_interval
from precocial.training import Plan, load_algorithm, read_plan
from precocial.types import Algorithm, Learner, Rollout, Split, Step, TaskEnv, Tasks, UserError


def expand_runs(folders: list[Path]) -> list[Path]:
    """Run folders among ``folders``; a parent of ``seed-S`` folders stands for all of them."""
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; expected a run folder made by train")
        seeds = sorted(folder.glob("seed-*/config.yaml"))
        runs += [path.parent for path in seeds] if seeds else [folder]
    return runs


class Trained:
    """A trained run: its plan, environment and algorithm."""

    def __init__(self, plan: Plan, env: TaskEnv, algorithm: Algorithm, iteration: int) -> None:
        self.plan, self.env, self.algorithm, self.iteration = plan, env, algorithm, iteration

    def learner(self, num_tasks: int = 1, lanes: int = 1, seed: int = 0) -> Agent:
        """A fresh learner to use in a loop of your own: NumPy in, NumPy out.

        Args:
            num_tasks: Tasks learned in parallel (N).
            lanes: Episodes in parallel per task (E).
            seed: Of its exploration.
        """
        if ALGOS[self.plan.algo].sees_task:
            raise UserError(
                f"{self.plan.algo} needs the task's numbers in its observation, which no loop of "
                "yours has; load a run of another algorithm"
            )
        rng = generator(seed, "agent", device=self.plan.run.device)
        inner = self.algorithm.learner(num_tasks, lanes, rng)
        return Agent(self, inner, num_tasks, lanes)


class Agent:
    """A learner for any loop around any Gymnasium environment of the family.

    Observations and actions are the environment's own. With one task and one lane they come
    without the task and lane axes, as ``env.reset`` and ``env.step`` give and take them.
    """

    def __init__(self, trained: Trained, learner: Learner, num_tasks: int, lanes: int) -> None:
        self.trained, self.inner = trained, learner
        self.axes = (num_tasks, lanes)
        self.raw: Tensor | None = None

    def act(self, obs: Any, *, explore: bool = True) -> Any:
        """An action in the environment's units; ``explore=False`` for the most likely one."""
        raw = self.raw = self.inner.act(self.encode(obs), explore=explore)
        env = self.trained.env
        if env.spec.action_kind == "discrete":
            action = raw.cpu().numpy() + getattr(env, "action_start", 0)
            return int(action[0, 0]) if self.axes == (1, 1) else action
        unit = raw.cpu() / env.spec.action_scale
        low, high = torch.tensor(env.spec.action_low), torch.tensor(env.spec.action_high)
        action = torch.lerp(low, high, (unit.clamp(-1, 1) + 1) / 2).numpy()
        space = getattr(env, "action_space", None)  # of a user's environment
        if space is not None:
            action = action.astype(space.dtype).reshape(*self.axes, *space.shape)
        return action[0, 0] if self.axes == (1, 1) else action

    def observe(self, next_obs: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Tell what the last action led to; ``next_obs`` as ``env.step`` returned it.

        Raises:
            UserError: nothing was acted yet, or a shape is wrong.
        """
        if self.raw is None:
            raise UserError("observe() before any act(); expected act, env.step, observe")
        following = self.encode(next_obs)
        step = Step(
            following, following, self._shape(reward, torch.float32),
            self._shape(terminated, torch.bool), self._shape(truncated, torch.bool), {},
        )  # fmt: skip
        self.inner.observe(self.raw, step)

    def adapt(self) -> None:
        """Learn from everything observed since the last call."""
        self.inner.adapt()

    def save(self, path: Path | str) -> None:
        """Write the adapted learner to one file."""
        state = {"learner": self.inner.state_dict(), "axes": list(self.axes)}
        checkpoint.save(Path(path), state)

    def encode(self, obs: Any) -> Tensor:
        """(N, E, O) from the environment's own observation."""
        env = self.trained.env
        flat = env.encode(obs) if self.axes == (1, 1) and hasattr(env, "encode") else obs
        tensor = torch.as_tensor(np.asarray(flat), dtype=torch.float32)
        expected = (*self.axes, env.spec.obs_dim)
        if tensor.numel() != int(np.prod(expected)):
            raise UserError(
                f"the observation has shape {tuple(tensor.shape)}; expected "
                f"{expected if self.axes != (1, 1) else (env.spec.obs_dim,)}"
            )
        return tensor.reshape(expected).to(self.trained.plan.run.device)

    def _shape(self, value: Any, dtype: torch.dtype) -> Tensor:
        tensor = torch.as_tensor(value, dtype=dtype, device=self.trained.plan.run.device)
        return tensor.reshape(self.axes)


def load(folder: Path | str, which: str = "last") -> Trained:
    """Load a run folder; ``which`` is ``last`` or ``best`` (by return on valid tasks).

    Raises:
        UserError: no run folder, or a damaged checkpoint.
    """
    return Trained(*load_algorithm(Path(folder), which))


def load_agent(folder: Path | str, path: Path | str) -> Agent:
    """The adapted learner that ``Agent.save`` wrote, for the run it came from."""
    trained = load(folder)
    state = checkpoint.load(Path(path), trained.plan.run.device)
    agent = trained.learner(*state["axes"])
    agent.inner.load_state_dict(state["learner"])
    return agent


def evaluate(
    folders: list[Path | str] | Path | str,
    *,
    split: Split = "test",
    tasks: int = 40,
    lanes: int | None = None,
    updates: int | None = None,
    episodes: int | None = None,
    greedy: bool = False,
    adapt_lrs: tuple[float, ...] = (),
    which: str = "last",
    references: list[Path | str] | None = None,
    seed: int = 0,
    keep: bool = True,
) -> dict[str, Any]:
    """The adaptation curve of one run, or of several seeds of it, on held-out tasks.

    Args:
        folders: Run folders, or a parent of ``seed-S`` folders.
        split: ``train``, ``valid``, ``test`` or ``shifted``.
        tasks: Number of tasks (N), the same for every run.
        lanes: Episodes per task and stage (E), for references too; default as in training.
        updates: Updates after the first stage, for methods that update; default 3, or the whole
            trial.
        episodes: Episodes of the trial, for methods that learn within one; default all of it.
        greedy: Score the most likely actions instead of samples.
        adapt_lrs: Rates of update 1, 2, 3, ... instead of the run's own; choose them on ``valid``.
        which: ``last`` or ``best`` checkpoint.
        references: Runs to score on the same tasks, before adapting and after.
        seed: Of the tasks and of all randomness here.
        keep: Also write ``eval/SPLIT-SEED.json`` into the folder, where one was given;
            ``-greedy`` and ``-best`` are part of the name where they apply.

    Returns:
        The JSON object that ``precocial eval --json`` prints.
    """
    given = [Path(f) for f in (folders if isinstance(folders, list) else [folders])]
    runs = expand_runs(given)
    plans = [read_plan(run) for run in runs]
    if any(p.algo != plans[0].algo or _family(p) != _family(plans[0]) for p in plans):
        raise UserError(
            "these runs differ in algorithm, environment or its options; evaluate one group of "
            "seeds at a time and give the others as --reference"
        )
    if stage_unit(plans[0]) == "episode":
        if updates is not None or adapt_lrs:
            raise UserError(
                f"{plans[0].algo} learns within a trial and is never updated; leave --updates and "
                "--adapt-lrs out, try --episodes 2"
            )
        updates = None if episodes is None else episodes - 1
    elif episodes is not None:
        raise UserError(f"{plans[0].algo} learns by updates; leave --episodes out, try --updates 1")
    others = expand_runs([Path(f) for f in references or []])
    for other in map(read_plan, others):
        if _family(other) != _family(plans[0]):
            raise UserError(
                f"the reference {other.algo} was trained on {other.env} with other options than "
                f"{plans[0].env} here; references must share the environment"
            )
        if other.algo not in JOINT and stage_unit(other) != stage_unit(plans[0]):
            raise UserError(
                f"a stage of {other.algo} is one {stage_unit(other)} and a stage of "
                f"{plans[0].algo} one {stage_unit(plans[0])}; evaluate them apart, the two never "
                "share a table"
            )
    lanes = lanes or plans[0].algo_config.lanes
    score = partial(
        _score, split=split, tasks=tasks, updates=updates, greedy=greedy, lanes=lanes, which=which,
        seed=seed,
    )  # fmt: skip
    scored = [
        score(run, adapt_lrs=adapt_lrs, with_known=i == 0) for i, run in enumerate(runs)
    ]  # known methods score the same whichever run they stand beside
    first = scored[0]
    result = {
        "algorithm": plans[0].algo, "env": plans[0].env, "preset": plans[0].preset,
        "split": split, "num_tasks": tasks, "lanes": first["lanes"], "seed": seed,
        "runs": len(runs), "run_seeds": [p.run.seed for p in plans],
        "stage_unit": first["unit"], "greedy": greedy, "checkpoint": which,
        "adapt_lrs": first["adapt_lrs"],
    } | summarise([s["curve"] for s in scored])  # fmt: skip
    if first["trial"]:
        totals = np.stack([s["curve"].returns.sum(1) for s in scored])
        result |= {
            "trial_return_mean": float(totals.mean()),
            "trial_ci95": list(bootstrap_interval(totals, 400, trim=False)),
            "trial_stderr": float(totals.mean(0).std() / np.sqrt(tasks)),
            "trial_return_seeds": [float(x) for x in totals.mean(1)],
        }
    errors = [error for s in scored for error in s["model_errors"]]
    if errors:
        result["model_error"] = summarise_errors(errors)
    result["references"] = {"oracle": None, "multi-task": None, "optimum": first["optimum"]}
    result["reference_curves"] = {}
    curves: dict[str, list[Curve]] = {k: [v] for k, v in first["known"].items()}
    same_stages = len(first["curve"].episodes_seen) - 1
    met = [rollout for s in scored for rollout in s["trials"]]
    theirs: dict[str, list[ModelErrors]] = {}  # on the transitions that these met
    for run in others:
        algo = read_plan(run).algo
        if algo == plans[0].algo:  # told apart from the runs in question by its folder
            home = run.parent if run.name.startswith("seed-") else run
            algo = f"{algo} ({home.name})"
        if stage_unit(read_plan(run)) == first["unit"]:
            one = score(run, updates=same_stages, data=met)
            curve = one["curve"]
            if met:
                theirs.setdefault(algo, []).extend(one["model_errors"])
        else:  # scored as it is, episode after episode
            curve = score(run, updates=0)["curve"]
            flat = np.repeat(curve.returns, same_stages + 1, 1)
            curve = Curve(flat, None, first["curve"].episodes_seen, first["curve"].env_steps_seen)
        curves.setdefault(algo, []).append(curve)
    if theirs:
        result["reference_errors"] = {k: summarise_errors(v) for k, v in theirs.items()}
    for name, group in curves.items():
        stages = summarise(group, intervals=False)["stages"]
        total = float(np.mean([c.returns.sum(1).mean() for c in group]))
        result["references"][name] = total if first["is_trial"] else stages[0]["return_mean"]
        result["reference_curves"][name] = stages
    result |= {"task_params": first["task_params"], "family_size": first["family_size"]}
    if keep and len(given) == 1:
        variant = [split, str(seed)] + ["greedy"] * greedy + ["best"] * (which == "best")
        _write(given[0] / "eval" / f"{'-'.join(variant)}.json", json.dumps(result))
    return result


def stage_unit(p: Plan) -> str:
    """What a stage of a run is, ``update`` or ``episode``."""
    return str(CLASSES[type(p.algo_config)].stage_unit)


def _family(p: Plan) -> tuple[str, dict[str, Any]]:
    """What two runs must share to be scored on the same tasks."""
    return p.env, {k: v for k, v in vars(p.env_config).items() if k not in SAME_TASKS}


def _write(path: Path, text: str) -> None:
    """Write whole or not at all."""
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _score(
    run: Path,
    *,
    split: Split,
    tasks: int,
    updates: int | None,
    greedy: bool,
    lanes: int | None,
    which: str,
    seed: int,
    adapt_lrs: tuple[float, ...] = (),
    with_known: bool = False,
    data: list[Rollout] | None = None,
) -> dict[str, Any]:
    """One run on the evaluation's tasks.

    ``data`` is what its model, if it has one, is to predict, rollout by rollout; by default what it
    met itself, of the first chunk of tasks.
    """
    overrides = {"adapt_lrs": adapt_lrs} if adapt_lrs else {}
    p, env, algorithm, _ = load_algorithm(run, which, **overrides)
    usual = algorithm.num_stages if algorithm.is_trial else 4
    stages = usual if updates is None else updates + 1
    in_trial = algorithm.is_trial
    trial = in_trial and stages == usual
    assert lanes is not None
    trials: list[Rollout] = []

    def keep_first(rollout: Rollout) -> None:
        if not trials:
            trials.append(rollout)

    try:
        batch = env.sample_tasks(tasks, split, generator(seed, "evaluation tasks", split))
        curve = adaptation_curve(
            algorithm, env, batch, stages=stages, lanes=lanes, seed=seed, greedy=greedy,
            device=p.run.device,
            on_trial=keep_first if isinstance(algorithm, ModelBased) else None,
        )  # fmt: skip
        errors = []
        if isinstance(algorithm, ModelBased):
            errors = [
                algorithm.model_error(tree_map(lambda x: x.to(p.run.device), rollout))
                for rollout in data or trials
            ]
        # The optimum is that of the family's whole trial, on the prior it was computed for.
        own = env.spec.trial_episodes or 1
        own_length = stages == own if in_trial else own == 1
        known = split != "shifted" and own_length
        optimum = env.optimum(batch) if known else None
        # Known methods are scored on the very same tasks, an episode a stage.
        scores = {}
        if with_known and in_trial:
            scores = env.references(batch, stages, generator(seed, "references"))
    finally:
        env.close()
    seen = curve.episodes_seen, curve.env_steps_seen
    references = {k: Curve(v.cpu().double().numpy(), None, *seen) for k, v in scores.items()}
    small = {k: v[:1000].tolist() for k, v in batch.params.items() if v[0].numel() <= 8}
    return {
        "curve": curve, "model_errors": errors, "trials": trials, "lanes": lanes,
        "unit": algorithm.stage_unit, "trial": trial, "adapt_lrs": algorithm.test_lrs(stages - 1),
        "is_trial": in_trial, "known": references,
        "optimum": None if optimum is None else float(optimum.mean()), "task_params": small,
        "family_size": env.spec.num_tasks,
    }  # fmt: skip


class Film(NamedTuple):
    """One filmed episode."""

    frames: list[np.ndarray]
    """Before every action, and after the last."""
    episode_return: float
    stage: int
    """Number of updates or of episodes before it."""
    unit: Literal["update", "episode"]
    """What ``stage`` counts."""


MOST_FILMS = 4
"""Of a trial with more episodes, only the first, the second and the last are shown."""


def film(
    folder: Path,
    *,
    updates: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    which: str = "last",
) -> list[Film]:
    """Episodes of lane 0 on one unseen task.

    Of a method that updates: the first before adapting and the first after each of ``updates``
    (default 1). Of one that remembers: a trial of ``episodes`` (default: a whole one).

    Raises:
        UserError: a number that the method has no use for, or a family that draws no pictures.
    """
    p, env, algorithm, _ = load_algorithm(folder, which)
    by_episode = algorithm.stage_unit == "episode"
    try:
        if by_episode and updates is not None:
            raise UserError(
                f"{p.algo} is not updated during a trial; leave --updates out, try --episodes 2"
            )
        if not by_episode and episodes is not None:
            raise UserError(f"{p.algo} learns by updates; leave --episodes out, try --updates 1")
        tasks = env.sample_tasks(1, "test", generator(seed, "evaluation tasks", "test"))
        rng = generator(seed, "film", device=p.run.device)
        if by_episode:
            learner = algorithm.learner(1, 1, rng)
            return _film(env, tasks, learner, 1, rng, episodes or algorithm.num_stages)
        learner, films = algorithm.learner(1, p.algo_config.lanes, rng), []
        for stage in range((1 if updates is None else updates) + 1):
            if stage:
                learner.adapt()
            [first] = _film(env, tasks, learner, p.algo_config.lanes, rng, 1)
            films.append(first._replace(stage=stage, unit="update"))
    finally:
        env.close()
    return films


def _film(
    env: TaskEnv, tasks: Tasks, learner: Learner, lanes: int, rng: torch.Generator, episodes: int
) -> list[Film]:
    """The first ``episodes`` episodes of lane 0, without a break; of many, the most telling."""
    shown = range(episodes) if episodes <= MOST_FILMS else (0, 1, episodes - 1)
    camera = _Camera(env, learner, shown)
    num_steps = episodes * env.spec.horizon
    rollout = collect(env, tasks, camera, lanes, num_steps, rng, on_step=camera.shoot)
    ended = (rollout.terminated | rollout.truncated)[0, 0]
    returns = episode_returns(rollout.reward[0, 0], ended, episodes).tolist()
    return [Film(camera.frames[k], returns[k], k, "episode") for k in shown]


class _Camera:
    """Acts for a learner and films some episodes of lane 0 of the first task.

    Before every action, and once more after the last where the family keeps what it came to.
    """

    def __init__(self, env: TaskEnv, learner: Learner, shown: Collection[int]) -> None:
        self.env, self.learner = env, learner
        inner = env.env if isinstance(env, OracleEnv) else env
        self.family = inner if isinstance(inner, TensorTaskEnv) else None
        self.frames: dict[int, list[np.ndarray]] = {k: [] for k in shown}
        self.number = 0
        self.acted: dict[str, Tensor] = {}

    def shoot(self) -> None:
        """The lane as it stands."""
        if self.number in self.frames:
            self.frames[self.number].append(self.env.render(0, 0))

    def act(self, obs: Tensor, *, explore: bool = True) -> Tensor:
        """As the learner."""
        action = self.learner.act(obs, explore=explore)
        self.acted = self.learner.acted
        return action

    def observe(self, action: Tensor, step: Step) -> None:
        """As the learner; an episode that ended is seen off."""
        self.learner.observe(action, step)
        if bool(step.terminated[0, 0] | step.truncated[0, 0]):
            if self.family and self.number in self.frames:
                self.frames[self.number].append(self.family.render_end(0, 0))
            self.number += 1
