"""Runs and references, scored on the same tasks, as one result."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils._pytree import tree_map

from precocial.algos import class_of
from precocial.checks import flag
from precocial.envs import SAME_RESULTS, SAME_TASKS
from precocial.evaluation.curve import Curve, adaptation_curve
from precocial.evaluation.summary import summarise
from precocial.presets import JOINT
from precocial.runs.folder import expand_runs, load_algorithm, read_plan
from precocial.runs.plan import Plan
from precocial.seeding import generator
from precocial.statistics import TaskSample, as_json, bootstrap_interval
from precocial.types import Diagnosing, Diagnosis, EnvSpec, Rollout, Split, UserError


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
    given = [Path(f).absolute() for f in (folders if isinstance(folders, list) else [folders])]
    runs, others = expand_runs(given), expand_runs([Path(f).absolute() for f in references or []])
    plans, their_plans = ([read_plan(run) for run in group] for group in (runs, others))
    require_seeds_of_one(plans)
    unit = stage_unit(plans[0])
    greedy = greedy or bool(class_of(plans[0].algo_config).greedy)
    if unit == "episode":
        if updates is not None or adapt_lrs:
            raise UserError(
                f"{plans[0].algo} learns within a trial and is never updated; leave --updates and "
                "--adapt-lrs out, try --episodes 2"
            )
        updates = None if episodes is None else episodes - 1
    elif episodes is not None:
        raise UserError(f"{plans[0].algo} learns by updates; leave --episodes out, try --updates 1")
    elif adapt_lrs and getattr(plans[0].algo_config, "learn_lr", False):
        raise UserError(f"the rates of this {plans[0].algo} were learned; leave --adapt-lrs out")
    for p in their_plans:
        require_comparable(p, plans[0], split)
    names = reference_names(others, their_plans, plans[0].algo)
    lanes = lanes or plans[0].algo_config.lanes
    score = partial(
        _score, split=split, tasks=tasks, updates=updates, greedy=greedy, lanes=lanes, which=which,
        seed=seed,
    )  # fmt: skip
    scored = [
        score(run, adapt_lrs=adapt_lrs, with_known=i == 0) for i, run in enumerate(runs)
    ]  # known methods score the same whichever run they stand beside
    first = scored[0]
    sample: TaskSample = first["tasks"]
    result = {
        "algorithm": plans[0].algo, "env": plans[0].env, "preset": plans[0].preset,
        "split": split, "num_tasks": tasks, "lanes": first["lanes"], "seed": seed,
        "runs": len(runs), "run_seeds": [p.run.seed for p in plans],
        "stage_unit": unit, "is_trial": bool(class_of(plans[0].algo_config).is_trial),
        "greedy": greedy, "checkpoint": which, "adapt_lrs": first["adapt_lrs"],
    } | summarise([s["curve"] for s in scored], sample)  # fmt: skip
    if first["trial"]:
        totals = np.stack([s["curve"].returns.sum(1) for s in scored])
        result |= {
            "trial_return_mean": float(totals.mean()),
            "trial_ci95": as_json(bootstrap_interval(totals, sample, trim=False)),
            "trial_stderr": sample.standard_error(totals.mean(0)),
            "trial_return_seeds": [float(x) for x in totals.mean(1)],
        }
    said: list[list[Diagnosis]] = [s["diagnoses"] for s in scored if s["diagnoses"]]
    if said:
        result[said[0][0].key] = said[0][0].summarise(said, sample)
    result["references"] = {"oracle": None, "multi-task": None, "optimum": first["optimum"]}
    result["reference_curves"] = {}
    curves: dict[str, list[Curve]] = {k: [v] for k, v in first["known"].items()}
    same_stages = len(first["curve"].episodes_seen) - 1
    met = [trial for s in scored for trial in s["trials"]]
    theirs: dict[str, list[list[Diagnosis]]] = {}  # of the rollouts that these met
    for run, p, algo in zip(others, their_plans, names, strict=True):
        if stage_unit(p) == unit:
            one = score(run, updates=same_stages, data=met)
            curve = one["curve"]
            if one["diagnoses"]:
                theirs.setdefault(algo, []).append(one["diagnoses"])
        else:  # scored as it is, episode after episode
            curve = score(run, updates=0)["curve"]
            flat = np.repeat(curve.returns, same_stages + 1, 1)
            curve = Curve(flat, None, first["curve"].episodes_seen, first["curve"].env_steps_seen)
        curves.setdefault(algo, []).append(curve)
    if theirs:
        key = said[0][0].reference_key
        result[key] = {k: v[0][0].summarise(v, sample) for k, v in theirs.items()}
    for name, group in curves.items():
        stages = summarise(group, None)["stages"]
        total = float(np.mean([c.returns.sum(1).mean() for c in group]))
        in_trial = first["is_trial"] or unit == "episode"
        result["references"][name] = total if in_trial else stages[0]["return_mean"]
        result["reference_curves"][name] = stages
    result |= {
        "task_params": first["task_params"], "task_ids": sample.ids[:1000].tolist(),
        "tasks_complete": sample.complete, "family_size": first["family_size"],
    }  # fmt: skip
    if keep and len(given) == 1:
        variant = [split, str(seed)] + ["greedy"] * greedy + ["best"] * (which == "best")
        keep_result(given[0] / "eval" / f"{'-'.join(variant)}.json", result)
    return result


def stage_unit(p: Plan) -> str:
    """What a stage of a run is, ``update`` or ``episode``."""
    return str(class_of(p.algo_config).stage_unit)


def require_seeds_of_one(plans: list[Plan]) -> None:
    """Refuse to pool runs that differ in more than their seed.

    Raises:
        UserError: another algorithm, environment or setting, or the same seed twice.
    """
    for p in plans[1:]:
        if different := _difference(p, plans[0]):
            raise UserError(
                f"these runs differ in {different}; evaluate one group of seeds at a time and give "
                "the others as --reference"
            )
    seeds = [p.run.seed for p in plans]
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UserError(f"seed {twice[0]} was given twice; expected every run once")


def _difference(p: Plan, other: Plan) -> str:
    """The first setting in which two runs differ, but for the seed and how they are carried out."""
    sides = []
    for one in (p, other):
        run = {k: v for k, v in vars(one.run).items() if k in ("iterations", "env_steps")}
        family = {f"env_{k}": v for k, v in vars(one.env_config).items() if k not in SAME_RESULTS}
        sides.append({"algo": one.algo, "env": one.env} | vars(one.algo_config) | run | family)
    a, b = sides
    return next(
        (f"{flag(k)} ({a.get(k)}, {b.get(k)})" for k in {**a, **b} if a.get(k) != b.get(k)), ""
    )


def require_comparable(reference: Plan, p: Plan, split: Split) -> None:
    """Refuse a reference that would meet other tasks, or whose stages are of another kind.

    Raises:
        UserError: which of the two it is.
    """
    tasks = SAME_TASKS - {"train_tasks"} if split == "train" else SAME_TASKS
    (env, options), (other_env, other_options) = (
        (one.env, {k: v for k, v in vars(one.env_config).items() if k not in tasks})
        for one in (p, reference)
    )
    if env != other_env or options != other_options:
        raise UserError(
            f"the reference {reference.algo} was trained on {other_env} with other options than "
            f"{env} here; references must share the environment"
            + (", and --env-train-tasks where train tasks are scored" if split == "train" else "")
        )
    if reference.algo not in JOINT and stage_unit(reference) != stage_unit(p):
        raise UserError(
            f"a stage of {reference.algo} is one {stage_unit(reference)} and a stage of {p.algo} "
            f"one {stage_unit(p)}; evaluate them apart, the two never share a table"
        )


def reference_names(references: list[Path], plans: list[Plan], own: str) -> list[str]:
    """What each reference is called: its algorithm, with its folder where that says too little.

    Raises:
        UserError: the same seed of one reference twice.
    """
    groups: dict[str, list[Plan]] = {}
    names = []
    for run, p in zip(references, plans, strict=True):
        name, known = p.algo, groups.get(p.algo)
        if name == own or (known and _difference(p, known[0])):
            home = run.parent if run.name.startswith("seed-") else run
            name = f"{p.algo} ({home.name})"
        groups.setdefault(name, []).append(p)
        names.append(name)
    for group in groups.values():
        require_seeds_of_one(group)
    return names


def keep_result(path: Path, result: dict[str, Any]) -> None:
    """Write it whole or not at all; a folder that cannot be written to costs a line on stderr."""
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(exist_ok=True)
        partial.write_text(json.dumps(result), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        print(
            f"precocial: not kept for report, since {path} cannot be written: {error.strerror}",
            file=sys.stderr,
        )


def _score(
    run: Path,
    *,
    split: Split,
    tasks: int,
    updates: int | None,
    greedy: bool,
    lanes: int,
    which: str,
    seed: int,
    adapt_lrs: tuple[float, ...] = (),
    with_known: bool = False,
    data: list[tuple[Rollout, EnvSpec]] | None = None,
) -> dict[str, Any]:
    """One run on the evaluation's tasks.

    ``data`` is what it is asked about, if it can say more than returns, rollout by rollout with the
    environment's; by default what it met itself, of the first chunk of tasks.
    """
    overrides = {"adapt_lrs": adapt_lrs} if adapt_lrs else {}
    p, env, algorithm, _ = load_algorithm(run, which, **overrides)
    in_trial, by_episode = algorithm.is_trial, algorithm.stage_unit == "episode"
    usual = algorithm.num_stages if in_trial or by_episode else 4
    stages = usual if updates is None else updates + 1
    trial = in_trial and stages == usual
    trials: list[tuple[Rollout, EnvSpec]] = []

    def keep_first(rollout: Rollout) -> None:
        if not trials:
            trials.append((rollout, env.spec))

    try:
        batch = env.sample_tasks(tasks, split, generator(seed, "evaluation tasks", split))
        curve = adaptation_curve(
            algorithm, env, batch, stages=stages, lanes=lanes, seed=seed, greedy=greedy,
            device=p.run.device,
            on_trial=keep_first if isinstance(algorithm, Diagnosing) else None,
        )  # fmt: skip
        diagnoses = []
        if isinstance(algorithm, Diagnosing):
            diagnoses = [
                algorithm.diagnose(tree_map(lambda x: x.to(p.run.device), rollout), spec)
                for rollout, spec in (trials if data is None else data)
            ]
        # The optimum is that of the family's whole trial, on the prior it was computed for.
        own = env.spec.trial_episodes or 1
        own_length = stages == own if in_trial else own == 1
        known = split != "shifted" and own_length
        optimum = env.optimum(batch) if known else None
        # Known methods are scored on the very same tasks: where a stage is an episode, in it, else
        # in the one after as many as the method had seen.
        seen = list(range(stages)) if in_trial or by_episode else curve.episodes_seen
        scores = {}
        if with_known:
            scores = env.references(batch, seen[-1] + 1, generator(seed, "references"))
            scores = {k: v[:, seen] for k, v in scores.items()}
    finally:
        env.close()
    met = curve.episodes_seen, curve.env_steps_seen
    references = {k: Curve(v.cpu().double().numpy(), None, *met) for k, v in scores.items()}
    ids, size = batch.id.cpu().numpy(), env.spec.tasks_of(split)
    small = {k: v[:1000].tolist() for k, v in batch.params.items() if v[0].numel() <= 8}
    return {
        "curve": curve, "diagnoses": diagnoses, "trials": trials, "lanes": lanes,
        "trial": trial, "adapt_lrs": algorithm.test_lrs(stages - 1),
        "is_trial": in_trial, "known": references,
        "optimum": None if optimum is None else float(optimum.mean()), "task_params": small,
        "tasks": TaskSample(ids, size is not None and len(np.unique(ids)) >= size),
        "family_size": env.spec.num_tasks,
    }  # fmt: skip
