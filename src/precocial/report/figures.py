"""The page's charts as plotly.js objects.

Colours are names that the page's script turns into those of its light or dark theme: ``@s0`` to
``@s5`` for series, ``@ink``, ``@muted``; ``@s0:0.2`` for a fifth of its opacity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from precocial.report.runs import Evaluation, Group
from precocial.report.words import decimals, number, plural
from precocial.statistics import bootstrap_interval, interquartile_mean

Trace = dict[str, Any]
Style = Literal["solid", "dash", "dot", "longdash", "mark", "ring", "block", "pale"]
Members = Sequence[tuple[Group, Evaluation]]
"""Groups of one environment, each with an evaluation of the same kind."""

NUM_COLOURS = 6
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
REFERENCE_DASHES: dict[str, Style] = {"optimum": "longdash", "oracle": "dash", "multi-task": "dot"}
MOST_POINTS = 250
"""A training curve longer than this is averaged over neighbouring iterations."""
MOST_DISTINCT = 6
"""A task parameter with at most this many distinct values is shown as bars."""


@dataclass(frozen=True)
class Key:
    """A legend entry, which also switches its traces off and on."""

    label: str
    colour: str
    style: Style
    group: str
    """``legendgroup`` of the traces."""


@dataclass(frozen=True)
class Chart:
    """One figure of the page."""

    title: str
    caption: str
    keys: list[Key]
    data: list[Trace]
    layout: dict[str, Any]


def adaptation(members: Members) -> Chart:
    """Return against stage: line and band per group, references dashed."""
    first = members[0][1]
    data, keys = [], []
    for group, e in members:
        name, colour = group.label, _colour(group)
        x = [s.stage for s in e.stages]
        low, high = [s.low for s in e.stages], [s.high for s in e.stages]
        band = {
            "x": [*x, *x[::-1]], "y": _round([*high, *low[::-1]]), "fill": "toself",
            "fillcolor": f"{colour}:0.18", "line": {"width": 0}, "mode": "lines",
            "hoverinfo": "skip", "legendgroup": name,
        }  # fmt: skip
        places = decimals([s.iqm for s in e.stages])
        line = {
            "x": x, "y": _round(s.iqm for s in e.stages), "name": name, "legendgroup": name,
            "mode": "lines+markers", "line": {"color": colour, "width": 2.5},
            "marker": {"symbol": _symbol(group), "size": 9 if len(x) <= 12 else 4, "color": colour},
            "customdata": [
                f"{number(s.low, places)} to {number(s.high, places)}" for s in e.stages
            ],
            "hovertemplate": "%{y} [%{customdata}]",
        }  # fmt: skip
        data += [band, line]
        keys.append(Key(name, colour, "solid", name))
    last = max(s.stage for _, e in members for s in e.stages)
    places = decimals(s.iqm for _, e in members for s in e.stages)
    for label, name, value in reference_lines(members):
        dash = REFERENCE_DASHES.get(name, "longdash")
        data.append({
            "x": [0, last], "y": _round([value, value]), "mode": "lines", "name": label,
            "line": {"color": "@muted", "width": 1.8, "dash": dash}, "legendgroup": label,
            "hovertemplate": "%{y}",
        })  # fmt: skip
        keys.append(Key(f"{label} {number(value, places)}", "@muted", dash, label))
    x_axis: dict[str, Any] = {
        "title": {"text": f"{first.unit}s"},
        "range": [-0.04 * last - 0.05, 1.04 * last + 0.05],
        "zeroline": False,
    }
    if last <= 12:
        x_axis |= {
            "tickvals": list(range(last + 1)),
            "ticktext": ["before", *map(str, range(1, last + 1))],
        }
    over = "seeds and tasks" if any(e.num_seeds > 1 for _, e in members) else "tasks"
    return Chart(
        "Adaptation curve",
        f"Return of the first whole episode at each stage, on {tasks_of(members)}. Line: "
        f"interquartile mean; band: 95 % bootstrap interval over {over}.",
        keys,
        data,
        {
            "xaxis": x_axis,
            "yaxis": {"title": {"text": "return"}},
            "hovermode": "x unified",
        },
    )  # fmt: skip


def tasks_phrase(e: Evaluation) -> str:
    """``200 test tasks, most likely actions, best checkpoint``."""
    notes = [f"{plural(e.num_tasks, f'{e.split} task')}"]
    notes += ["most likely actions"] if e.greedy else []
    notes += [f"{e.checkpoint} checkpoint"] if e.checkpoint != "last" else []
    return ", ".join(notes)


def tasks_of(members: Members) -> str:
    """The tasks of all members: ``200 test tasks``, or ``40 or 200 test tasks``."""
    phrase = tasks_phrase(members[0][1])
    nums = sorted({e.num_tasks for _, e in members})
    return f"{' or '.join(map(str, nums))} {phrase.partition(' ')[2]}" if len(nums) > 1 else phrase


def reference_value(e: Evaluation, name: str) -> float:
    """Return of a reference before adapting: its interquartile mean where known, or its mean."""
    curve = e.reference_curves.get(name)
    return curve[0] if curve else e.references.get(name, math.nan)


def reference_lines(members: Members) -> list[tuple[str, str, float]]:
    """(label, name, value) of each reference that is not a curve itself."""
    drawn = {group.algo for group, _ in members}
    found: dict[tuple[str, float], str] = {}
    for group, e in members:
        for name in {*e.references, *e.reference_curves} - drawn:
            if name == "optimum" and e.trial_mean is not None:
                continue  # it bounds the whole trial, not one stage of it
            value = reference_value(e, name)
            if math.isfinite(value):
                found.setdefault((name, float(f"{value:.3g}")), group.label)
    names = [name for name, _ in found]
    lines = [
        (name if names.count(name) == 1 else f"{name} for {label}", name, value)
        for (name, value), label in found.items()
    ]
    return sorted(lines, key=lambda line: -line[2])


def training(groups: Sequence[Group]) -> list[Chart]:
    """Training curves of one environment: on training and on valid tasks, on one scale."""
    charts = []
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
                keys.append(Key(group.label, _colour(group), "solid", group.label))
        if data:
            charts.append(
                Chart(
                    "Training curve" if prefix == "train" else "Validation curve",
                    f"Mean return while training, on {what}. Solid: after adapting; dotted: "
                    "before. Bold: mean over seeds; thin: each seed.",
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
            chart.layout["yaxis"]["range"] = _round([min(values) - pad, max(values) + pad])
    return charts


def _returns_logged(group: Group, prefix: str) -> list[tuple[str, Literal["solid", "dot"], str]]:
    """(label, style, metric) before adapting, and after the last update that was logged."""
    base = f"{prefix}/episode_reward_mean"
    logged = {key for run in group.runs for row in run.rows for key in row if key.startswith(base)}
    numbers = [int(key.rpartition("_")[2]) for key in logged if key.startswith(f"{base}_adapt_")]
    found: list[tuple[str, Literal["solid", "dot"], str]] = []
    if base in logged:
        found.append(("before adapting", "dot", base))
    if numbers:
        found.append((f"after {max(numbers)}", "solid", f"{base}_adapt_{max(numbers)}"))
    return found


def _seed_traces(group: Group, key: str, name: str, style: str) -> list[Trace]:
    """Thin lines per seed and their bold mean."""
    colour = _colour(group)
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
        _round(np.add.reduceat(x, starts) / counts, 8),
        _round(np.add.reduceat(y, starts) / counts),
    )


def before_after(members: Members) -> Chart:
    """Each task as a point: return before against return after adapting."""
    data, keys, every = [], [], []
    for group, e in members:
        before, after = e.per_task[:, 0], e.per_task[:, -1]
        every += [before, after]
        data.append({
            "x": _round(before), "y": _round(after), "mode": "markers", "name": group.label,
            "marker": _marker(group, 7, 0.65), "legendgroup": group.label,
            "hovertemplate": "before %{x}<br>after %{y}",
        })  # fmt: skip
        keys.append(Key(group.label, _colour(group), "mark", group.label))
    values = np.concatenate(every)
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or 1.0
    ends = _round([low - pad, high + pad])
    diagonal = {
        "x": ends, "y": ends, "mode": "lines", "hoverinfo": "skip", "legendgroup": "no change",
        "line": {"color": "@muted", "width": 1.5, "dash": "dash"},
    }  # fmt: skip
    keys.append(Key("no change", "@muted", "dash", "no change"))
    return Chart(
        "Every task, before and after",
        f"One point per {members[0][1].split} task, mean over seeds; above the dashed line, "
        "adapting helped.",
        keys,
        [diagonal, *data],
        {
            "xaxis": {"title": {"text": "return before adapting"}, "range": ends},
            "yaxis": {"title": {"text": f"return {_after(members[0][1])}"}, "range": ends},
            "hovermode": "closest",
        },
    )  # fmt: skip


def by_task(members: Members) -> list[Chart]:
    """Returns against what the task is: a map, bars or a scatter, as its parameters allow."""
    _, e = members[0]
    params = {k: v for k, v in e.task_params.items() if k != "id" and v.size}
    planes = [k for k, v in params.items() if v.ndim == 2 and v.shape[1] == 2]
    lines = [k for k, v in params.items() if v.ndim == 1]
    finite = [
        k for k in lines if 2 <= len(np.unique(params[k])) <= min(MOST_DISTINCT, len(params[k]) - 1)
    ]
    having: Callable[[str], list[tuple[Group, Evaluation]]] = lambda name: [  # noqa: E731
        (g, e) for g, e in members if name in e.task_params
    ]
    if planes:
        return _maps(having(planes[0]), planes[0])
    if finite:
        return [_bars(having(finite[0]), finite[0])]
    if len(lines) == 1:
        return [_against(having(lines[0]), lines[0])]
    return []


def _maps(members: Members, name: str) -> list[Chart]:
    """Tasks on their plane, coloured by adapted return."""
    charts = []
    for group, e in members:
        low, high = np.percentile(e.per_task[:, -1], [2, 98])
        points = e.task_params[name]
        extra = f": {group.label}" if len(members) > 1 else ""
        trace = {
            "x": _round(points[:, 0]), "y": _round(points[:, 1]), "mode": "markers",
            "marker": {
                "color": _round(e.per_task[:, -1]), "colorscale": "Cividis", "size": 9,
                "cmin": float(low), "cmax": float(high), "line": {"width": 0.5, "color": "@muted"},
                "colorbar": {
                    "title": {"text": "return", "side": "top", "font": {"size": 13}},
                    "thickness": 12, "outlinewidth": 0,
                },
            },
            "hovertemplate": "(%{x}, %{y})<br>return %{marker.color}<extra></extra>",
        }  # fmt: skip
        charts.append(
            Chart(
                f"Where the tasks lie{extra}",
                f"Each {e.split} task at its {name}, coloured by the return {_after(e)}, mean "
                "over seeds.",
                [],
                [trace],
                {
                    "xaxis": {"title": {"text": f"{name}[0]"}, "zeroline": False},
                    "yaxis": {
                        "title": {"text": f"{name}[1]"},
                        "zeroline": False,
                        "scaleanchor": "x",
                    },
                    "hovermode": "closest",
                },
            )
        )  # fmt: skip
    return charts


def _bars(members: Members, name: str) -> Chart:
    """Before and after for each distinct task."""
    data, keys = [], []
    for group, e in members:
        values = e.task_params[name]
        distinct = np.unique(values)
        for label, column, style in (("before adapting", 0, "pale"), ("after", -1, "block")):
            key = f"{group.label}, {label}"
            rows = [e.per_task[values == v, column] for v in distinct]
            means = [interquartile_mean(row) for row in rows]
            ends = [bootstrap_interval(row[None]) for row in rows]
            data.append({
                "type": "bar", "name": key, "legendgroup": key,
                "x": [f"{name} {number(v, 0 if v.is_integer() else 2)}" for v in distinct.tolist()],
                "y": _round(means),
                "error_y": {
                    "type": "data", "symmetric": False, "thickness": 1.5, "color": "@ink",
                    "array": _round(high - m for m, (_, high) in zip(means, ends, strict=True)),
                    "arrayminus": _round(m - low for m, (low, _) in zip(means, ends, strict=True)),
                },
                "marker": {"color": _colour(group) + (":0.4" if style == "pale" else "")},
                "hovertemplate": "%{y}",
            })  # fmt: skip
            keys.append(Key(key, _colour(group), "pale" if style == "pale" else "block", key))
    e = members[0][1]
    return Chart(
        f"By {name}",
        f"Interquartile mean return of the {e.split} tasks of each {name}, before adapting and "
        f"{_after(e)}; whiskers: 95 % bootstrap interval over the tasks drawn.",
        keys,
        data,
        {
            "barmode": "group", "bargap": 0.3, "hovermode": "closest",
            "xaxis": {"type": "category"}, "yaxis": {"title": {"text": "return"}},
        },
    )  # fmt: skip


def _against(members: Members, name: str) -> Chart:
    """Return before and after against one continuous parameter."""
    data, keys = [], []
    for group, e in members:
        for label, column, style in (("before adapting", 0, "ring"), ("after", -1, "mark")):
            key = f"{group.label}, {label}"
            marker = _marker(group, 7, 0.75)
            if style == "ring":
                marker |= {"symbol": f"{_symbol(group)}-open"}
            data.append({
                "x": _round(e.task_params[name]), "y": _round(e.per_task[:, column]),
                "mode": "markers", "marker": marker, "name": key, "legendgroup": key,
                "hovertemplate": f"{name} %{{x}}<br>return %{{y}}",
            })  # fmt: skip
            keys.append(Key(key, _colour(group), "ring" if style == "ring" else "mark", key))
    e = members[0][1]
    return Chart(
        f"By {name}",
        f"Each {e.split} task at its {name}, mean over seeds: hollow before adapting, filled "
        f"{_after(e)}.",
        keys,
        data,
        {
            "xaxis": {"title": {"text": name}},
            "yaxis": {"title": {"text": "return"}},
            "hovermode": "closest",
        },
    )


def _after(e: Evaluation) -> str:
    """When the last stage is: ``after 3 updates``."""
    return f"after {plural(e.stages[-1].stage, e.unit)}"


def _colour(group: Group) -> str:
    return f"@s{group.colour % NUM_COLOURS}"


def _symbol(group: Group) -> str:
    return SYMBOLS[(group.colour + group.colour // NUM_COLOURS) % len(SYMBOLS)]


def _marker(group: Group, size: int, opacity: float) -> dict[str, Any]:
    return {"color": _colour(group), "symbol": _symbol(group), "size": size, "opacity": opacity}


def _round(values: Iterable[Any], digits: int = 4) -> list[float | None]:
    """Significant digits only, to keep the page small; what is not finite becomes a gap."""
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in map(float, values)]
