"""The adaptation curve of methods that update."""

from __future__ import annotations

import math
from typing import Any

from precocial.report.evaluations import REFERENCES
from precocial.report.figures.chart import (
    MOST_MARKERS,
    Chart,
    Key,
    Members,
    Style,
    Trace,
    chance,
    hover,
    interval_area,
    reference_value,
    rounded,
    series_colour,
    series_marker,
    tasks_of,
)
from precocial.report.words import decimals, number

REFERENCE_DASHES: dict[str, Style] = {"optimum": "longdash", "oracle": "dash", "multi-task": "dot"}


def adaptation(members: Members) -> Chart:
    """Return against stage: line and band per group, references dashed."""
    first = members[0][1]
    data: list[Trace] = []
    keys = []
    for group, e in members:
        name, colour = group.label, series_colour(group)
        x = [s.stage for s in e.stages]
        estimates = [(s.score, s.low, s.high) for s in e.stages]
        line = {
            "x": x, "y": rounded(s.score for s in e.stages), "name": name, "legendgroup": name,
            "mode": "lines+markers", "line": {"color": colour, "width": 2.5},
            "marker": series_marker(group, 9 if len(x) <= MOST_MARKERS else 4, 1),
            **hover(estimates),
        }  # fmt: skip
        data += [*interval_area(group, x, estimates, 0.18), line]
        keys.append(Key(name, colour, "solid", name))
    last = max(s.stage for _, e in members for s in e.stages)
    places = decimals(s.score for _, e in members for s in e.stages)
    for label, name, value, curve in reference_lines(members):
        dash = REFERENCE_DASHES.get(name, "longdash")
        data.append({
            "x": list(range(len(curve))) if curve else [0, last],
            "y": rounded(curve or [value, value]), "mode": "lines", "name": label,
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


def reference_lines(members: Members) -> list[tuple[str, str, float, list[float]]]:
    """(label, name, value, curve) of each reference; a known method that learns has a curve."""
    drawn = {group.algo for group, _ in members}
    found: dict[tuple[str, float], tuple[str, list[float]]] = {}
    for group, e in members:
        for name in {*e.references, *e.reference_curves} - drawn:
            if e.trial and name not in REFERENCES:
                continue  # that is a total of the whole trial, not of one stage of it
            value, curve = reference_value(e, name), e.reference_curves.get(name, [])
            if name in REFERENCES or len({*curve}) == 1:
                curve = []
            if math.isfinite(value):
                found.setdefault((name, float(f"{value:.3g}")), (group.label, curve))
    names = [name for name, _ in found]
    lines = [
        (name if names.count(name) == 1 else f"{name} for {label}", name, value, curve)
        for (name, value), (label, curve) in found.items()
    ]
    return sorted(lines, key=lambda line: -line[2])
