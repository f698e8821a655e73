"""Curves over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from precocial.report.figures.chart import Chart, Key, Trace, rounded, series_colour
from precocial.report.runs import Group

MOST_POINTS = 250
"""A training curve longer than this is averaged over neighbouring iterations."""


def training(groups: Sequence[Group]) -> list[Chart]:
    """Training curves of groups of one unit: on training and on valid tasks, on one scale."""
    charts = []
    what_is = " Solid: after adapting; dotted: before."
    if groups[0].unit == "episode":
        logged = {key for group in groups for run in group.runs for row in run.rows for key in row}
        several = any("_reward_mean_adapt_" in key for key in logged)
        what_is = " Solid: last episode of the trial; dotted: first." if several else ""
    for prefix, what in (
        ("train", "tasks it trains on"),
        ("valid", "valid tasks, never trained on"),
    ):
        data, keys = [], []
        for group in groups:
            traces = [
                trace
                for label, style, key in _returns_logged(group, prefix)
                for trace in _seed_traces(group, key, f"{group.label}, {label}", style)
            ]
            if traces:
                data += traces
                keys.append(Key(group.label, series_colour(group), "solid", group.label))
        if data:
            charts.append(
                Chart(
                    "Training curve" if prefix == "train" else "Validation curve",
                    f"Mean return while training, on {what}.{what_is} Bold: mean over seeds; "
                    "thin: each seed.",
                    keys,
                    data,
                    {
                        "xaxis": {
                            "title": {"text": "environment steps"},
                            "rangemode": "tozero",
                            "tickformat": "~s",
                        },
                        "yaxis": {"title": {"text": "return"}},
                        "hovermode": "closest",
                    },
                )
            )  # fmt: skip
    values = [y for c in charts for t in c.data for y in t["y"] if y is not None]
    if values:
        pad = 0.05 * (max(values) - min(values)) or 1.0
        for chart in charts:
            chart.layout["yaxis"]["range"] = rounded([min(values) - pad, max(values) + pad])
    return charts


def _returns_logged(group: Group, prefix: str) -> list[tuple[str, Literal["solid", "dot"], str]]:
    """(label, style, metric) of the first stage, and of the last that was logged."""
    base = f"{prefix}/episode_reward_mean"
    logged = {key for run in group.runs for row in run.rows for key in row if key.startswith(base)}
    numbers = [int(key.rpartition("_")[2]) for key in logged if key.startswith(f"{base}_adapt_")]
    found: list[tuple[str, Literal["solid", "dot"], str]] = []
    episodes = group.unit == "episode"
    if base in logged and episodes and not numbers:
        found.append(("return", "solid", base))
    elif base in logged:
        found.append(("episode 1" if episodes else "before adapting", "dot", base))
    if numbers:
        last = max(numbers)
        label = f"episode {last + 1}" if episodes else f"after {last}"
        found.append((label, "solid", f"{base}_adapt_{last}"))
    return found


def _seed_traces(group: Group, key: str, name: str, style: str) -> list[Trace]:
    """Thin lines per seed and their bold mean."""
    colour = series_colour(group)
    seeds = [(run.seed, *run.series(key)) for run in group.runs]
    seeds = [(seed, x, y) for seed, x, y in seeds if x]
    if not seeds:
        return []
    common = {"mode": "lines", "legendgroup": group.label}
    traces = []
    if len(seeds) > 1:
        for seed, x, y in seeds:
            xs, ys = _thinned(np.array(x), np.array(y))
            traces.append(common | {
                "x": xs, "y": ys, "name": f"{name}, seed {seed}", "opacity": 0.4,
                "line": {"color": colour, "width": 1, "dash": style}, "hoverinfo": "skip",
            })  # fmt: skip
    end = min(x[-1] for _, x, _ in seeds)
    grid = np.array([step for step in seeds[0][1] if step <= end])
    if not grid.size:
        return traces
    mean = np.mean([np.interp(grid, x, y) for _, x, y in seeds], 0)
    xs, ys = _thinned(grid, mean)
    traces.append(common | {
        "x": xs, "y": ys, "name": name, "line": {"color": colour, "width": 2.6, "dash": style},
        "hovertemplate": f"%{{y:.4~g}} at %{{x:.3~s}} steps<extra>{name}</extra>",
    })  # fmt: skip
    return traces


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[list[float | None], list[float | None]]:
    size = math.ceil(len(x) / MOST_POINTS)
    starts = np.arange(0, len(x), size)
    counts = np.diff([*starts, len(x)])
    return (
        rounded(np.add.reduceat(x, starts) / counts, 8),
        rounded(np.add.reduceat(y, starts) / counts),
    )
