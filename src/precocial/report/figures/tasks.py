"""Returns task by task, at both ends of the curve."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from precocial.report.evaluations import Evaluation
from precocial.report.figures.chart import (
    Chart,
    Key,
    Members,
    Style,
    rounded,
    series_colour,
    series_marker,
    series_symbol,
)
from precocial.report.runs import Group
from precocial.report.words import number, plural
from precocial.statistics import TaskSample, bootstrap_interval, interquartile_mean

MOST_DISTINCT = 6
"""A task parameter with at most this many distinct values is shown as bars."""


def before_after(members: Members) -> Chart:
    """Each task as a point: return at the end of the curve against that at its start."""
    data, keys, every = [], [], []
    when = _when(members[0][1])
    first, last = ("first", "last") if members[0][1].by_episode else ("before", "after")
    for group, e in members:
        before, after = ends(e)
        every += [before, after]
        data.append({
            "x": rounded(before), "y": rounded(after), "mode": "markers", "name": group.label,
            "marker": series_marker(group, 7, 0.65), "legendgroup": group.label,
            "hovertemplate": f"{first} %{{x}}<br>{last} %{{y}}",
        })  # fmt: skip
        keys.append(Key(group.label, series_colour(group), "mark", group.label))
    values = np.concatenate(every)
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or 1.0
    span = rounded([low - pad, high + pad])
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
            "x": rounded(points[:, 0]), "y": rounded(points[:, 1]), "mode": "markers",
            "marker": {
                "color": rounded(values), "colorscale": "Cividis", "size": 9,
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
                "y": rounded(means),
                "error_y": {
                    "type": "data", "symmetric": False, "thickness": 1.5, "color": "@ink",
                    "array": rounded(high - m for m, (_, high) in zip(means, ends, strict=True)),
                    "arrayminus": rounded(m - low for m, (low, _) in zip(means, ends, strict=True)),
                },
                "marker": {"color": series_colour(group) + (":0.4" if style == "pale" else "")},
                "hovertemplate": "%{y}",
            })  # fmt: skip
            keys.append(Key(key, series_colour(group), style, key))
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
            marker = series_marker(group, 7, 0.75)
            if style == "ring":
                marker |= {"symbol": f"{series_symbol(group)}-open"}
            data.append({
                "x": rounded(e.task_params[name]), "y": rounded(end),
                "mode": "markers", "marker": marker, "name": key, "legendgroup": key,
                "hovertemplate": f"{name} %{{x}}<br>return %{{y}}",
            })  # fmt: skip
            keys.append(Key(key, series_colour(group), style, key))
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
