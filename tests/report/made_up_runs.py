"""Run folders made up here, and what a person reads of the page about them."""
# ruff: noqa: RUF001  true minus signs

import json
import re
from html.parser import HTMLParser

import numpy as np
import yaml
from PIL import Image

from precocial.report import write_report
from precocial.report.runs import read_groups
from precocial.statistics import TaskSample, bootstrap_interval, interquartile_mean

LEVELS = {
    "point-nav": (-40.0, -10.8, -3.7, -3.1),
    "half-cheetah-dir": (2.0, 151.0),
    "pendulum-mass": (-310.0, -240.0),
    "bandit": (0.5, 0.6, 0.64, 0.67, 0.69, 0.7, 0.71, 0.71, 0.72, 0.72),
}


def task_params(env, num, rng):
    if env == "point-nav":
        return {"goal": rng.uniform(-0.5, 0.5, (num, 2)).tolist()}
    if env == "half-cheetah-dir":
        forward = np.arange(num) % 2
        return {"direction": (2.0 * forward - 1).tolist(), "id": forward.tolist()}
    return {"mass": rng.uniform(0.5, 2, num).tolist()} if env == "pendulum-mass" else {}


def evaluation(algo, env, scores, seed=0, split="test", **more):
    """The JSON of ``eval`` for scores (S, N, stages)."""
    rng = np.random.default_rng(seed)
    params = task_params(env, scores.shape[1], rng)
    tasks = TaskSample(np.array(params.get("id", range(scores.shape[1]))), "id" in params)
    stages = []
    for k in range(scores.shape[-1]):
        stages.append({
            "stage": k, "episodes_seen": 20 * k, "env_steps_seen": 2000 * k,
            "return_mean": scores[..., k].mean(), "return_iqm": interquartile_mean(scores[..., k]),
            "ci95": bootstrap_interval(scores[..., k], tasks),
            "seed_means": scores[..., k].mean(1).tolist(),
        })  # fmt: skip
    return {
        "algorithm": algo, "env": env, "split": split, "num_tasks": scores.shape[1], "lanes": 20,
        "seed": seed, "runs": len(scores), "stage_unit": "update", "greedy": False,
        "checkpoint": "last", "adapt_lrs": [0.25, 0.1, 0.1], "stages": stages,
        "per_task_return": scores.mean(0).tolist(), "success_rate": None,
        "references": {"oracle": None, "multi-task": None, "optimum": None},
        "reference_curves": {}, "task_params": params, "task_ids": tasks.ids.tolist(),
        "tasks_complete": tasks.complete, "family_size": 2 if tasks.complete else None,
    } | more  # fmt: skip


def scores_of(env, num_seeds=1, num_tasks=40, shift=0.0, seed=0, levels=None):
    """Returns (S, N, stages) around the levels of a family."""
    rng = np.random.default_rng(seed)
    levels = np.array(levels or LEVELS[env]) + shift
    scale = 0.1 * np.abs(levels) + 0.02 * np.ptp(levels)
    seeds = rng.normal(0, 0.4, (num_seeds, 1, 1))
    return levels + scale * (seeds + rng.normal(0, 1, (num_seeds, num_tasks, len(levels))))


def make_run(folder, algo="maml", env="point-nav", seed=0, rows=60, iterations=60, preset="default",
             scores=None, levels=None, **algo_config):  # fmt: skip
    folder.mkdir(parents=True)
    config = {
        "precocial": {"version": "0.1.0", "commit": "abc1234"}, "algo": algo, "env": env,
        "preset": preset, "seed": seed,
        "run": {"seed": seed, "iterations": iterations, "env_steps": 0, "device": "cpu"},
        "algo_config": {"inner_lr": 0.25, "num_tasks": 20, "adapt_lrs": [0.25, 0.1]} | algo_config,
        "env_config": {"train_tasks": 0, "horizon": 100}, "machine": "x86_64, 2 cores",
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rng = np.random.default_rng(seed)
    levels = np.array(levels or LEVELS[env][:2])
    lines = []
    for i in range(rows):
        done = 1 - np.exp(-i / 15)
        value = levels[0] * 1.2 + done * (levels - 1.2 * levels[0])
        value = value + rng.normal(0, 0.02 * np.ptp(levels) + 0.4, len(levels))
        row = {
            "iteration": i,
            "env_steps": (i + 1) * 80_000,
            "loss/outer": 0.1,
            "time/iteration_s": 0.8,
        }
        for prefix in ("train", "valid"):
            if prefix == "train" or i % 10 == 9:
                row |= {
                    f"{prefix}/episode_reward_mean" + (f"_adapt_{k}" if k else ""): v
                    for k, v in enumerate(value)
                }
        lines.append(json.dumps(row))
    if rows:
        (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"iteration": 60, "env_st')
    if scores is not None:
        keep(folder, evaluation(algo, env, scores))
    return folder


def pulls(num_seeds=1, num_tasks=200, num=10, best=0.72, seed=0):
    """Rewards 0 or 1 (S, N, stages) whose mean climbs from a half."""
    rng = np.random.default_rng(seed)
    chance = best - (best - 0.5) * np.exp(-np.arange(num) / (0.2 * num))
    return (rng.random((num_seeds, num_tasks, num)) < chance).astype(float)


def trial_evaluation(algo, env, scores, curves=None, success=None, **more):
    """The JSON of ``eval`` for a method whose stages are episodes of a trial."""
    totals = scores.sum(-1)
    document = evaluation(algo, env, scores, stage_unit="episode", lanes=1,
        trial_return_mean=totals.mean(), trial_return_seeds=totals.mean(1).tolist(),
        trial_ci95=bootstrap_interval(totals, trim=False)) | more  # fmt: skip
    for name, curve in (curves or {}).items():
        document["references"][name] = float(np.sum(curve))
        document["reference_curves"][name] = [
            # Single rewards are 0 or 1, and so is their interquartile mean.
            {"stage": k, "return_mean": float(v), "return_iqm": float(round(v))}
            for k, v in enumerate(curve)
        ]
    for row, rate in zip(document["stages"], success or [], strict=False):
        row["success_rate"] = rate
        document["success_rate"] = rate
    return document


KNOWN = {"random": [0.5] * 10, "Thompson": np.linspace(0.5, 0.66, 10), "best arm": [0.83] * 10}


def make_trial(folder, algo="rl2", env="bandit", scores=None, curves=None, optimum=6.66,
               success=None, env_config=None, preset="default", **more):  # fmt: skip
    """A run of a method that learns inside a trial, evaluated."""
    run = make_run(folder, algo, env, preset=preset, levels=(0.5, 0.7), episodes_per_trial=None)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["env_config"] = env_config or {"train_tasks": 0, "pulls": 10, "arms": 5}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    scores = pulls() if scores is None else scores
    document = trial_evaluation(algo, env, scores, KNOWN if curves is None else curves, success)
    document["references"]["optimum"] = optimum
    keep(run, document | more)
    return run


def members_of(*runs):
    return [(group, e) for group in read_groups(list(runs)) for e in group.evaluations[:1]]


def lines_of(chart):
    """Traces by name, without bands and labels."""
    return {t["name"]: t for t in chart.data if "name" in t}


def keep(folder, document):
    (folder / "eval").mkdir(exist_ok=True)
    path = folder / "eval" / f"{document['split']}-{document['seed']}.json"
    path.write_text(json.dumps(document))


def make_seeds(
    folder,
    num_seeds=3,
    env="point-nav",
    algo="maml",
    shift=0.0,
    references=None,
    levels=None,
    **config,
):
    """A parent of seeds, with an evaluation over all of them."""
    for seed in range(num_seeds):
        make_run(folder / f"seed-{seed}", algo, env, seed, levels=levels and levels[:2], **config)
    scores = scores_of(env, num_seeds, shift=shift, levels=levels, num_tasks=80)
    document = evaluation(algo, env, scores)
    document["references"] |= references or {}
    keep(folder, document)
    return folder


def make_gif(path):
    frames = [Image.new("RGB", (300, 160), (31, 111 + 10 * k, 178)) for k in range(5)]
    frames[0].save(path, save_all=True, append_images=frames[1:], loop=0, duration=100)


def gallery(root):
    """One of everything, as a person could have it."""
    nav = make_seeds(root / "maml", 5, references={"oracle": -2.3, "multi-task": -19.7})
    scores = scores_of("point-nav", 5, shift=-14, num_tasks=80)
    keep(nav, evaluation("maml", "point-nav", scores, split="shifted"))
    make_gif(nav / "before-after.gif")
    runs = [
        nav,
        make_seeds(root / "promp", 3, algo="promp", shift=-2.0, references={"oracle": -2.3}),
        make_seeds(root / "joint", 2, algo="multi-task", levels=(-19.7, -19.2, -19.0, -18.9)),
        make_seeds(root / "cheetah", 3, env="half-cheetah-dir", algo="promp"),
        make_run(root / "idle", "reptile", rows=22),
        make_run(root / "pendulum", env="pendulum-mass", scores=scores_of("pendulum-mass", 1, 60)),
    ]
    pulls = make_run(root / "bandit", env="bandit", preset="n10-k5")
    document = evaluation("maml", "bandit", scores_of("bandit", 1, 200), trial_return_mean=6.62)
    document["references"]["optimum"] = 6.66
    keep(pulls, document)
    return [*runs, pulls]


class Text(HTMLParser):
    """What a person reads of a page, and its tags."""

    def __init__(self, page):
        super().__init__()
        self.open, self.words, self.tags, self.hidden = [], [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.hidden:
            self.words.append(data)

    def __str__(self):
        return re.sub(r"\s+", " ", " ".join(self.words)).replace("−", "-")


def report(tmp_path, *runs):
    out = tmp_path / "report.html"
    write_report(list(runs), out)
    return out.read_text(encoding="utf-8")


def around(level=-2.0, seed=0):
    """The JSON of ``eval`` about a change of the world: a drop, then a climb."""
    start = list(range(-100, 200, 50))
    mean = [level, level, 3 * level, 2 * level, 1.5 * level, 1.2 * level]
    mean = [v + 0.1 * seed for v in mean]
    return {
        "every": 50, "start": start, "return": mean, "ci95": [[v - 0.5, v + 0.5] for v in mean],
    }  # fmt: skip


def errors(before=0.8, after=0.3, half=0.05, since="switch", seeds=1):
    """The JSON of ``eval`` about a model that adapts, or does not (``before == after``)."""
    weight = np.exp(-np.arange(33) / 8)
    return {
        "unadapted": before, "unadapted_ci95": [before - half, before + half],
        "unadapted_seeds": [before] * seeds,
        "adapted": after, "adapted_ci95": [after - half, after + half],
        "adapted_seeds": [after] * seeds,
        "by_transitions": {
            "since": since, "transitions": list(range(33)), "unadapted": [before] * 33,
            "adapted": (after + (before - after) * 2 * weight).tolist(),
        },
    }  # fmt: skip


def make_planner(folder, algo="grbal", around=None, errors=None, seed=0, env_config=None,
                 scores=None, **more):  # fmt: skip
    """A run of a method that adapts at every step, evaluated on one episode."""
    run = make_run(folder, algo, "hidden-gain", seed, levels=(-50.0,), plan_horizon=10)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["env_config"] = env_config or {"horizon": 300, "switch_at": 100}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    if scores is None:
        scores = scores_of("hidden-gain", levels=(-50.0,), seed=seed)
    document = trial_evaluation(algo, "hidden-gain", scores, task_params={
        "gain": np.linspace(-2, 2, scores.shape[1]).tolist()})  # fmt: skip
    for key, value in (("recovery", around), ("model_error", errors)):
        document |= {key: value} if value else {}
    keep(run, document | more)
    return run
