"""One kept evaluation, ``eval/SPLIT-SEED.json``, with what its intervals are over."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from precocial.presets import JOINT
from precocial.statistics import TaskSample

UPDATED = JOINT
"""References that adapt by updates alone: through a trial of episodes they stay as they are."""
REFERENCES = (*UPDATED, "domain-randomization")
"""Algorithms that others are compared with; they are not expected to gain from adapting."""
Kind = tuple[str, str, bool, str, int]
Estimate = tuple[float, float, float]
"""Mean, and both ends of its 95 % interval; these are NaN where there is none."""


@dataclass(frozen=True)
class Stage:
    """One point of an adaptation curve."""

    stage: int
    score: float
    """Interquartile mean; the mean where a stage is an episode, whose return may be 0 or 1."""
    low: float
    high: float
    """Ends of its 95 % interval; NaN where there is none."""
    success: float | None
    """Share of episodes that succeeded."""


def below(a: Estimate, b: Estimate) -> bool:
    """Whether all of one interval is below all of another."""
    return a[2] < b[1]


@dataclass(frozen=True)
class Recovery:
    """Returns around a change of the world in the middle of an episode."""

    every: int
    """Steps that a return is summed over."""
    start: list[int]
    """First step of every sum, counted from the change."""
    returns: list[Estimate]

    def at(self, start: int) -> Estimate | None:
        """The sum that begins at a step, where it is known."""
        return self.returns[self.start.index(start)] if start in self.start else None


@dataclass(frozen=True)
class ModelError:
    """Next-state error of a model, in standard deviations of the state's change over a step."""

    unadapted: Estimate
    adapted: Estimate
    seeds: list[tuple[float, float]]
    """(unadapted, adapted) of every seed."""
    since: str
    """What transitions are counted from, ``start`` of the episode or ``switch`` of the world."""
    transitions: list[int]
    unadapted_curve: list[float]
    """Error by transitions seen."""
    adapted_curve: list[float]

    @property
    def adapts(self) -> bool:
        """Whether the model predicts anything else once it has seen the task."""
        pairs = zip(
            [self.unadapted[0], *self.unadapted_curve],
            [self.adapted[0], *self.adapted_curve],
            strict=True,
        )
        known = [pair for pair in pairs if all(map(math.isfinite, pair))]
        return not all(math.isclose(a, b, rel_tol=1e-6) for a, b in known)

    @property
    def has_intervals(self) -> bool:
        """Whether the file says how far chance could move the errors."""
        return all(map(math.isfinite, (*self.unadapted, *self.adapted)))

    @property
    def gap(self) -> int:
        """1 if adapting lowered the error, -1 if it raised it, 0 while the intervals overlap."""
        return below(self.adapted, self.unadapted) - below(self.unadapted, self.adapted)


@dataclass(frozen=True)
class Evaluation:
    """An adaptation curve over one or more seeds."""

    split: str
    unit: str
    """What one stage is, ``update`` or ``episode``."""
    greedy: bool
    num_tasks: int
    tasks: TaskSample
    """The tasks of ``per_task``."""
    num_seeds: int
    eval_seed: int
    lanes: int
    checkpoint: str
    stages: list[Stage]
    per_task: np.ndarray
    """(N, stages): returns of at most the first 1 000 tasks, mean over seeds."""
    seed_means: np.ndarray
    """(S, stages): mean return over all tasks."""
    references: dict[str, float]
    """Return before adapting, or of the whole trial where stages form one."""
    reference_curves: dict[str, list[float]]
    """Score by stage, the same statistic as that of ``stages``."""
    task_params: dict[str, np.ndarray]
    finite_family: bool
    """Whether held-out tasks repeat: then train and test tasks are the same."""
    success_rate: float | None
    is_trial: bool
    """Whether every episode counts; not where those before the last are for learning."""
    trial: Estimate | None
    """Mean and 95 % interval of the sum over all stages, where they are one trial."""
    recovery: Recovery | None
    """Of the first episode, where the world changes during it."""
    model_error: ModelError | None
    """Where the method has a model: on the transitions that it met itself."""
    reference_errors: dict[str, ModelError]
    """Of other models on the same transitions."""
    outdated: bool
    """Whether the file's own intervals were drawn in a way that made them wrong: left out."""
    files: tuple[Path, ...]

    @property
    def kind(self) -> Kind:
        """Evaluations compare only within a kind."""
        episodes = len(self.stages) if self.by_episode else 0
        return self.split, self.unit, self.greedy, self.checkpoint, episodes

    @property
    def by_episode(self) -> bool:
        """Whether a stage is an episode of a trial."""
        return self.unit == "episode"

    @property
    def has_intervals(self) -> bool:
        """Whether anything is known of how far chance could move the scores."""
        return math.isfinite(self.stages[-1].low)

    @property
    def gain(self) -> float:
        """Score of the last stage less that of the first."""
        return self.stages[-1].score - self.stages[0].score


def read_evaluation(path: Path) -> Evaluation:
    """Read one ``eval/SPLIT-SEED.json``.

    Raises:
        ValueError, KeyError, TypeError: the file is not such an object.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    per_task = np.array(document["per_task_return"], dtype=np.float64)
    params = document.get("task_params") or {}
    arrays = {k: np.array(v, dtype=np.float64)[: len(per_task)] for k, v in params.items()}
    arrays = {k: v for k, v in arrays.items() if len(v) == len(per_task)}
    outdated = _is_outdated(document, arrays)
    if outdated:
        document = _without_intervals(document)
    if not document["stages"] or per_task.shape[1:] != (len(document["stages"]),):
        raise ValueError("per_task_return does not fit the stages")
    if not np.isfinite(per_task).all():
        raise ValueError("per_task_return is not finite")
    unit, num_tasks = str(document["stage_unit"]), int(document["num_tasks"])
    seed_means = np.array([s["seed_means"] for s in document["stages"]], dtype=np.float64).T
    score = "return_mean" if unit == "episode" else "return_iqm"
    stages = []
    for s in document["stages"]:
        hits = s.get("success_rate")
        stages.append(Stage(int(s["stage"]), *estimate(s[score], s["ci95"]), hits))
    totals = document.get("references") or {}
    references = {k: float(v) for k, v in totals.items() if v is not None}
    found = (document.get("reference_curves") or {}).items()
    curves = {name: [float(s[score]) for s in curve] for name, curve in found}
    sample = _sample(document, arrays, len(per_task))
    trial = None
    if unit == "episode" or document.get("trial_return_mean") is not None:
        mean, *interval = mean_interval(per_task.sum(1), seed_means.sum(1), num_tasks, sample)
        known = document.get("trial_return_mean", mean)
        trial = estimate(known, document.get("trial_ci95") or interval)
    if unit == "episode":
        stages = with_means(stages, per_task, seed_means, num_tasks, sample)
        if len(stages) == 1 and trial:  # the same number has the same interval everywhere
            stages = [replace(stages[0], low=trial[1], high=trial[2])]
        for name in {*curves} & {*UPDATED}:
            curves[name] = curves[name][:1] * len(stages)
            references[name] = sum(curves[name])
    split = str(document["split"])
    return Evaluation(
        split=split,
        unit=unit,
        greedy=bool(document.get("greedy", False)),
        num_tasks=num_tasks,
        tasks=sample,
        num_seeds=int(document.get("runs", 1)),
        eval_seed=int(document.get("seed", 0)),
        lanes=int(document.get("lanes", 0)),
        checkpoint=str(document.get("checkpoint", "last")),
        stages=stages,
        per_task=per_task,
        seed_means=seed_means,
        references=references,
        reference_curves=curves,
        task_params=arrays,
        finite_family=split != "train" and _is_finite(document, arrays),
        success_rate=document.get("success_rate"),
        is_trial=bool(document.get("is_trial", True)),
        trial=trial,
        recovery=_recovery(document.get("recovery") or {}),
        model_error=_model_error(document.get("model_error") or {}),
        reference_errors={
            name: error
            for name, found in (document.get("reference_errors") or {}).items()
            if (error := _model_error(found))
        },
        outdated=outdated,
        files=(path,),
    )


def _is_outdated(document: dict[str, Any], params: dict[str, np.ndarray]) -> bool:
    """Whether tasks were drawn for each seed apart, all of a family again, or copies as others."""
    if "tasks_complete" in document:
        return False
    finite = document.get("family_size") is not None
    return finite or int(document.get("runs", 1)) > 1 or _some_repeat(params)


def _without_intervals(node: Any) -> Any:
    """The same JSON with null for every ``ci95``."""
    if isinstance(node, list):
        return [_without_intervals(value) for value in node]
    if not isinstance(node, dict):
        return node
    return {k: None if k.endswith("ci95") else _without_intervals(v) for k, v in node.items()}


def _sample(document: dict[str, Any], params: dict[str, np.ndarray], num: int) -> TaskSample:
    """Which tasks the rows of ``per_task`` are; told by their numbers where no ids were kept."""
    ids = document.get("task_ids")
    if ids is not None:
        return TaskSample(np.array(ids), bool(document["tasks_complete"]))
    rows = _numbers(params) if params else np.arange(num)[:, None]
    found = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    return TaskSample(found, len(np.unique(found)) >= (document.get("family_size") or np.inf))


def _recovery(found: dict[str, Any]) -> Recovery | None:
    if not found.get("start"):
        return None
    ends = found["ci95"] or [None] * len(found["start"])
    rows = zip(found["start"], found["return"], ends, strict=True)
    known = [(int(k), estimate(mean, ends)) for k, mean, ends in rows if math.isfinite(mean)]
    return Recovery(int(found["every"]), [k for k, _ in known], [row for _, row in known])


def _model_error(found: dict[str, Any]) -> ModelError | None:
    if not {"unadapted", "adapted"} <= found.keys():
        return None
    before, after = (
        estimate(found[name], found.get(f"{name}_ci95")) for name in ("unadapted", "adapted")
    )
    seeds = zip(
        found.get("unadapted_seeds", [before[0]]),
        found.get("adapted_seeds", [after[0]]),
        strict=True,
    )
    curves = found.get("by_transitions") or {}
    transitions = [int(k) for k in curves.get("transitions", [])]
    columns = [[float(v) for v in curves.get(name, [])] for name in ("unadapted", "adapted")]
    if {len(column) for column in columns} != {len(transitions)}:
        raise ValueError("by_transitions does not fit its transitions")
    for k, pair in enumerate(zip(*columns, strict=True)):
        if not any(pair):  # no lane got that far; no model is right to the last bit
            columns[0][k] = columns[1][k] = math.nan
    return ModelError(
        before, after, [(float(a), float(b)) for a, b in seeds],
        str(curves.get("since", "start")), transitions, *columns,
    )  # fmt: skip


def estimate(mean: float, ends: Sequence[float] | None) -> Estimate:
    """A mean with its interval, where there is one."""
    low, high = ends or (math.nan, math.nan)
    return float(mean), float(low), float(high)


def mean_interval(
    per_task: np.ndarray, seed_means: np.ndarray, num_tasks: int, tasks: TaskSample
) -> Estimate:
    """Mean and 95 % interval by the normal approximation, over tasks and over seeds.

    Tasks are left out where no others can be drawn; with one seed besides there is no interval.

    Args:
        per_task: (N,) scores of some of the tasks, mean over seeds.
        seed_means: (S,) means over all tasks.
        num_tasks: Number of all tasks.
        tasks: Those of ``per_task``.
    """
    mean, variance = float(seed_means.mean()), math.nan if tasks.fixed else 0.0
    if not tasks.fixed:
        means = tasks.means(per_task)
        variance += float(means.var(ddof=1)) / (len(means) * num_tasks / len(per_task))
    if len(seed_means) > 1:
        variance = np.nan_to_num(variance) + float(seed_means.var(ddof=1)) / len(seed_means)
    half = 1.96 * math.sqrt(variance)
    return mean, mean - half, mean + half


def with_means(
    stages: list[Stage], per_task: np.ndarray, seed_means: np.ndarray, num_tasks: int,
    sample: TaskSample,
) -> list[Stage]:  # fmt: skip
    """The stages with the mean and its interval instead of the interquartile mean's."""
    columns = zip(stages, per_task.T, seed_means.T, strict=True)
    return [
        Stage(s.stage, *mean_interval(tasks, means, num_tasks, sample), s.success)
        for s, tasks, means in columns
    ]


def _is_finite(document: dict[str, Any], params: dict[str, np.ndarray]) -> bool:
    """Whether the family has only so many tasks: as the file says, or because some repeat."""
    if "family_size" in document:
        return document["family_size"] is not None
    return _some_repeat(params)


def _some_repeat(params: dict[str, np.ndarray]) -> bool:
    """Whether some tasks are copies of others, by their numbers."""
    if not params:
        return False
    rows = _numbers(params)
    return len(np.unique(rows, axis=0)) < len(rows)


def _numbers(params: dict[str, np.ndarray]) -> np.ndarray:
    """All numbers of each task, a row for each."""
    return np.concatenate([v.reshape(len(v), -1) for v in params.values()], 1)
