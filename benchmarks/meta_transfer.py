"""Is a meta-learned initialisation a better start of plain fine-tuning, in another family?

    python benchmarks/meta_transfer.py --out benchmarks/results/meta-transfer.json --figure fig.html

Initialisations by maml, reptile and multi-task training on one family, each with as many
environment steps, are fine-tuned by ppo on ten single tasks of another family, beside scratch:
networks, steps and settings are the same. Sources of several seeds are taken in turn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from precocial.algos.transfer.config import TransferConfig
from precocial.runs.jobs import prepare, run_all
from precocial.runs.plan import commit, plan
from precocial.runs.rows import read_rows
from precocial.statistics import bootstrap_interval
from precocial.transferring.measure import curve_of
from precocial.transferring.run import transfer

INITS = ("maml", "reptile", "multi-task")
PLAIN = TransferConfig(kickstart=0.0, critic_warmup=0)
PPO: dict[str, Any] = {"epochs": 10, "eval_every": 1, "eval_tasks": 4}
LOCAL: dict[str, Any] = {"env_view": "local"}
FAMILIES: dict[str, tuple[str, int, dict[str, Any], str, dict[str, Any]]] = {
    "cart-pole -> longer poles": (
        "cart-pole", 3, {"env_steps": 1_500_000},
        "cart-pole", {"one_task": "shifted", "lanes": 4, "iterations": 40, "lr": 3e-3},
    ),
    "4x4 lakes -> 8x8": (
        "frozen-lake", 3, LOCAL | {
            "env_size": 4, "num_tasks": 20, "episodes_per_task": 10, "env_steps": 1_000_000,
        },
        "frozen-lake", LOCAL | {
            "env_size": 8, "env_horizon": 100, "one_task": "test", "lanes": 8, "iterations": 20,
        },
    ),
    "half-cheetah-vel -> -dir": (
        "half-cheetah-vel", 1, {"env_steps": 6_000_000, "env_threads": 1},
        "half-cheetah-dir", {
            "one_task": "test", "lanes": 4, "iterations": 60, "env_action_scale": 10.0,
            "env_threads": 1, "eval_tasks": 1, "eval_every": 2,
        },
    ),
}  # fmt: skip
"""Family, seeds and settings of the sources; family and settings of the targets."""


def sources(name: str, init: str, home: Path) -> Path:
    """Trained once, into ``HOME/FAMILY-INIT``."""
    env, seeds, settings, _, _ = FAMILIES[name]
    place = home / f"{env}-{init}"
    runs = [
        (plan(init, env, seed=k, eval_every=0, iterations=10**6, **settings), place / f"seed-{k}")
        for k in range(seeds)
    ]
    failures = run_all(prepare(runs), jobs=2, quiet=True)
    assert not failures, failures
    return place


def measure(name: str, home: Path) -> dict[str, Any]:
    """Area and curve of every initialisation on ten tasks."""
    _, _, _, env, settings = FAMILIES[name]
    found: dict[str, Any] = {}
    for init in INITS:
        out = home / "targets" / env / init
        result = transfer(
            sources(name, init, home), env, "ppo", seeds=10, out=out, ways=PLAIN, jobs=2,
            scratch=init == INITS[0], quiet=True, **PPO | settings,
        )  # fmt: skip
        for side in ("transfer", "scratch"):
            if side in result:
                curves = [
                    curve_of(read_rows(out / side / f"seed-{k}" / "metrics.jsonl"))
                    for k in range(10)
                ]
                found[init if side == "transfer" else "scratch"] = result[side] | {
                    "env_steps": curves[0].env_steps.tolist(),
                    "curve": np.mean([c.returns for c in curves], 0).round(3).tolist(),
                    "source_env_steps": result["source_env_steps"],
                }
    scratch = np.array(found["scratch"]["area"]["each"])
    for init in INITS:
        gain = np.array(found[init]["area"]["each"]) - scratch
        interval = bootstrap_interval(gain[:, None], trim=False)
        found[init]["gain"] = {"mean": float(gain.mean()), "ci95": interval}
    return found


def figure(results: dict[str, Any]) -> go.Figure:
    """Areas with their intervals above, mean learning curves below."""
    names, colours = [*INITS, "scratch"], ["#1f77b4", "#2ca02c", "#ff7f0e", "#7f7f7f"]
    fig = make_subplots(
        2, len(results), subplot_titles=list(results), row_heights=[0.42, 0.58],
        vertical_spacing=0.14, horizontal_spacing=0.07,
    )  # fmt: skip
    for column, found in enumerate(results.values(), 1):
        for name, colour in zip(names, colours, strict=True):
            one = found[name]
            mean, (low, high) = one["area"]["mean"], one["area"]["ci95"]
            fig.add_trace(
                go.Scatter(
                    x=[mean], y=[name], mode="markers", marker={"color": colour, "size": 10},
                    error_x={"array": [high - mean], "arrayminus": [mean - low]}, showlegend=False,
                ),
                1, column,
            )  # fmt: skip
            fig.add_trace(
                go.Scatter(
                    x=one["env_steps"], y=one["curve"], name=name, line={"color": colour},
                    showlegend=column == 1,
                ),
                2, column,
            )  # fmt: skip
        fig.update_xaxes(title="mean return over the budget", row=1, col=column)
        fig.update_xaxes(title="environment steps of fine-tuning", row=2, col=column)
        fig.update_yaxes(autorange="reversed", showticklabels=column == 1, row=1, col=column)
    fig.update_yaxes(title="return", row=2, col=1)
    fig.update_layout(template="plotly_white", width=1180, height=640, margin={"t": 50})
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="families whose name begins so")
    parser.add_argument("--home", type=Path, help="keep sources and runs here")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path, help="an HTML page")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as place:
        for name in FAMILIES:
            if name.startswith(args.only):
                results[name] = measure(name, args.home or Path(place))
                for init, its in results[name].items():
                    area, gain = its["area"], its.get("gain")
                    print(name, init, area["mean"], area["ci95"], gain, flush=True)
    if args.out:
        document = {"commit": commit(), "families": results}
        args.out.write_text(json.dumps(document) + "\n", encoding="utf-8")
    if args.figure:
        figure(results).write_html(args.figure, config={"displayModeBar": False})


if __name__ == "__main__":
    main()
