"""Trials of episodes: return and success of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from precocial.report.evaluations import Evaluation, mean_interval
from precocial.report.figures.chart import (
    MOST_MARKERS,
    NUM_COLOURS,
    Chart,
    Key,
    Members,
    Style,
    Trace,
    chance,
    end_labels,
    estimate_traces,
    rounded,
    series_colour,
    series_marker,
    tasks_of,
)
from precocial.report.words import percent

DASHES: tuple[Style, ...] = ("dash", "dot", "longdash", "dashdot")
SMOOTHED = 30
"""In a trial of more episodes, neighbouring ones are averaged."""


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
        name, colour = group.label, series_colour(group)
        curve = trial_curve(e)
        data += estimate_traces(group, x, curve)
        keys.append(Key(name, colour, "solid", name))
        tips.append((name, colour, curve[-1][0]))
    for reference in trial_references(members):
        if reference.curve:
            name, colour = reference.name, reference.colour
            known = _smooth(np.array([reference.curve]))[0].tolist()
            data.append({
                "x": x, "y": rounded(known), "name": name, "legendgroup": name,
                "mode": "lines" if last > 1 else "lines+markers",
                "line": {"color": colour, "width": 1.6, "dash": reference.style},
                "hovertemplate": "%{y}",
            })  # fmt: skip
            keys.append(Key(name, colour, reference.style, name))
            tips.append((name, colour, known[-1]))
    labels = end_labels(tips, [v for t in data for v in t["y"] if v is not None], last)
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
            name, colour = group.label, series_colour(group)
            data.append({
                "x": list(range(1, len(shares) + 1)), "legendgroup": name, "name": name,
                "y": rounded(_smooth(np.array([shares]))[0]),
                "mode": "lines+markers" if len(shares) <= MOST_MARKERS else "lines",
                "line": {"color": colour, "width": 3},
                "marker": series_marker(group, 8, 1),
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
