"""The page's charts as plotly.js objects.

Colours are names that the page's script turns into those of its light or dark theme: ``@s0`` to
``@s5`` for series, ``@r0`` to ``@r5`` for references, ``@ink``, ``@muted``; ``@s0:0.2`` for a fifth
of its opacity. The script leaves out traces of mode ``text``, which label lines, on a narrow page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from precocial.report.runs import REFERENCES, Estimate, Evaluation, Group, mean_interval
from precocial.report.words import decimals, number, percent, plural
from precocial.statistics import TaskSample, bootstrap_interval, interquartile_mean

Trace = dict[str, Any]
Style = Literal["solid", "dash", "dot", "longdash", "dashdot", "mark", "ring", "block", "pale"]
Members = Sequence[tuple[Group, Evaluation]]
"""Groups of one environment, each with an evaluation of the same kind."""

NUM_COLOURS = 6
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
REFERENCE_DASHES: dict[str, Style] = {"optimum": "longdash", "oracle": "dash", "multi-task": "dot"}
DASHES: tuple[Style, ...] = ("dash", "dot", "longdash", "dashdot")
MOST_MARKERS = 12
"""A curve of more stages is drawn without markers."""
SMOOTHED = 30
"""In a trial of more episodes, neighbouring ones are averaged."""
WIDE_PLOT = 440
"""Height in pixels of a chart as wide as the page; the style sheet says the same."""
LONGEST_LABEL = 28
"""Characters; with longer names, lines are told apart by the legend alone."""
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
    wide: bool = False
    """As wide as the page."""


def adaptation(members: Members) -> Chart:
    """Return against stage: line and band per group, references dashed."""
    first = members[0][1]
    data: list[Trace] = []
    keys = []
    for group, e in members:
        name, colour = group.label, _colour(group)
        x = [s.stage for s in e.stages]
        estimates = [(s.score, s.low, s.high) for s in e.stages]
        line = {
            "x": x, "y": _round(s.score for s in e.stages), "name": name, "legendgroup": name,
            "mode": "lines+markers", "line": {"color": colour, "width": 2.5},
            "marker": _marker(group, 9 if len(x) <= MOST_MARKERS else 4, 1),
            **_tips(estimates),
        }  # fmt: skip
        data += [*_band(group, x, estimates, 0.18), line]
        keys.append(Key(name, colour, "solid", name))
    last = max(s.stage for _, e in members for s in e.stages)
    places = decimals(s.score for _, e in members for s in e.stages)
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
    over = chance(e for _, e in members)
    return Chart(
        "Adaptation curve",
        f"Return of the first whole episode at each stage, on {tasks_of(members)}. Line: "
        f"interquartile mean{over and f'; band: 95 % bootstrap interval over {over}'}.",
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


def chance(evaluations: Iterable[Evaluation]) -> str:
    """What the intervals are over; empty where there are none."""
    shown = [e for e in evaluations if e.has_intervals]
    over = ["seeds"] if any(e.num_seeds > 1 for e in shown) else []
    return " and ".join(over + ["tasks"] * any(not e.tasks.fixed for e in shown))


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
            if e.trial and name not in REFERENCES:
                continue  # that is a total of the whole trial, not of one stage of it
            value = reference_value(e, name)
            if math.isfinite(value):
                found.setdefault((name, float(f"{value:.3g}")), group.label)
    names = [name for name, _ in found]
    lines = [
        (name if names.count(name) == 1 else f"{name} for {label}", name, value)
        for (name, value), label in found.items()
    ]
    return sorted(lines, key=lambda line: -line[2])


# ---- trials of episodes -------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What something else scores on the same tasks, over a trial."""

    name: str
    total: float
    curve: list[float] | None
    """By stage, where known."""
    colour: str
    style: Style


def trial_references(members: Members) -> list[Reference]:
    """All that are not among the groups, the best first; each from whoever saw the most tasks."""
    drawn = {group.algo for group, _ in members}
    found: dict[str, Evaluation] = {}
    for _, e in sorted(members, key=lambda member: -member[1].num_tasks):
        for name in (*e.reference_curves, *e.references):
            if name not in drawn:
                found.setdefault(name, e)
    references = []
    for index, (name, e) in enumerate(found.items()):
        curve = e.reference_curves.get(name)
        total = e.references[name] if name in e.references else sum(curve or ())
        style = DASHES[index % len(DASHES)]
        references.append(Reference(name, total, curve, f"@r{index % NUM_COLOURS}", style))
    return sorted(references, key=lambda reference: -reference.total)


def trial_curve(e: Evaluation) -> list[tuple[float, float, float]]:
    """Mean and 95 % interval of each episode, of long trials over neighbouring ones."""
    tasks, seeds = _smooth(e.per_task), _smooth(e.seed_means)
    columns = zip(tasks.T, seeds.T, strict=True)
    return [mean_interval(t, s, e.num_tasks, e.tasks) for t, s in columns]


def by_episode(members: Members) -> Chart:
    """Mean return of each episode of a trial: line and band per group, references thin, dashed."""
    last = len(members[0][1].stages)
    x = list(range(1, last + 1))
    data: list[Trace] = []
    keys, tips = [], []
    for group, e in members:
        name, colour = group.label, _colour(group)
        curve = trial_curve(e)
        data += _estimates(group, x, curve)
        keys.append(Key(name, colour, "solid", name))
        tips.append((name, colour, curve[-1][0]))
    for reference in trial_references(members):
        if reference.curve:
            name, colour = reference.name, reference.colour
            known = _smooth(np.array([reference.curve]))[0].tolist()
            data.append({
                "x": x, "y": _round(known), "name": name, "legendgroup": name,
                "mode": "lines" if last > 1 else "lines+markers",
                "line": {"color": colour, "width": 1.6, "dash": reference.style},
                "hovertemplate": "%{y}",
            })  # fmt: skip
            keys.append(Key(name, colour, reference.style, name))
            tips.append((name, colour, known[-1]))
    labels = _end_labels(tips, [v for t in data for v in t["y"] if v is not None], last)
    over = chance(e for _, e in members)
    smooth = ""
    if last > SMOOTHED:
        smooth = f" An episode stands for itself and up to {last // 8} on either side."
    return Chart(
        "Return by episode",
        f"Mean return of each episode of a trial of {last}, on {tasks_of(members)}. Thick lines: "
        f"trained methods{over and f', with the 95 % interval of the mean over {over}'}. Thin "
        f"lines: known methods and references on the same tasks.{smooth}",
        keys,
        data + labels,
        {
            "xaxis": _episode_axis(last),
            "yaxis": {"title": {"text": "return of the episode"}},
            "hovermode": "x unified",
            "margin": {"r": 24 + round(7.2 * max(len(name) for name, _, _ in tips))},
        },
        wide=True,
    )  # fmt: skip


def success(members: Members) -> Chart | None:
    """Share of each episode of a trial that succeeded, where the family says what success is."""
    data, keys = [], []
    for group, e in members:
        shares = [s.success for s in e.stages if s.success is not None]
        if len(shares) == len(e.stages):
            name, colour = group.label, _colour(group)
            data.append({
                "x": list(range(1, len(shares) + 1)), "legendgroup": name, "name": name,
                "y": _round(_smooth(np.array([shares]))[0]),
                "mode": "lines+markers" if len(shares) <= MOST_MARKERS else "lines",
                "line": {"color": colour, "width": 3},
                "marker": _marker(group, 8, 1),
                "hovertemplate": "%{y:.1%}",
            })  # fmt: skip
            keys.append(Key(f"{name} {percent(shares[-1])}", colour, "solid", name))
    if not data:
        return None
    return Chart(
        "Success by episode",
        f"Share of {tasks_of(members)} solved in each episode of a trial; in the legend, in the "
        "last.",
        keys,
        data,
        {
            "xaxis": _episode_axis(len(members[0][1].stages)),
            "yaxis": {"title": {"text": "success"}, "range": [-0.03, 1.03], "tickformat": ".0%"},
            "hovermode": "x unified",
        },
    )


def _smooth(rows: np.ndarray) -> np.ndarray:
    """Means over a window that grows with the episode, of long trials; (R, k) -> (R, k)."""
    last = rows.shape[1]
    if last <= SMOOTHED:
        return rows
    at = np.arange(last)
    start, stop = at - at // 8, np.minimum(at + at // 8 + 1, last)
    sums = np.concatenate([np.zeros((len(rows), 1)), rows.cumsum(1)], 1)
    return (sums[:, stop] - sums[:, start]) / (stop - start)


def _episode_axis(last: int) -> dict[str, Any]:
    """Whole numbers, the first and the last among them."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 10 ** len(str(last))) if last <= 12 * s)
    inner = [v for v in range(step, last, step) if v > 1 and last - v > step / 2]
    pad = 0.3 if last <= MOST_MARKERS else 0.015 * last
    return {
        "title": {"text": "episode of the trial"}, "zeroline": False,
        "tickvals": sorted({1, *inner, last}), "range": [1 - pad, last + pad],
    }  # fmt: skip


def _end_labels(
    tips: list[tuple[str, str, float]], values: list[float], last: float
) -> list[Trace]:
    """Each line's name at its right end, in its colour, moved apart where they would overlap."""
    line_height = 1.15 * (max(values) - min(values)) * 17 / (WIDE_PLOT - 60)
    places = _apart([y for _, _, y in tips], line_height)
    return [
        {
            "x": [last], "y": _round([y]), "mode": "text", "text": [f"  {name}"],
            "textposition": "middle right", "textfont": {"color": colour}, "cliponaxis": False,
            "hoverinfo": "skip", "legendgroup": name,
        }
        for (name, colour, _), y in zip(tips, places, strict=True)
    ]  # fmt: skip


def _apart(values: list[float], gap: float) -> list[float]:
    """The nearest values, by least squares, that keep order and at least ``gap`` between them."""
    order = np.argsort(values, kind="stable")
    blocks: list[tuple[float, int]] = []  # sum and size of runs that share one offset
    for rank, value in enumerate(np.array(values)[order]):
        total, size = float(value) - rank * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / size:
            above, more = blocks.pop()
            total, size = total + above, size + more
        blocks.append((total, size))
    offsets = np.concatenate([np.full(size, total / size) for total, size in blocks])
    placed = np.empty(len(values))
    placed[order] = offsets + gap * np.arange(len(values))
    return placed.tolist()


# ---- adapting within an episode -----------------------------------------------------------


def recovery(members: Members) -> Chart | None:
    """Return per few steps around the moment at which the world changed."""
    data: list[Trace] = []
    keys, tips = [], []
    having = [(g, e, e.recovery) for g, e in members if e.recovery]
    if not having:
        return None
    for group, _, found in having:
        name, colour = group.label, _colour(group)
        x = [start + found.every / 2 for start in found.start]
        data += _estimates(group, x, found.returns)
        keys.append(Key(name, colour, "solid", name))
        tips.append((name, colour, found.returns[-1][0]))
    every = having[0][2].every
    last = max(t["x"][-1] for t in data if "name" in t)
    labels: list[Trace] = []
    right = 24
    longest = max(len(name) for name, _, _ in tips)
    if longest <= LONGEST_LABEL:
        labels = _end_labels(tips, [v for t in data for v in t["y"] if v is not None], last)
        right += round(7.2 * longest)
    over = chance(e for _, e, _ in having)
    band = f"Band: 95 % bootstrap interval of the mean over {over}. " if over else ""
    which = "the first episode" if any(len(e.stages) > 1 for _, e, _ in having) else "an episode"
    change = {
        "type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": "@ink", "width": 1.5, "dash": "dot"},
    }  # fmt: skip
    label = {
        "x": 0, "y": 1, "yref": "paper", "yanchor": "bottom", "text": "the world changes",
        "showarrow": False, "font": {"color": "@ink"},
    }  # fmt: skip
    return Chart(
        "Recovery",
        f"Mean return per {plural(every, 'step')} of {which} on "
        f"{tasks_of([(g, e) for g, e, _ in having])}, drawn at the middle of these steps; an "
        f"episode that ended early earns nothing from then on. {band}A method recovers if its "
        "line climbs again after the change. If that of a method that does not adapt climbs too, "
        "adapting is not the reason; and the old height may be out of reach in the changed world.",
        keys,
        data + labels,
        {
            "xaxis": {"title": {"text": "steps since the change"}, "zeroline": False},
            "yaxis": {"title": {"text": f"return per {plural(every, 'step')}"}},
            "hovermode": "x unified",
            "shapes": [change],
            "annotations": [label],
            "margin": {"t": 30, "r": right},
        },
        wide=True,
    )


def model_error(members: Members) -> Chart | None:
    """Next-state error by transitions seen, of the adapted model and of the unadapted one."""
    data: list[Trace] = []
    keys = []
    having = [
        (g, e, e.model_error) for g, e in members if e.model_error and e.model_error.transitions
    ]
    if not having:
        return None
    for group, _, found in having:
        name, colour = group.label, _colour(group)
        for what, dash, width, curve in (
            ("unadapted", "dash", 1.8, found.unadapted_curve),
            ("adapted", "solid", 2.6, found.adapted_curve),
        ):
            if what == "unadapted" and not found.adapts:
                continue  # the very same line
            data.append({
                "x": found.transitions, "y": _round(curve), "mode": "lines", "legendgroup": name,
                "name": f"{name}, {what if found.adapts else 'does not adapt'}",
                "line": {"color": colour, "width": width, "dash": dash}, "hovertemplate": "%{y}",
            })  # fmt: skip
        keys.append(Key(name, colour, "solid", name))
    others = having[0][1].reference_errors if len(having) == 1 else {}
    for index, (name, error) in enumerate(others.items()):
        label, colour = f"{name} on the same", f"@r{index % NUM_COLOURS}"
        data.append({
            "x": error.transitions, "y": _round(error.adapted_curve), "mode": "lines",
            "name": label, "legendgroup": label, "hovertemplate": "%{y}",
            "line": {"color": colour, "width": 1.8, "dash": "dot"},
        })  # fmt: skip
        keys.append(Key(label, colour, "dot", label))
    after_change = having[0][2].since == "switch"
    apart = " Each method predicts what it met itself, so compare solid with dashed, not methods."
    what, start = "transitions seen", "Before the first, nothing of the task is known."
    if after_change:
        what = "transitions seen since the world changed"
        start = "At 0 the model is still adapted to the world as it was."
    return Chart(
        "Model error by transitions seen",
        f"Error of predicting the next state on {tasks_of([(g, e) for g, e, _ in having])}, in "
        "standard deviations of the state's change over a step: 0 is perfect, 1 is about as bad "
        "as always predicting the average change. Solid: the model as it adapts; dashed: as it "
        f"starts an episode. {start} If adapting helps, the solid line falls below the dashed one."
        + (apart if len(having) > 1 else ""),
        keys,
        data,
        {
            "xaxis": {"title": {"text": what}, "zeroline": False},
            "yaxis": {"title": {"text": "model error"}, "rangemode": "tozero"},
            "hovermode": "x unified",
        },
    )


def _estimates(group: Group, x: Sequence[float], values: list[Estimate]) -> list[Trace]:
    """Band and line."""
    name, colour = group.label, _colour(group)
    line = {
        "x": x, "y": _round(mean for mean, *_ in values), "name": name, "legendgroup": name,
        "mode": "lines+markers" if len(x) <= MOST_MARKERS else "lines",
        "line": {"color": colour, "width": 3}, "marker": _marker(group, 8, 1), **_tips(values),
    }  # fmt: skip
    return [*_band(group, x, values, 0.15), line]


def _band(group: Group, x: Sequence[float], values: list[Estimate], opacity: float) -> list[Trace]:
    """The intervals as an area, where there are any."""
    if not _have_intervals(values):
        return []
    return [{
        "x": [*x, *x[::-1]], "fill": "toself",
        "y": _round([*(high for *_, high in values), *(low for _, low, _ in values[::-1])]),
        "fillcolor": f"{_colour(group)}:{opacity}", "line": {"width": 0}, "mode": "lines",
        "hoverinfo": "skip", "legendgroup": group.label,
    }]  # fmt: skip


def _tips(values: list[Estimate]) -> Trace:
    """What a line says where one points at it."""
    if not _have_intervals(values):
        return {"hovertemplate": "%{y}"}
    places = decimals(mean for mean, *_ in values)
    return {
        "customdata": [f"{number(a, places)} to {number(b, places)}" for _, a, b in values],
        "hovertemplate": "%{y} [%{customdata}]",
    }


def _have_intervals(values: list[Estimate]) -> bool:
    return any(math.isfinite(low) for _, low, _ in values)


# ---- training, and results by task --------------------------------------------------------


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
                keys.append(Key(group.label, _colour(group), "solid", group.label))
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
            chart.layout["yaxis"]["range"] = _round([min(values) - pad, max(values) + pad])
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
    """Each task as a point: return at the end of the curve against that at its start."""
    data, keys, every = [], [], []
    when = _when(members[0][1])
    first, last = ("first", "last") if members[0][1].by_episode else ("before", "after")
    for group, e in members:
        before, after = ends(e)
        every += [before, after]
        data.append({
            "x": _round(before), "y": _round(after), "mode": "markers", "name": group.label,
            "marker": _marker(group, 7, 0.65), "legendgroup": group.label,
            "hovertemplate": f"{first} %{{x}}<br>{last} %{{y}}",
        })  # fmt: skip
        keys.append(Key(group.label, _colour(group), "mark", group.label))
    values = np.concatenate(every)
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or 1.0
    span = _round([low - pad, high + pad])
    diagonal = {
        "x": span, "y": span, "mode": "lines", "hoverinfo": "skip", "legendgroup": "no change",
        "line": {"color": "@muted", "width": 1.5, "dash": "dash"},
    }  # fmt: skip
    keys.append(Key("no change", "@muted", "dash", "no change"))
    return Chart(
        f"Every task, {first} and {last}",
        f"One point per {members[0][1].split} task, mean over seeds; above the dashed line, "
        "adapting helped.",
        keys,
        [diagonal, *data],
        {
            "xaxis": {"title": {"text": f"return {when[0]}"}, "range": span},
            "yaxis": {"title": {"text": f"return {when[1]}"}, "range": span},
            "hovermode": "closest",
        },
    )  # fmt: skip


def ends(e: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """(N,) return of each task at the start of the curve and at its end."""
    size = _end_size(e)
    return e.per_task[:, :size].mean(1), e.per_task[:, -size:].mean(1)


def gains(e: Evaluation) -> tuple[np.ndarray, TaskSample]:
    """Gain from adapting, (1, N) of each task, or (S, 1) of each seed where tasks are kept."""
    size = _end_size(e)
    table = e.seed_means if e.tasks.fixed else e.per_task
    gain = table[:, -size:].mean(1) - table[:, :size].mean(1)
    if e.tasks.fixed:
        return gain[:, None], TaskSample(np.zeros(1), complete=True)
    return gain[None], e.tasks


def is_spread_out(members: Members) -> bool:
    """Whether the returns of single tasks differ enough for a scatter: bandits pay 0 or 1."""
    shares = [len(np.unique(end)) / len(end) for _, e in members for end in ends(e)]
    return not members[0][1].by_episode or min(shares) > 0.25


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
    labels = e.by_episode and any(len(np.unique(params[k])) < len(params[k]) for k in lines)
    if len(lines) == 1 and not labels:  # a number that repeats is a label, not a magnitude
        return [_against(having(lines[0]), lines[0])]
    return []


def _maps(members: Members, name: str) -> list[Chart]:
    """Tasks on their plane, coloured by adapted return, or by that of all episodes of a trial."""
    charts = []
    for group, e in members:
        values = e.per_task.mean(1) if e.by_episode else e.per_task[:, -1]
        low, high = np.percentile(values, [2, 98])
        when = _when(e)[1]
        if e.by_episode:
            when = "of an episode" + (", mean over the trial" if len(e.stages) > 1 else "")
        points = e.task_params[name]
        extra = f": {group.label}" if len(members) > 1 else ""
        trace = {
            "x": _round(points[:, 0]), "y": _round(points[:, 1]), "mode": "markers",
            "marker": {
                "color": _round(values), "colorscale": "Cividis", "size": 9,
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
                f"Each {e.split} task at its {name}, coloured by the return {when}, mean over "
                "seeds.",
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
    """Both ends of the curve for each distinct task."""
    e = members[0][1]
    middle, trim = (np.mean, False) if e.by_episode else (interquartile_mean, True)
    data, keys, drawn = [], [], False
    for group, e in members:
        values = e.task_params[name]
        distinct = np.unique(values)
        for label, end, style in _ends_shown(e, "pale", "block"):
            key = f"{group.label}{label}"
            rows = [end[values == v] for v in distinct]
            means = [float(middle(row)) for row in rows]
            spans = [
                bootstrap_interval(row[None], e.tasks.select(values == v), trim=trim)
                for row, v in zip(rows, distinct, strict=True)
            ]
            drawn = drawn or any(spans)
            ends = [span or (math.nan, math.nan) for span in spans]
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
            keys.append(Key(key, _colour(group), style, key))
    before, after = _when(e)
    when = f", {before} and {after}" if len(e.stages) > 1 else ""
    whiskers = "; whiskers: 95 % bootstrap interval over the tasks drawn" if drawn else ""
    return Chart(
        f"By {name}",
        f"{'Interquartile mean' if trim else 'Mean'} return of the {e.split} tasks of each {name}"
        f"{when}{whiskers}.",
        keys,
        data,
        {
            "barmode": "group", "bargap": 0.3, "hovermode": "closest",
            "xaxis": {"type": "category"}, "yaxis": {"title": {"text": "return"}},
        },
    )  # fmt: skip


def _against(members: Members, name: str) -> Chart:
    """Return at both ends of the curve against one continuous parameter."""
    data, keys = [], []
    for group, e in members:
        for label, end, style in _ends_shown(e, "ring", "mark"):
            key = f"{group.label}{label}"
            marker = _marker(group, 7, 0.75)
            if style == "ring":
                marker |= {"symbol": f"{_symbol(group)}-open"}
            data.append({
                "x": _round(e.task_params[name]), "y": _round(end),
                "mode": "markers", "marker": marker, "name": key, "legendgroup": key,
                "hovertemplate": f"{name} %{{x}}<br>return %{{y}}",
            })  # fmt: skip
            keys.append(Key(key, _colour(group), style, key))
    e = members[0][1]
    before, after = _when(e)
    when = f": hollow {before}, filled {after}" if len(e.stages) > 1 else ""
    return Chart(
        f"By {name}",
        f"Return on each {e.split} task at its {name}, mean over seeds{when}.",
        keys,
        data,
        {
            "xaxis": {"title": {"text": name}},
            "yaxis": {"title": {"text": "return"}},
            "hovermode": "closest",
        },
    )


def _end_size(e: Evaluation) -> int:
    """Stages that stand for an end of the curve: one, or a fifth of a trial of episodes."""
    return max(1, len(e.stages) // 5) if e.by_episode else 1


def _when(e: Evaluation) -> tuple[str, str]:
    """When the ends of the curve are: ``before adapting``, ``after 3 updates``."""
    if not e.by_episode:
        return "before adapting", f"after {plural(e.stages[-1].stage, e.unit)}"
    size = _end_size(e)
    episodes = "episode" if size == 1 else f"{size} episodes"
    return f"in the first {episodes}", f"in the last {episodes}"


def _short(e: Evaluation) -> tuple[str, str]:
    """The same for a legend."""
    if not e.by_episode:
        return "before adapting", "after"
    first, last = _when(e)
    return first.removeprefix("in the "), last.removeprefix("in the ")


def _ends_shown(e: Evaluation, before: Style, after: Style) -> list[tuple[str, np.ndarray, Style]]:
    """(rest of a label, return of each task, style) of the ends; of a single stage, that."""
    first, last = ends(e)
    if len(e.stages) == 1:
        return [("", last, after)]
    labels = _short(e)
    return [(f", {labels[0]}", first, before), (f", {labels[1]}", last, after)]


def _colour(group: Group) -> str:
    return f"@s{group.colour % NUM_COLOURS}"


def _symbol(group: Group) -> str:
    return SYMBOLS[(group.colour + group.colour // NUM_COLOURS) % len(SYMBOLS)]


def _marker(group: Group, size: int, opacity: float) -> dict[str, Any]:
    return {"color": _colour(group), "symbol": _symbol(group), "size": size, "opacity": opacity}


def _round(values: Iterable[Any], digits: int = 4) -> list[float | None]:
    """Significant digits only, to keep the page small; what is not finite becomes a gap."""
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in map(float, values)]
