"""Run folders read without torch, the seeds of one setting together."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from precocial.envs import SAME_TASKS
from precocial.errors import UserError
from precocial.report.combine import combined
from precocial.report.evaluations import Evaluation, Kind, read_evaluation
from precocial.runs.rows import read_rows


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
        by_episode = {"episodes_per_trial", "plan_horizon", "lanes"} & settings.keys()
        return "episode" if by_episode else "update"

    @property
    def from_source(self) -> bool:
        """Whether its runs began from what was learned elsewhere."""
        return bool(self.runs[0].config.get("transfer"))

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
        UserError: no folder is given, one is no run folder, or two hold the same seed.
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
        for run, other in itertools.pairwise(runs):
            if run.seed == other.seed:
                raise UserError(
                    f"{run.folder} and {other.folder} are seed {run.seed} of the same settings; "
                    "expected every run once"
                )
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
    for part in ("algo_config", "env_config", "transfer"):
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
        name += " from a source" * group.from_source
        twins = [
            g
            for g in groups
            if (g.algo, g.env, g.preset, g.from_source)
            == (group.algo, group.env, group.preset, group.from_source)
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
    candidates = found + combined([e for e in found if e.num_seeds == 1])
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
