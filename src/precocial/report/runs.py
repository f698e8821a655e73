"""What run folders hold, read without torch: settings, metrics, evaluations, pictures."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from precocial.envs import SAME_TASKS
from precocial.errors import UserError
from precocial.runs.rows import read_rows
from precocial.statistics import TaskSample, bootstrap_intervals, interquartile_mean

UPDATED = ("multi-task", "oracle", "scratch")
"""References that adapt by updates alone: through a trial of episodes they stay as they are."""
REFERENCES = (*UPDATED, "domain-randomization")
"""Algorithms that others are compared with; they are not expected to gain from adapting."""

Kind = tuple[str, str, bool, str, int]
Estimate = tuple[float, float, float]
"""Mean, and both ends of its 95 % interval; these are NaN where there is none."""


@dataclass(frozen=True)
class Run:
    """One trained seed."""

    folder: Path
    parent: Path | None
    """The folder of all seeds, where the run was given through it."""
    config: dict[str, Any]
    rows: list[dict[str, float]]

    @property
    def seed(self) -> int:
        """Root seed of the run."""
        return int(self.config.get("seed", 0))

    @property
    def env_steps(self) -> float:
        """Environment steps taken."""
        return max((row["env_steps"] for row in self.rows), default=math.nan)

    @property
    def wall_clock_s(self) -> float:
        """Seconds of training, evaluations on valid tasks included."""
        spent = ("time/iteration_s", "time/valid_s")
        values = [row[key] for row in self.rows for key in spent if key in row]
        return sum(values) if values else math.nan

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Environment steps and values of a metric, where it was logged and finite."""
        kept = [row for row in self.rows if math.isfinite(row.get(key, math.nan))]
        return [row["env_steps"] for row in kept], [row[key] for row in kept]


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


@dataclass(frozen=True)
class Group:
    """The seeds of one setting."""

    label: str
    """Short name, unique within its environment."""
    runs: list[Run]
    evaluations: list[Evaluation]
    ignored: list[str]
    """What was found and is not shown, with the reason."""
    colour: int
    """Index into the page's series colours; equal labels share one."""
    pictures: list[Path]
    """An animation and stills from the run folder."""

    @property
    def algo(self) -> str:
        """Name of the algorithm."""
        return str(self.runs[0].config["algo"])

    @property
    def env(self) -> str:
        """Name of the task family."""
        return str(self.runs[0].config["env"])

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return str(self.runs[0].config.get("preset") or "default")

    @property
    def unit(self) -> str:
        """What one stage is, ``update`` or ``episode``."""
        if self.evaluations:
            return self.evaluations[0].unit
        settings = self.runs[0].config.get("algo_config") or {}
        by_episode = {"episodes_per_trial", "plan_horizon"} & settings.keys()
        return "episode" if by_episode else "update"

    @property
    def family(self) -> dict[str, Any]:
        """Options of the family that decide which tasks there are."""
        options = self.runs[0].config.get("env_config") or {}
        return {k: v for k, v in options.items() if k not in SAME_TASKS}

    @property
    def folder(self) -> str:
        """What to hand to ``precocial eval`` for these seeds."""
        homes = dict.fromkeys(str(run.parent or run.folder) for run in self.runs)
        return shlex.join(homes)


def read_groups(folders: Sequence[Path]) -> list[Group]:
    """Read run folders and put the seeds of one setting together, in the order given.

    Raises:
        UserError: no folder is given, or one is no run folder.
    """
    if not folders:
        raise UserError("no run folder was given; expected one or more made by `precocial train`")
    members: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in {r.folder.resolve(): r for r in _expand(folders)}.values():
        config = run.config
        key = (config["algo"], config["env"], str(config.get("preset")), _settings_key(config))
        members.setdefault(key, []).append(run)
    groups = []
    for runs in members.values():
        runs.sort(key=lambda run: run.seed)
        evaluations, ignored = _evaluations(runs)
        groups.append(Group("", runs, evaluations, ignored, 0, _pictures(runs)))
    return _labelled(groups)


def by_environment(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups by task family, in their order."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.env, []).append(group)
    return found


def by_kind(groups: Sequence[Group]) -> dict[Kind, list[tuple[Group, Evaluation]]]:
    """What can share a figure."""
    kinds: dict[Kind, list[tuple[Group, Evaluation]]] = {}
    for group in groups:
        for e in group.evaluations:
            kinds.setdefault(e.kind, []).append((group, e))
    return kinds


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """What two seeds of one setting share, flat: ``{"algo_config.inner_lr": 0.1, ...}``."""
    run = config.get("run") or {}
    flat = {f"run.{k}": run.get(k) for k in ("iterations", "env_steps")}
    for part in ("algo_config", "env_config"):
        flat |= {f"{part}.{k}": v for k, v in (config.get(part) or {}).items()}
    return flat


def _expand(folders: Iterable[Path]) -> list[Run]:
    runs = []
    for folder in folders:
        if (folder / "config.yaml").is_file():
            runs.append(_read_run(folder, None))
            continue
        seeds = [path.parent for path in folder.glob("seed-*/config.yaml")]
        if not seeds:
            what = "has no config.yaml" if folder.is_dir() else "is no folder"
            raise UserError(
                f"{folder} {what}; expected a run folder made by `precocial train`, "
                "or the folder of its seed-* runs"
            )
        runs += [_read_run(seed, folder) for seed in seeds]
    return runs


def _read_run(folder: Path, parent: Path | None) -> Run:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML; restore it or train again") from error
    if not isinstance(config, dict) or not {"algo", "env"} <= config.keys():
        raise UserError(
            f"{path} names no algo and env; expected one made by `precocial train`, train again"
        )
    return Run(folder, parent, config, read_rows(folder / "metrics.jsonl"))


def _settings_key(config: dict[str, Any]) -> str:
    return json.dumps(settings(config), sort_keys=True, default=str)


def _pictures(runs: list[Run]) -> list[Path]:
    """The first GIF, then the PNGs of the first folder with any: that of all seeds, or a seed's."""
    homes = dict.fromkeys(home for run in runs for home in (run.parent, run.folder) if home)
    films = [gif for home in homes for gif in sorted(home.glob("*.gif"))]
    stills = [found for home in homes if (found := sorted(home.glob("*.png")))]
    return films[:1] + (stills[0] if stills else [])


def description(path: Path) -> str:
    """What a picture says of itself, as ``precocial watch`` writes it; empty where it does not."""
    try:
        with Image.open(path) as image:
            words = image.info.get("Description") or image.info.get("comment") or ""
    except OSError:
        return ""
    return words.decode(errors="replace") if isinstance(words, bytes) else str(words)


def _labelled(groups: list[Group]) -> list[Group]:
    """Name each group by its algorithm, and by what tells it from its namesakes."""
    labelled = []
    for group in groups:
        name = group.algo if group.preset == "default" else f"{group.algo} ({group.preset})"
        twins = [
            g for g in groups if (g.algo, g.env, g.preset) == (group.algo, group.env, group.preset)
        ]
        flat = [settings(g.runs[0].config) for g in twins]
        own = settings(group.runs[0].config)
        differing = [k for k in own if any(f.get(k) != own[k] for f in flat)]
        notes = [f"{k.partition('.')[2]} {own[k]}" for k in differing[:3]]
        labelled.append(replace(group, label=", ".join([name, *notes])))
    # An algorithm keeps its colour wherever it appears, unless two of its settings meet.
    seen = [(g.algo, g.env, json.dumps(g.family, sort_keys=True, default=str)) for g in groups]
    names = [g.algo if len(set(seen)) == len(seen) else g.label for g in labelled]
    colours = list(dict.fromkeys(names))
    return [replace(g, colour=colours.index(name)) for g, name in zip(labelled, names, strict=True)]


def _evaluations(runs: list[Run]) -> tuple[list[Evaluation], list[str]]:
    """One evaluation per kind, that over the most seeds, and what was left out."""
    homes = dict.fromkeys(home for run in runs for home in (run.parent, run.folder) if home)
    found: list[Evaluation] = []
    ignored = []
    for home in homes:
        for path in sorted((home / "eval").glob("*.json")):
            try:
                found.append(read_evaluation(path))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError):
                ignored.append(f"{path} is unreadable; evaluate again")
    candidates = found + _combined([e for e in found if e.num_seeds == 1])
    best: dict[Kind, Evaluation] = {}
    for candidate in candidates:
        rank = (candidate.num_seeds, candidate.num_tasks)
        kept = best.get(candidate.kind)
        if kept is None or rank > (kept.num_seeds, kept.num_tasks):
            best[candidate.kind] = candidate
    shown = {path for evaluation in best.values() for path in evaluation.files}
    larger = "another evaluation of this kind covers more"
    ignored += [f"{e.files[0]}: {larger}" for e in found if e.files[0] not in shown]
    order = {"test": 0, "valid": 2, "train": 3}
    return sorted(best.values(), key=lambda e: (order.get(e.split, 1), e.kind)), ignored


def read_evaluation(path: Path) -> Evaluation:
    """Read one ``eval/SPLIT-SEED.json``.

    Raises:
        ValueError, KeyError, TypeError: the file is not such an object.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    outdated = _is_outdated(document)
    if outdated:
        document = _without_intervals(document)
    per_task = np.array(document["per_task_return"], dtype=np.float64)
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
        stages.append(Stage(int(s["stage"]), *_estimate(s[score], s["ci95"]), hits))
    totals = document.get("references") or {}
    references = {k: float(v) for k, v in totals.items() if v is not None}
    found = (document.get("reference_curves") or {}).items()
    curves = {name: [float(s[score]) for s in curve] for name, curve in found}
    params = document.get("task_params") or {}
    arrays = {k: np.array(v, dtype=np.float64)[: len(per_task)] for k, v in params.items()}
    sample = _sample(document, arrays, len(per_task))
    trial = None
    if unit == "episode" or document.get("trial_return_mean") is not None:
        mean, *interval = mean_interval(per_task.sum(1), seed_means.sum(1), num_tasks, sample)
        known = document.get("trial_return_mean", mean)
        trial = _estimate(known, document.get("trial_ci95") or interval)
    if unit == "episode":
        stages = _with_means(stages, per_task, seed_means, num_tasks, sample)
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
        task_params={k: v for k, v in arrays.items() if len(v) == len(per_task)},
        finite_family=split != "train" and _is_finite(document, arrays),
        success_rate=document.get("success_rate"),
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


def _is_outdated(document: dict[str, Any]) -> bool:
    """Whether tasks were drawn for each seed apart, or all tasks of a family again."""
    finite = document.get("family_size") is not None
    return "tasks_complete" not in document and (int(document.get("runs", 1)) > 1 or finite)


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
    rows = np.arange(num)[:, None]
    if document.get("family_size") is not None and params:
        rows = np.concatenate([v.reshape(len(v), -1) for v in params.values()], 1)
    found = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    return TaskSample(found, len(np.unique(found)) >= (document.get("family_size") or np.inf))


def _recovery(found: dict[str, Any]) -> Recovery | None:
    if not found.get("start"):
        return None
    ends = found["ci95"] or [None] * len(found["start"])
    rows = zip(found["start"], found["return"], ends, strict=True)
    known = [(int(k), _estimate(mean, ends)) for k, mean, ends in rows if math.isfinite(mean)]
    return Recovery(int(found["every"]), [k for k, _ in known], [row for _, row in known])


def _model_error(found: dict[str, Any]) -> ModelError | None:
    if not {"unadapted", "adapted"} <= found.keys():
        return None
    before, after = (
        _estimate(found[name], found.get(f"{name}_ci95")) for name in ("unadapted", "adapted")
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


def _estimate(mean: float, ends: Sequence[float] | None) -> Estimate:
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


def _with_means(
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
    if "family_size" in document or not params:
        return document.get("family_size") is not None
    rows = np.concatenate([v.reshape(len(v), -1) for v in params.values()], 1)
    return len(np.unique(rows, axis=0)) < len(rows)


def _combined(singles: list[Evaluation]) -> list[Evaluation]:
    """Evaluations of single seeds on the same tasks, put together."""
    alike: dict[tuple[Any, ...], list[Evaluation]] = {}
    for e in singles:
        alike.setdefault((e.kind, e.eval_seed, e.lanes, e.num_tasks, e.per_task.shape), []).append(
            e
        )
    combined = []
    for parts in alike.values():
        if len(parts) < 2:
            continue
        scores = np.stack([e.per_task for e in parts])  # (S, N, stages)
        per_task, seed_means = scores.mean(0), np.concatenate([e.seed_means for e in parts])
        num_tasks, sample = parts[0].num_tasks, parts[0].tasks
        stages = [
            replace(s, success=_mean([e.stages[k].success for e in parts]))
            for k, s in enumerate(parts[0].stages)
        ]
        if parts[0].by_episode:
            stages = _with_means(stages, per_task, seed_means, num_tasks, sample)
        else:
            ends = bootstrap_intervals(scores, sample)
            stages = [
                Stage(s.stage, *_estimate(interquartile_mean(scores[..., k]), ends[k]), s.success)
                for k, s in enumerate(stages)
            ]
        totals = mean_interval(per_task.sum(1), seed_means.sum(1), num_tasks, sample)
        combined.append(
            replace(
                parts[0],
                num_seeds=len(parts),
                stages=stages,
                per_task=per_task,
                seed_means=seed_means,
                success_rate=_mean([e.success_rate for e in parts]),
                trial=totals if all(e.trial for e in parts) else None,
                recovery=_pooled_recovery([e.recovery for e in parts if e.recovery]),
                model_error=_pooled_error([e.model_error for e in parts if e.model_error]),
                reference_errors={
                    name: error
                    for name in parts[0].reference_errors
                    if all(name in e.reference_errors for e in parts)
                    and (error := _pooled_error([e.reference_errors[name] for e in parts]))
                },
                references={k: v for e in parts[::-1] for k, v in e.references.items()},
                reference_curves={k: v for e in parts[::-1] for k, v in e.reference_curves.items()},
                outdated=False,
                files=tuple(path for e in parts for path in e.files),
            )
        )
    return combined


def _pooled_recovery(parts: list[Recovery]) -> Recovery | None:
    """What all seeds know, over seeds."""
    if not parts:
        return None
    start = [k for k in parts[0].start if all(k in part.start for part in parts)]
    rows = [[row for part in parts if (row := part.at(k))] for k in start]
    return Recovery(parts[0].every, start, [_pooled(row) for row in rows])


def _pooled_error(parts: list[ModelError]) -> ModelError | None:
    """The same of model errors; curves where all have one of the same length."""
    if not parts:
        return None
    alike = all(part.transitions == parts[0].transitions for part in parts)
    curves = [[p.unadapted_curve for p in parts], [p.adapted_curve for p in parts]]
    before, after = (np.mean(c, 0).tolist() if alike else [] for c in curves)
    return replace(
        parts[0],
        unadapted=_pooled([p.unadapted for p in parts]),
        adapted=_pooled([p.adapted for p in parts]),
        seeds=[pair for p in parts for pair in p.seeds],
        transitions=parts[0].transitions if alike else [],
        unadapted_curve=before,
        adapted_curve=after,
    )


def _pooled(parts: list[Estimate]) -> Estimate:
    """Mean of single seeds' means, with an interval over seeds and tasks.

    The seeds saw the same tasks, so the chance in drawing these does not average out over seeds.
    There is none where the tasks are all that there are, and single seeds have no interval.
    """
    means = np.array([mean for mean, *_ in parts])
    halves = np.array([(high - low) / 2 for _, low, high in parts])
    between = 0.0
    if len(means) > 1:
        between, halves = 1.96**2 * float(means.var(ddof=1)) / len(means), np.nan_to_num(halves)
    half = math.sqrt(float(np.square(halves).mean()) + between)
    mean = float(means.mean())
    return mean, mean - half, mean + half


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
