"""One self-contained HTML page about runs: what adapting gained, how training went, with what."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from precocial import __version__
from precocial.errors import UserError
from precocial.report.assets import SCRIPT, STYLE
from precocial.report.evaluations import Evaluation
from precocial.report.figures import learning, models, tasks, trials, updates
from precocial.report.figures.chart import Chart, tasks_of
from precocial.report.findings import finding_cards, warning_list
from precocial.report.glossary import glossary
from precocial.report.markup import chart_figure, picture_figure
from precocial.report.reproduce import reproduction
from precocial.report.runs import Group, by_environment, by_kind, read_groups
from precocial.report.tables import result_tables
from precocial.report.transfers import transfer_tables
from precocial.report.words import listed, plain, plural


def write_report(runs: list[Path], out: Path) -> None:
    """Write the page about ``runs`` to ``out``, readable offline.

    Args:
        runs: Run folders, or parents of ``seed-S`` folders. Runs with the same algorithm, family,
            preset and settings are seeds of one group.
        out: The HTML file.

    Raises:
        UserError: a folder is no run folder, or ``out`` cannot be written.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(
            f"--out is {str(out)!r}; expected an HTML file, try --out {out.stem or 'report'}.html"
        )
    page = render(read_groups(runs))
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {out} ({error.strerror}); try another --out") from error


def render(groups: Sequence[Group]) -> str:
    """The page as HTML."""
    from plotly.offline import get_plotlyjs

    charts: list[Chart] = []
    body = [
        _header(groups),
        finding_cards(groups),
        warning_list(groups),
        *(_section(title, of, charts) for title, of in _sections(groups)),
        glossary(groups),
        reproduction(groups),
        f'<footer class="small">Written by precocial {escape(__version__)}. The page is one file '
        "and needs no network.</footer>",
    ]
    drawings = [{"data": c.data, "layout": c.layout} for c in charts]
    payload = json.dumps(drawings, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(_title(groups))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        *body,
        f'</main>\n<script type="application/json" id="charts">{payload}</script>',
        f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
    ])  # fmt: skip


def _sections(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Groups by environment; trials of episodes also by the options that make them other tasks."""
    found = []
    for env, members in by_environment(groups).items():
        families: dict[str, list[Group]] = {}
        for group in members:
            families.setdefault(json.dumps(group.family, default=str), []).append(group)
        if len(families) == 1 or all(group.unit != "episode" for group in members):
            found.append((env, members))
            continue
        every = [alike[0].family for alike in families.values()]
        differing = [k for k in every[0] if any(f.get(k) != every[0][k] for f in every)]
        for alike in families.values():
            options = (f"{k} {plain(alike[0].family.get(k))}" for k in differing)
            found.append((", ".join([env, *options]), alike))
    return found


def _title(groups: Sequence[Group]) -> str:
    algos, envs = (
        list(dict.fromkeys(x)) for x in zip(*((g.algo, g.env) for g in groups), strict=True)
    )
    if len(algos) <= 3 and len(envs) <= 2:
        return f"{listed(algos)} on {listed(envs)}"
    families = f"{len(envs)} task families" if len(envs) > 1 else envs[0]
    return f"{plural(len(algos), 'algorithm')} on {families}"


def _header(groups: Sequence[Group]) -> str:
    num = sum(len(g.runs) for g in groups)
    return (
        f"<header><h1>{escape(_title(groups))}</h1>\n"
        f'<p class="sub">Adapting to unseen tasks: {plural(num, "run")} of '
        f"{escape(listed(g.algo for g in groups))}.</p></header>"
    )


def _first_episodes(groups: Sequence[Group]) -> list[list[tuple[Group, Evaluation]]]:
    """What can share a figure about the first episode, however many a trial has."""
    found: dict[tuple[Any, ...], dict[str, tuple[Group, Evaluation]]] = {}
    for group in groups:
        for e in group.evaluations:
            if e.recovery or e.model_error:
                found.setdefault(e.kind[:-1], {}).setdefault(group.label, (group, e))
    return [list(members.values()) for members in found.values()]


def _section(title: str, groups: list[Group], charts: list[Chart]) -> str:
    """All tables and charts of one task family."""
    kinds = by_kind(groups)
    parts = []
    for members in kinds.values():
        e = members[0][1]
        more = f", {tasks_of(members)}" if len(kinds) > 1 else ""
        if all(len(other.stages) == 1 for _, other in members):
            continue  # a point is no curve; the table has it
        if e.by_episode:
            more += f", {plural(len(e.stages), 'episode')}" if len(kinds) > 1 else ""
            parts.append(chart_figure(trials.by_episode(members), charts, more))
            success = trials.success(members)
            parts += [chart_figure(success, charts, more)] if success else []
        else:
            parts.append(chart_figure(updates.adaptation(members), charts, more))
    alike = _first_episodes(groups)
    for members in alike:
        more = f", {tasks_of(members)}" if len(alike) > 1 else ""
        found = (models.recovery(members), models.model_error(members))
        parts += [chart_figure(chart, charts, more) for chart in found if chart]
    parts += [picture_figure(group, path) for group in groups for path in group.pictures]
    units: dict[str, list[Group]] = {}
    for group in groups:
        units.setdefault(group.unit, []).append(group)
    for same in units.values():
        more = f": {listed(g.label for g in same)}" if len(units) > 1 else ""
        parts += [chart_figure(chart, charts, more) for chart in learning.training(same)]
    for members in list(kinds.values())[:1]:
        if len(members[0][1].stages) > 1 and tasks.is_spread_out(members):
            parts.append(chart_figure(tasks.before_after(members), charts))
        parts += [chart_figure(chart, charts) for chart in tasks.by_task(members)]
    return (
        f"<section><h2>{escape(title)}</h2>\n{result_tables(groups)}\n{transfer_tables(groups)}\n"
        f'<div class="charts">{"".join(parts)}</div></section>'
        "<noscript><p>The charts need JavaScript; the table above does not.</p></noscript>"
    )
