"""Results of ``precocial eval --json`` as one CSV and one Markdown table.

    python benchmarks/table.py --out benchmarks/results/learning.csv FOLDER...

Each FOLDER is a run, or a parent of seed-S runs, that ``precocial eval`` has been run on.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import yaml

from precocial.runs.folder import expand_runs
from precocial.runs.rows import read_rows


def describe(folder: Path, evaluation: Path) -> tuple[list[dict], str]:
    """CSV rows of one evaluation of a folder, and its line of the Markdown table."""
    result = json.loads(evaluation.read_text())
    runs = expand_runs([folder])
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs]
    logs = [read_rows(run / "metrics.jsonl") for run in runs]
    seconds = [
        sum(v for row in rows for k, v in row.items() if k.startswith("time/")) for rows in logs
    ]
    steps = max((rows[-1]["env_steps"] for rows in logs if rows), default=0)
    common = {
        "run": folder.name, "env": result["env"], "algorithm": result["algorithm"],
        "preset": result["preset"],
        "seeds": " ".join(map(str, result["run_seeds"])), "tasks": result["num_tasks"],
        "lanes": result["lanes"], "actions": "most likely" if result["greedy"] else "sampled",
        "env_steps": int(steps),
        "commit": configs[0]["precocial"]["commit"], "machine": configs[0]["machine"],
        "seconds_per_seed": round(sum(seconds) / len(seconds)),
    }  # fmt: skip
    rows = [
        common | {
            "stage": s["stage"], "return_mean": s["return_mean"], "return_iqm": s["return_iqm"],
            **ends("ci95", s["ci95"]),
            "seed_means": " ".join(f"{x:.4f}" for x in s["seed_means"]),
            "success_rate": s.get("success_rate", ""), "solved_by": s.get("solved_by", ""),
        }
        for s in result["stages"]
    ]  # fmt: skip
    if "model_error" in result:
        rows, cells = describe_model(result, common)
    elif "trial_return_mean" in result:
        rows.append(
            common | {
                "stage": "trial", "return_mean": result["trial_return_mean"],
                **ends("ci95", result["trial_ci95"]),
                "seed_means": " ".join(f"{x:.4f}" for x in result["trial_return_seeds"]),
            }
        )  # fmt: skip
        cells = [common["actions"], f"trial {result['trial_return_mean']:.3f}"]
        for name, total in result["references"].items():
            if total is not None:
                rows.append(
                    common | {"algorithm": name, "seeds": "", "env_steps": "", "commit": "",
                              "machine": "", "seconds_per_seed": "", "stage": "trial",
                              "actions": "", "return_mean": total}
                )  # fmt: skip
    else:
        cells = [
            f"{s['return_mean']:.2f} (IQM {s['return_iqm']:.2f}{words(s['ci95'], 2)})"
            for s in result["stages"]
        ]
    head = [
        common["env"], common["algorithm"], len(runs), f"{steps / 1e6:.1f} M",
        f"{common['seconds_per_seed']} s", common["commit"],
    ]  # fmt: skip
    return rows, "| " + " | ".join(map(str, head + cells)) + " |"


def ends(name: str, interval: list[float] | None) -> dict[str, float | str]:
    """Both ends of an interval as columns, blank where there is none."""
    low, high = interval or ("", "")
    return {f"{name}_low": low, f"{name}_high": high}


def words(interval: list[float] | None, places: int) -> str:
    """The interval in brackets; nothing where there is none."""
    return " [{:.{p}f}, {:.{p}f}]".format(*interval, p=places) if interval else ""


def describe_model(result: dict, common: dict) -> tuple[list[dict], list[str]]:
    """Of a method that plans with a model: return, and errors on what its own runs met.

    References have the errors of their models on the same transitions.
    """

    def row(name: str, errors: dict, **own: object) -> dict:
        found: dict[str, object] = {"errors_on": result["algorithm"]}
        for kind in ("unadapted", "adapted", "drop"):
            found |= {kind: errors[kind], **ends(kind, errors[f"{kind}_ci95"])}
            found[f"{kind}_seeds"] = " ".join(f"{x:.4f}" for x in errors[f"{kind}_seeds"])
        return common | {"algorithm": name} | own | found

    rows = [
        row(
            result["algorithm"], result["model_error"],
            return_mean=result["trial_return_mean"], **ends("ci95", result["trial_ci95"]),
            seed_means=" ".join(f"{x:.2f}" for x in result["trial_return_seeds"]),
        )
    ]  # fmt: skip
    nothing = dict.fromkeys(("ci95_low", "ci95_high", "seed_means", "seeds", "commit"), "")
    for name, errors in result.get("reference_errors", {}).items():
        rows.append(row(name, errors, return_mean=result["references"][name], **nothing))
    own = result["model_error"]
    cells = [
        f"{result['trial_return_mean']:.1f}{words(result['trial_ci95'], 1)}",
        f"{own['unadapted']:.3f} -> {own['adapted']:.3f}{words(own['adapted_ci95'], 3)}",
    ]
    cells += [f"{k} {v['adapted']:.3f}" for k, v in result.get("reference_errors", {}).items()]
    return rows, cells


def main() -> None:
    """Write the CSV, print the Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict] = []
    for folder in args.folders:
        for evaluation in sorted((folder / "eval").glob("test-*.json")):
            more, line = describe(folder, evaluation)
            rows += [row for row in more if row not in rows]
            print(line)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
