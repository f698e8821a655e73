"""Validation returns of runs on one family over their environment steps, as a figure.

    python benchmarks/sample_efficiency.py RUN... --out PAGE.html

Of each run the last stage of its validations: what it reaches on tasks it was not trained on, after
as much adapting as in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import plotly.graph_objects as go
import yaml

from precocial.runs.rows import read_rows

KEY = "valid/episode_reward_mean"


def curve(run: Path) -> tuple[list[float], list[float]]:
    """Environment steps and returns."""
    rows = [row for row in read_rows(run / "metrics.jsonl") if KEY in row]
    last = max(k for k in rows[0] if k.startswith(KEY))
    return [row["env_steps"] for row in rows], [row[last] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    fig = go.Figure()
    for run in args.runs:
        config = yaml.safe_load((run / "config.yaml").read_text())
        steps, returns = curve(run)
        fig.add_scatter(x=steps, y=returns, name=config["algo"], mode="lines+markers")
    fig.update_xaxes(type="log", title="environment steps of meta-training", dtick=1)
    fig.update_yaxes(title="return on unseen tasks, last stage")
    fig.update_layout(template="plotly_white", width=820, height=440, margin={"t": 20})
    fig.write_html(args.out, config={"displayModeBar": False})


if __name__ == "__main__":
    main()
