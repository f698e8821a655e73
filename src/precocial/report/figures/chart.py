"""What the page's charts are made of, as plotly.js objects.

Colours are names that the page's script turns into those of its light or dark theme: ``@s0`` to
``@s5`` for series, ``@r0`` to ``@r5`` for references, ``@ink``, ``@muted``; ``@s0:0.2`` for a fifth
of its opacity. The script leaves out traces of mode ``text``, which label lines, on a narrow page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from precocial.report.evaluations import Estimate, Evaluation
from precocial.report.runs import Group
from precocial.report.words import decimals, number, plural

Trace = dict[str, Any]
Style = Literal["solid", "dash", "dot", "longdash", "dashdot", "mark", "ring", "block", "pale"]
Members = Sequence[tuple[Group, Evaluation]]
"""Groups of one environment, each with an evaluation of the same kind."""
NUM_COLOURS = 6
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
MOST_MARKERS = 12
"""A curve of more stages is drawn without markers."""
WIDE_PLOT = 440
"""Height in pixels of a chart as wide as the page; the style sheet says the same."""


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


def end_labels(tips: list[tuple[str, str, float]], values: list[float], last: float) -> list[Trace]:
    """Each line's name at its right end, in its colour, moved apart where they would overlap."""
    line_height = 1.15 * (max(values) - min(values)) * 17 / (WIDE_PLOT - 60)
    places = _apart([y for _, _, y in tips], line_height)
    return [
        {
            "x": [last], "y": rounded([y]), "mode": "text", "text": [f"  {name}"],
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


def estimate_traces(group: Group, x: Sequence[float], values: list[Estimate]) -> list[Trace]:
    """Band and line."""
    name, colour = group.label, series_colour(group)
    line = {
        "x": x, "y": rounded(mean for mean, *_ in values), "name": name, "legendgroup": name,
        "mode": "lines+markers" if len(x) <= MOST_MARKERS else "lines",
        "line": {"color": colour, "width": 3}, "marker": series_marker(group, 8, 1),
        **hover(values),
    }  # fmt: skip
    return [*interval_area(group, x, values, 0.15), line]


def interval_area(
    group: Group, x: Sequence[float], values: list[Estimate], opacity: float
) -> list[Trace]:
    """The intervals as an area, where there are any."""
    if not _have_intervals(values):
        return []
    return [{
        "x": [*x, *x[::-1]], "fill": "toself",
        "y": rounded([*(high for *_, high in values), *(low for _, low, _ in values[::-1])]),
        "fillcolor": f"{series_colour(group)}:{opacity}", "line": {"width": 0}, "mode": "lines",
        "hoverinfo": "skip", "legendgroup": group.label,
    }]  # fmt: skip


def hover(values: list[Estimate]) -> Trace:
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


def series_colour(group: Group) -> str:
    """The group's own; more groups than colours begin anew."""
    return f"@s{group.colour % NUM_COLOURS}"


def series_symbol(group: Group) -> str:
    """The group's own, such that groups of one colour differ."""
    return SYMBOLS[(group.colour + group.colour // NUM_COLOURS) % len(SYMBOLS)]


def series_marker(group: Group, size: int, opacity: float) -> dict[str, Any]:
    """A point of the group."""
    colour, symbol = series_colour(group), series_symbol(group)
    return {"color": colour, "symbol": symbol, "size": size, "opacity": opacity}


def rounded(values: Iterable[Any], digits: int = 4) -> list[float | None]:
    """Significant digits only, to keep the page small; what is not finite becomes a gap."""
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in map(float, values)]
