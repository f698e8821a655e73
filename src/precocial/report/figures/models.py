"""Adapting within an episode: recovery from a change of the world, errors of models."""

from __future__ import annotations

from precocial.report.figures.chart import (
    NUM_COLOURS,
    Chart,
    Key,
    Members,
    Trace,
    chance,
    end_labels,
    estimate_traces,
    rounded,
    series_colour,
    tasks_of,
)
from precocial.report.words import plural

LONGEST_LABEL = 28
"""Characters; with longer names, lines are told apart by the legend alone."""


def recovery(members: Members) -> Chart | None:
    """Return per few steps around the moment at which the world changed."""
    data: list[Trace] = []
    keys, tips = [], []
    having = [(g, e, e.recovery) for g, e in members if e.recovery]
    if not having:
        return None
    for group, _, found in having:
        name, colour = group.label, series_colour(group)
        x = [start + found.every / 2 for start in found.start]
        data += estimate_traces(group, x, found.returns)
        keys.append(Key(name, colour, "solid", name))
        tips.append((name, colour, found.returns[-1][0]))
    every = having[0][2].every
    last = max(t["x"][-1] for t in data if "name" in t)
    labels: list[Trace] = []
    right = 24
    longest = max(len(name) for name, _, _ in tips)
    if longest <= LONGEST_LABEL:
        labels = end_labels(tips, [v for t in data for v in t["y"] if v is not None], last)
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
        name, colour = group.label, series_colour(group)
        for what, dash, width, curve in (
            ("unadapted", "dash", 1.8, found.unadapted_curve),
            ("adapted", "solid", 2.6, found.adapted_curve),
        ):
            if what == "unadapted" and not found.adapts:
                continue  # the very same line
            data.append({
                "x": found.transitions, "y": rounded(curve), "mode": "lines", "legendgroup": name,
                "name": f"{name}, {what if found.adapts else 'does not adapt'}",
                "line": {"color": colour, "width": width, "dash": dash}, "hovertemplate": "%{y}",
            })  # fmt: skip
        keys.append(Key(name, colour, "solid", name))
    others = having[0][1].reference_errors if len(having) == 1 else {}
    for index, (name, error) in enumerate(others.items()):
        label, colour = f"{name} on the same", f"@r{index % NUM_COLOURS}"
        data.append({
            "x": error.transitions, "y": rounded(error.adapted_curve), "mode": "lines",
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
