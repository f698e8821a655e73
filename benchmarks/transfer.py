"""Transfer between poles, pendulums, lakes: a row is a `precocial transfer` of ten seeds.

    python benchmarks/transfer.py --seed 10 --out benchmarks/results/transfer.csv

Sources are ten runs, seed by seed. A time is environment steps to the threshold
(the first of two evaluations in a row, after training began), censored runs counting with the whole
budget.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

from precocial.algos.transfer.config import TransferConfig
from precocial.runs.folder import create_folder
from precocial.runs.plan import commit, plan
from precocial.stacking import run_stacked
from precocial.transferring.run import transfer

LONG, SHORT, SWAPPED = {"env_half_length": 2.0}, {"env_half_length": 0.1}, {"env_force": -10.0}
SIGHT: dict[str, Any] = {"env_view": "local", "gamma": 0.95, "n_step": 3, "tau": 0.02, "lr": 5e-4}
SOURCES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pole": ("ppo", "CartPole-v1", {}),
    "pendulum": ("sac", "Pendulum-v1", {"iterations": 24}),
    "lakes": ("dqn", "frozen-lake", SIGHT | {
        "env_size": 4, "env_train_tasks": 300, "num_tasks": 30, "lanes": 2, "rounds": 13,
        "train_every": 2, "updates": 8, "explore_steps": 60_000, "final_epsilon": 0.1,
        "buffer_size": 200_000,
        "eval_every": 10, "eval_tasks": 200, "iterations": 120,
    }),
    "one lake": ("dqn", "FrozenLake-v1", SIGHT | {
        "env_slippery": False, "explore_steps": 10_000, "eval_every": 1, "eval_tasks": 1,
        "iterations": 20,
    }),
}  # fmt: skip
"""Algorithm, family and settings of ten runs each."""
ON_8X8: dict[str, Any] = SIGHT | {
    "env_slippery": False, "rounds": 16, "learning_starts": 256, "explore_steps": 6000,
    "eval_every": 1, "eval_tasks": 1, "iterations": 24,
}  # fmt: skip
PLAIN = {"kickstart": 0.0, "critic_warmup": 0}
ROWS: list[tuple[str, str, str, float, dict[str, Any], TransferConfig]] = [
    ("pole x 4", "pole", "CartPole-v1", 400, LONG, TransferConfig()),
    ("pole x 4, plain fine-tuning", "pole", "CartPole-v1", 400, LONG, TransferConfig(**PLAIN)),
    ("pole x 4, hidden layers frozen", "pole", "CartPole-v1", 400, LONG,
     TransferConfig(freeze=("actor.[01]",), **PLAIN)),
    ("pole x 4, policy alone", "pole", "CartPole-v1", 400, LONG,
     TransferConfig(reinit=("critic.*",), **PLAIN)),
    ("pole / 5", "pole", "CartPole-v1", 400, SHORT, TransferConfig()),
    ("pole / 5, plain fine-tuning", "pole", "CartPole-v1", 400, SHORT, TransferConfig(**PLAIN)),
    ("pole / 5, hidden layers frozen", "pole", "CartPole-v1", 400, SHORT,
     TransferConfig(freeze=("actor.[01]",), **PLAIN)),
    ("2 inputs more", "pole", "CartPole-v1", 475, {"env_extra_inputs": 2}, TransferConfig()),
    ("1 action more", "pole", "CartPole-v1", 475, {"env_extra_actions": 1}, TransferConfig()),
    ("force reversed", "pole", "CartPole-v1", 475, SWAPPED, TransferConfig()),
    ("force reversed, new head", "pole", "CartPole-v1", 475, SWAPPED,
     TransferConfig(reinit=("actor.2",))),
    ("force reversed, new heads", "pole", "CartPole-v1", 475, SWAPPED,
     TransferConfig(reinit=("*.2",))),
    ("force reversed, as a teacher", "pole", "CartPole-v1", 475, SWAPPED,
     TransferConfig(kickstart=1.0, reinit=("actor.*", "critic.*"))),
    ("mass x 2", "pendulum", "Pendulum-v1", -500, {"env_mass": 2.0, "iterations": 14},
     TransferConfig()),
    ("mass x 2, policy alone", "pendulum", "Pendulum-v1", -500,
     {"env_mass": 2.0, "iterations": 14}, TransferConfig(reinit=("q.*", "q_twin.*"))),
    ("lakes -> 8x8", "lakes", "FrozenLake8x8-v1", 1, ON_8X8, TransferConfig()),
    ("lakes -> 8x8, from one map", "one lake", "FrozenLake8x8-v1", 1, ON_8X8, TransferConfig()),
]  # fmt: skip


def train_sources(name: str, home: Path, first: int) -> Path:
    """Ten runs, once."""
    algo, env, settings = SOURCES[name]
    place = home / "sources" / name
    folders = [place / f"seed-{s}" for s in range(first, first + 10)]
    if not place.exists():
        for folder in folders:
            seed = int(folder.name.removeprefix("seed-"))
            create_folder(plan(algo, env, seed=seed, **settings), folder, overwrite=False)
        run_stacked(folders, quiet=True)
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first of the ten")
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as home:
        for i, (name, source, env, threshold, options, ways) in enumerate(ROWS):
            if not name.startswith(args.only):
                continue
            found = transfer(
                train_sources(source, Path(home), args.seed), env, seeds=10,
                out=Path(home) / str(i), threshold=threshold, ways=ways, quiet=True,
                seed=args.seed, **options,
            )  # fmt: skip
            row: dict[str, Any] = {
                "first_seed": args.seed,
                "what": name,
                "threshold": threshold,
                "steps": found["budget"],
            }
            for side in ("transfer", "scratch"):
                one = found[side]
                for key in ("start", "area", "asymptote", "time"):
                    row[f"{side}_{key}"] = round(one[key]["mean"], 2)
                    row[f"{side}_{key}_ci95"] = json.dumps([round(x, 2) for x in one[key]["ci95"]])
                row[f"{side}_never"] = one["censored"]
            row["at_most_half"] = found["at_most_half_the_time"]
            row["jump_start"] = round(found["jump_start"]["mean"], 2)
            row["transfer_ratio"] = round(found["transfer_ratio"], 2)
            row["time_with_source"] = round(found["transfer"]["time_with_source"]["mean"])
            row["starts"] = json.dumps([round(x, 2) for x in found["transfer"]["start"]["each"]])
            row["lost_on_source"] = found["forgetting"] and round(found["forgetting"]["lost"], 1)
            row["commit"] = commit()
            table.append(row)
            print(json.dumps(row), flush=True)
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
