"""Charts, their legends and pictures as HTML."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from precocial.report.figures.chart import NUM_COLOURS, Chart, Key
from precocial.report.runs import Group, description

MOST_PICTURE_BYTES = 12_000_000
"""A larger picture is named, not embedded."""


def row_head(group: Group) -> str:
    """A row's first cell: the group's colour and name."""
    dot = f'<span class="dot" style="--c: var(--s{group.colour % NUM_COLOURS})"></span>'
    return f'<th scope="row" class="text">{dot}{escape(group.label)}</th>'


def chart_figure(chart: Chart, charts: list[Chart], more: str = "") -> str:
    """The place of a chart, with legend and caption; the chart itself joins ``charts``."""
    index = len(charts)
    charts.append(chart)
    keys = "".join(
        f'<li><button type="button" aria-pressed="true" data-plot="{index}" '
        f'data-group="{escape(key.group)}">{swatch(key)}{escape(key.label)}</button></li>'
        for key in chart.keys
    )
    legend = f'<ul class="keys" aria-label="Show or hide">{keys}</ul>\n' if keys else ""
    title, caption = escape(chart.title + more), escape(chart.caption)
    return (
        f'<figure class="card{" wide" if chart.wide else ""}"><h3>{title}</h3>\n{legend}'
        f'<div class="plot" id="plot-{index}" role="img" aria-label="{title}. {caption}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def swatch(key: Key) -> str:
    """A legend's sample."""
    colour = f"var(--{key.colour[1:]})"
    if key.style in ("mark", "ring"):
        fill = colour if key.style == "mark" else "none"
        shape = f'<circle cx="13" cy="6" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="2"/>'
    elif key.style in ("block", "pale"):
        opacity = 1 if key.style == "block" else 0.4
        shape = f'<rect x="6" width="14" height="12" rx="2" fill="{colour}" opacity="{opacity}"/>'
    else:
        dashes = {"dash": "7 4", "dot": "2 3", "longdash": "11 4", "dashdot": "7 3 2 3"}
        dash = dashes.get(key.style, "")
        shape = (
            f'<path d="M0 6H26" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"/>'
        )
    return f'<svg viewBox="0 0 26 12" aria-hidden="true">{shape}</svg>'


def picture_figure(group: Group, path: Path) -> str:
    """An animation or a still from the run folder, inside the page."""
    moves = path.suffix == ".gif"
    about = f"From <code>{escape(path.name)}</code> in the run folder."
    if path.stat().st_size > MOST_PICTURE_BYTES:
        content = f"<p>Too large to embed: <code>{escape(str(path))}</code></p>"
    else:
        data = base64.b64encode(path.read_bytes()).decode()
        when = "over one trial" if group.unit == "episode" else "before and after adapting"
        alt = f"Animation: {group.label} on one {group.env} task {when}"
        if words := description(path):
            alt, about = words, f"{escape(words)}. {about}"
        elif not moves:
            alt = f"{path.name} of {group.label} on {group.env}"
        source = f"data:image/{'gif' if moves else 'png'};base64,{data}"
        content = f'<img src="{source}" alt="{escape(alt)}">'
    wide = " wide" if group.unit == "episode" else ""
    title = "Watch it adapt" if moves else "Picture"
    return (
        f'<figure class="card{wide}"><h3>{title}: {escape(group.label)}</h3>{content}'
        f"<figcaption>{about}</figcaption></figure>"
    )
