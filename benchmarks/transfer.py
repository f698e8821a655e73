"""Transfer between CartPoles: every row is one `precocial transfer` of ten seeds beside scratch.

    python benchmarks/transfer.py --seed 10 --out benchmarks/results/transfer.csv

Sources are ten runs of the `ppo` preset, seed by seed. A time is environment steps to the threshold
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
ROWS: list[tuple[str, float, dict[str, Any], TransferConfig]] = [
    ("pole x 4", 400, LONG, TransferConfig()),
    ("pole x 4, plain fine-tuning", 400, LONG, TransferConfig(kickstart=0, critic_warmup=0)),
    ("pole x 4, hidden layers frozen", 400, LONG, TransferConfig(
        freeze=("actor.[01]",), kickstart=0, critic_warmup=0)),
    ("pole x 4, policy alone", 400, LONG, TransferConfig(
        reinit=("critic.*",), kickstart=0, critic_warmup=0)),
    ("pole / 5", 400, SHORT, TransferConfig()),
    ("pole / 5, plain fine-tuning", 400, SHORT, TransferConfig(kickstart=0, critic_warmup=0)),
    ("pole / 5, hidden layers frozen", 400, SHORT, TransferConfig(
        freeze=("actor.[01]",), kickstart=0, critic_warmup=0)),
    ("2 inputs more", 475, {"env_extra_inputs": 2}, TransferConfig()),
    ("1 action more", 475, {"env_extra_actions": 1}, TransferConfig()),
    ("force reversed", 475, SWAPPED, TransferConfig()),
    ("force reversed, new head", 475, SWAPPED, TransferConfig(reinit=("actor.2",))),
    ("force reversed, new heads", 475, SWAPPED, TransferConfig(reinit=("*.2",))),
    ("force reversed, as a teacher", 475, SWAPPED, TransferConfig(
        kickstart=1.0, reinit=("actor.*", "critic.*"))),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first of the ten")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as home:
        seeds = range(args.seed, args.seed + 10)
        folders = [Path(home) / "source" / f"seed-{s}" for s in seeds]
        for seed, folder in zip(seeds, folders, strict=True):
            create_folder(plan("ppo", "CartPole-v1", seed=seed), folder, overwrite=False)
        run_stacked(folders, quiet=True)
        for i, (name, threshold, options, ways) in enumerate(ROWS):
            if not name.startswith(args.only):
                continue
            found = transfer(
                Path(home) / "source", "CartPole-v1", "ppo", seeds=10, out=Path(home) / str(i),
                threshold=threshold, ways=ways, quiet=True, seed=args.seed,
                iterations=args.iterations, **options,
            )  # fmt: skip
            row: dict[str, Any] = {"what": name, "threshold": threshold, "steps": found["budget"]}
            for side in ("transfer", "scratch"):
                one = found[side]
                for key in ("start", "area", "asymptote", "time"):
                    row[f"{side}_{key}"] = round(one[key]["mean"], 1)
                    row[f"{side}_{key}_ci95"] = json.dumps([round(x) for x in one[key]["ci95"]])
                row[f"{side}_never"] = one["censored"]
            row["at_most_half"] = found["at_most_half_the_time"]
            row["jump_start"] = round(found["jump_start"]["mean"], 1)
            row["transfer_ratio"] = round(found["transfer_ratio"], 2)
            row["time_with_source"] = round(found["transfer"]["time_with_source"]["mean"])
            row["starts"] = json.dumps([round(x) for x in found["transfer"]["start"]["each"]])
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
