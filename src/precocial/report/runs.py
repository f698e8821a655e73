"""What run folders hold, read without torch: settings, metrics, evaluations, animations."""

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

from precocial.errors import UserError
from precocial.rows import read_rows
from precocial.statistics import bootstrap_interval, interquartile_mean

REFERENCES = ("multi-task", "oracle", "scratch")
"""Algorithms that others are compared with; they are not expected to gain from adapting."""


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
    iqm: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """An adaptation curve over one or more seeds."""

    split: str
    unit: str
    """What one stage is, ``update`` or ``episode``."""
    greedy: bool
    num_tasks: int
    num_seeds: int
    eval_seed: int
    lanes: int
    checkpoint: str
    stages: list[Stage]
    per_task: np.ndarray
    """(N, stages): returns of at most the first 1 000 tasks, mean over seeds."""
    references: dict[str, float]
    reference_curves: dict[str, list[float]]
    """Interquartile mean by stage."""
    task_params: dict[str, np.ndarray]
    family_size: int | None
    """Number of distinct tasks of a finite family, where the file says so."""
    success_rate: float | None
    trial_mean: float | None
    """Sum over all stages, where they are one trial."""
    files: tuple[Path, ...]

    @property
    def kind(self) -> tuple[str, str, bool, str]:
        """Evaluations compare only within a kind."""
        return self.split, self.unit, self.greedy, self.checkpoint

    @property
    def gain(self) -> float:
        """Return after the last stage less return before adapting."""
        return self.stages[-1].iqm - self.stages[0].iqm

    @property
    def finite_family(self) -> bool:
        """Whether held-out tasks repeat: then train and test tasks are the same."""
        if self.split == "train":
            return False
        if self.family_size is not None or not self.task_params:
            return self.family_size is not None
        rows = np.concatenate([v.reshape(len(v), -1) for v in self.task_params.values()], 1)
        return len(np.unique(rows, axis=0)) < len(rows)


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
    animation: Path | None

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
        groups.append(Group("", runs, evaluations, ignored, 0, _animation(runs)))
    return _labelled(groups)


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


def _animation(runs: list[Run]) -> Path | None:
    """The first GIF in the folder of all seeds, or in a seed's."""
    homes = dict.fromkeys(home for run in runs for home in (run.parent, run.folder) if home)
    found = (gif for home in homes for gif in sorted(home.glob("*.gif")))
    return next(found, None)


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
    colours = list(dict.fromkeys(group.label for group in labelled))
    return [replace(group, colour=colours.index(group.label)) for group in labelled]


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
    best: dict[tuple[str, str, bool, str], Evaluation] = {}
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
    stages = [
        Stage(int(s["stage"]), float(s["return_iqm"]), *(float(x) for x in s["ci95"]))
        for s in document["stages"]
    ]
    per_task = np.array(document["per_task_return"], dtype=np.float64)
    if not stages or per_task.ndim != 2 or per_task.shape[1] != len(stages):
        raise ValueError("per_task_return does not fit the stages")
    if not np.isfinite(per_task).all():
        raise ValueError("per_task_return is not finite")
    references = document.get("references") or {}
    curves = document.get("reference_curves") or {}
    params = document.get("task_params") or {}
    arrays = {k: np.array(v, dtype=np.float64)[: len(per_task)] for k, v in params.items()}
    return Evaluation(
        split=str(document["split"]),
        unit=str(document["stage_unit"]),
        greedy=bool(document.get("greedy", False)),
        num_tasks=int(document["num_tasks"]),
        num_seeds=int(document.get("runs", 1)),
        eval_seed=int(document.get("seed", 0)),
        lanes=int(document.get("lanes", 0)),
        checkpoint=str(document.get("checkpoint", "last")),
        stages=stages,
        per_task=per_task,
        references={k: float(v) for k, v in references.items() if v is not None},
        reference_curves={k: [float(s["return_iqm"]) for s in v] for k, v in curves.items()},
        task_params={k: v for k, v in arrays.items() if len(v) == len(per_task)},
        family_size=document.get("family_size"),
        success_rate=document.get("success_rate"),
        trial_mean=document.get("trial_return_mean"),
        files=(path,),
    )


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
        stages = [
            Stage(s.stage, interquartile_mean(scores[..., k]), *bootstrap_interval(scores[..., k]))
            for k, s in enumerate(parts[0].stages)
        ]
        combined.append(
            replace(
                parts[0],
                num_seeds=len(parts),
                stages=stages,
                per_task=scores.mean(0),
                success_rate=_mean([e.success_rate for e in parts]),
                trial_mean=_mean([e.trial_mean for e in parts]),
                references={k: v for e in parts[::-1] for k, v in e.references.items()},
                reference_curves={k: v for e in parts[::-1] for k, v in e.reference_curves.items()},
                files=tuple(path for e in parts for path in e.files),
            )
        )
    return combined


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
