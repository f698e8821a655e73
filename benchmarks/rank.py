"""How well `precocial rank` orders sources, against what long runs from each of them say.

    python benchmarks/rank.py --out benchmarks/results/rank.json

Twenty splits. Each has sources of its own for CartPole-v1: a policy for a pole a fifth as long, one
that was half trained, one for a reversed force, and that one over-confident (logits x 5); as they
are and with a new head. The truth is the restricted mean time to 400, of ten runs of 16 384 steps
from each candidate, with other seeds than the probes. Kendall's tau is taken over six candidates:
the four as they are, the reversed one with a new head, and scratch.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from scipy.stats import kendalltau

from precocial.algos.transfer.config import TransferConfig
from precocial.runs.folder import create_folder
from precocial.runs.plan import commit, plan, with_overrides
from precocial.runs.rows import read_rows
from precocial.stacking import run_stacked
from precocial.statistics import student_interval
from precocial.transferring.measure import curve_of, time_to
from precocial.transferring.rank import Candidate, candidates, rank
from precocial.transferring.source import read_sources

SOURCES: dict[str, dict[str, Any]] = {
    "pole": {"env_half_length": 0.1}, "half": {"iterations": 3}, "reversed": {"env_force": -10.0},
}  # fmt: skip
SIX = [
    "pole, as it is", "reversed, new head", "half, as it is", "scratch", "reversed, as it is",
    "confident, as it is",
]  # fmt: skip
BUDGET, RUNS, THRESHOLD = 16_384, 10, 400
TARGET: dict[str, Any] = {"rounds": 1, "iterations": 32, "eval_every": 1, "eval_tasks": 1}


def train_sources(home: Path, splits: range) -> None:
    """One run of each kind for each split, and the over-confident copy."""
    for name, settings in SOURCES.items():
        folders = [home / f"{k}" / name for k in splits]
        for k, folder in zip(splits, folders, strict=True):
            create_folder(plan("ppo", "CartPole-v1", seed=k, **settings), folder, overwrite=False)
        run_stacked(folders, quiet=True)
    for k in splits:
        [source] = read_sources(str(home / f"{k}" / "reversed"), "best")
        layers = {
            f"{net}.{name}": p.clone()
            for net in ("actor", "critic")
            for name, p in source["nets"][net].items()
        }
        for name in ("actor.weight_2", "actor.bias_2"):
            layers[name] *= 5
        safetensors.torch.save_file(layers, home / f"{k}" / "confident.safetensors")


def truth(found: list[Candidate], untrained: dict[str, float], home: Path) -> dict[str, list[int]]:
    """Steps to the threshold of every run from every candidate, at most the budget."""
    folders = []
    for c in found:
        for k, p in enumerate(c.plans[:RUNS]):  # scratch has more
            p = with_overrides(p, {"eval_every": 1, "eval_first": True})
            source = None
            if c.sources:
                teaches = untrained[c.name] >= untrained["scratch"]
                source = c.sources[k] | {"teaches": teaches}
            folders.append(home / c.place / f"seed-{k}")
            create_folder(p, folders[-1], overwrite=False, source=source)
    run_stacked(folders, quiet=True)
    times: dict[str, list[int]] = {}
    for c in found:
        its = [
            time_to(curve_of(read_rows(home / c.place / f"seed-{k}" / "metrics.jsonl")), THRESHOLD)
            for k in range(RUNS)
        ]
        times[c.name] = [BUDGET if t is None else int(t) for t in its]
    return times


def split(
    k: int,
    home: Path,
    seeds: int,
    episodes: int,
    ways: TransferConfig,
    known: dict[str, Any] | None,
) -> dict[str, Any]:
    """Rank the sources of a split, and find out what is true where that is not known."""
    texts = [str(home / f"{k}" / name) for name in (*SOURCES, "confident.safetensors")]
    result = rank(
        texts, "CartPole-v1", "ppo", out=home / f"{k}" / "rank", seeds=seeds, episodes=episodes,
        ways=ways, quiet=True, seed=1000 * (k + 1), rounds=1,
    )  # fmt: skip
    base = plan("ppo", "CartPole-v1", seed=1000 * (k + 1) + 500, **TARGET)
    found, _ = candidates(texts, base, ways, RUNS, given=list(TARGET))
    untrained = {x["name"]: x["untrained"] for x in result["ranking"]}
    times = known or truth(found, untrained, home / f"{k}" / "truth")
    return {
        "split": k, "order": [x["name"] for x in result["ranking"]],
        "apart": [x["apart"] for x in result["ranking"]], "verdict": result["verdict"],
        "train_steps": result["train_steps"], "eval_steps": result["eval_steps"],
        "times": times,
    }  # fmt: skip


def judge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Agreement of the orders with the truth, and of the truth with itself."""
    taus, again, top, alike, right, apart = [], [], [], [], 0, 0
    for row in rows:
        times = {name: np.array(its) for name, its in row["times"].items()}
        place = {name: i for i, name in enumerate(row["order"])}
        taus.append(kendalltau([place[n] for n in SIX], [times[n].mean() for n in SIX]).statistic)
        halves = ([times[n][part].mean() for n in SIX] for part in (slice(0, 5), slice(5, None)))
        again.append(kendalltau(*halves).statistic)
        best = min(times, key=lambda n: times[n].mean())
        lost = times[row["order"][0]] - times[best]
        top.append(bool(lost.mean() == 0))
        interval = student_interval(lost) or (0.0, 0.0)
        alike.append(bool(interval[0] <= 0))
        for a, b in itertools.combinations(SIX, 2):
            interval = student_interval(times[a] - times[b]) or (0.0, 0.0)
            if interval[0] > 0 or interval[1] < 0:
                apart += 1
                right += (interval[0] > 0) == (place[a] > place[b])
    everyone = {n: round(np.mean([row["times"][n] for row in rows])) for n in rows[0]["times"]}
    interval = student_interval(np.array(taus))
    return {
        "splits": len(rows), "tau": round(float(np.mean(taus)), 3),
        "tau_ci95": None if interval is None else [round(x, 3) for x in interval],
        "begin": sum(row["verdict"].startswith("Begin") for row in rows),
        "tau_of_truth_with_itself": round(float(np.mean(again)), 3),
        "first_is_the_best": float(np.mean(top)), "first_not_apart_from_the_best": np.mean(alike),
        "pairs_apart": apart, "pairs_apart_in_right_order": round(right / apart, 3),
        "train_steps": round(np.mean([row["train_steps"] for row in rows])),
        "eval_steps": round(np.mean([row["eval_steps"] for row in rows])),
        "mean_time": everyone,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="fine-tuning without a teacher")
    parser.add_argument("--truth", type=Path, help="take the long runs from an earlier result")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    ways = TransferConfig()
    if args.plain:
        ways = dataclasses.replace(ways, kickstart=0.0, critic_warmup=0)
    known: list[dict[str, Any]] = []
    if args.truth:
        known = json.loads(args.truth.read_text(encoding="utf-8"))["splits"]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        train_sources(Path(place), range(args.splits))
        for k in range(args.splits):
            times = known[k]["times"] if known else None
            rows.append(split(k, Path(place), args.seeds, args.episodes, ways, times))
            print(json.dumps(judge(rows)), flush=True)
    if args.out:
        document = {"commit": commit(), "judged": judge(rows), "splits": rows}
        args.out.write_text(json.dumps(document) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
