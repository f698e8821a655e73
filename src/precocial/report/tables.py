"""Tables of returns, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from precocial.report.evaluations import Estimate, Evaluation
from precocial.report.figures.chart import reference_value, tasks_phrase
from precocial.report.markup import row_head
from precocial.report.model_words import model_words
from precocial.report.runs import Group, by_kind
from precocial.report.totals import trial_totals
from precocial.report.words import (
    MISSING,
    count,
    decimals,
    duration,
    few_of,
    number,
    plural,
)

MOST_EPISODES = 4
"""Columns of a table for the episodes of a trial."""
Column = tuple[str, Callable[[Group, Evaluation | None], str], str]
"""Header, cell, class."""


def result_tables(groups: Sequence[Group]) -> str:
    """The totals of trials, and a table per stage unit; first what counts."""
    rows: dict[str, list[tuple[Group, Evaluation | None]]] = {}
    for group in groups:
        for e in group.evaluations:
            rows.setdefault(e.unit, []).append((group, e))
        if not group.evaluations:
            rows.setdefault(group.unit, []).append((group, None))
    tables = [_table(unit, members) for unit, members in rows.items()]
    totals = [trial_totals(members) for members in by_kind(groups).values()]
    in_trial = all(e.is_trial for group in groups for e in group.evaluations if e.trial)
    return "\n".join(filter(None, totals + tables if in_trial else tables + totals))


def _table(unit: str, rows: list[tuple[Group, Evaluation | None]]) -> str:
    evaluations = [e for _, e in rows if e]
    phrases = {tasks_phrase(e) for e in evaluations}
    columns: list[Column] = []
    if len(phrases) > 1:
        columns.append(("tasks", _tasks_cell, "text"))
    columns += [
        ("seeds", _seeds, ""),
        ("env steps<br>per seed", lambda g, e: count(_average([r.env_steps for r in g.runs])), ""),
        ("time<br>per seed", lambda g, e: duration(_average([r.wall_clock_s for r in g.runs])), ""),
    ]
    last = max((s.stage for e in evaluations for s in e.stages), default=0)
    for stage in _stages_shown(evaluations, last):
        header = f"after<br>{plural(stage, unit)}" if stage else "before<br>adapting"
        if unit == "episode":
            header = f"episode<br>{stage + 1}" if last else "return"
        columns.append((header, _stage_cell(stage), "strong" if stage == last else ""))
    if last:
        columns.append(("gain", _gain_cell, ""))
    if unit != "episode":
        columns += _trial_columns(evaluations)
    if any(e.success_rate is not None for e in evaluations):
        title = "success in<br>last episode" if unit == "episode" and last else "success"
        columns.append((title, _success_cell, ""))
    columns += _model_columns(evaluations)
    head = "".join(f'<th scope="col" class="{css}">{title}</th>' for title, _, css in columns)
    body = []
    for group, e in rows:
        cells = "".join(f'<td class="{css}">{cell(group, e)}</td>' for _, cell, css in columns)
        body.append(f"<tr>{row_head(group)}{cells}</tr>")
    where = f" on {phrases.pop()}" if len(phrases) == 1 else ""
    interval = any(e.has_intervals for e in evaluations) or not evaluations
    what = (
        "Return{}: interquartile mean" + ", and its 95 % bootstrap interval below" * interval + "."
    )
    if unit == "episode":
        of = "single episodes of a trial" if last or not evaluations else "an episode"
        what = f"Return of {of}{{}}: mean" + ", and its 95 % interval below" * interval + "."
    return (
        f'<div class="card table"><p class="small">{what.format(where)}</p>\n'
        '<div class="scroll" tabindex="0"><table aria-label="Results">'
        f'<thead><tr><th scope="col" class="text">algorithm</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{model_words(rows)}</div>"
    )


def _model_columns(evaluations: list[Evaluation]) -> list[Column]:
    """Errors of models, and returns around a change of the world."""
    columns: list[Column] = []
    if any(e.model_error for e in evaluations):
        columns += [
            ("model error<br>unadapted", _error_cell("unadapted"), ""),
            ("model error<br>adapted", _error_cell("adapted"), "strong"),
        ]
    every = {e.recovery.every for e in evaluations if e.recovery}
    if len(every) == 1:
        steps = plural(every.pop(), "step")
        columns += [
            (f"return in {steps}<br>before the change", _recovery_cell("before"), ""),
            (f"in {steps}<br>after it", _recovery_cell("after"), ""),
            (f"in the last<br>{steps}", _recovery_cell("last"), ""),
        ]
    return columns


def _error_cell(name: str) -> Callable[[Group, Evaluation | None], str]:
    def cell(group: Group, e: Evaluation | None) -> str:
        if not e or not e.model_error:
            return MISSING
        if name == "adapted" and not e.model_error.adapts:
            return '<span class="ci">does not adapt</span>'
        return _with_interval(getattr(e.model_error, name))

    return cell


def _recovery_cell(when: str) -> Callable[[Group, Evaluation | None], str]:
    def cell(group: Group, e: Evaluation | None) -> str:
        around = e.recovery if e else None
        if not around:
            return MISSING
        start = {"before": -around.every, "after": 0, "last": around.start[-1]}[when]
        found = around.at(start)
        return _with_interval(found, decimals(mean for mean, *_ in around.returns))

    return cell


def _with_interval(estimate: Estimate | None, places: int | None = None) -> str:
    """A mean, and its interval below where there is one."""
    if not estimate:
        return MISSING
    places = decimals(estimate) if places is None else places
    mean, low, high = (number(v, places) for v in estimate)
    known = math.isfinite(estimate[1])
    return f'{mean}<span class="ci">{low} to {high}</span>' if known else mean


def _trial_columns(evaluations: list[Evaluation]) -> list[Column]:
    """The total of a trial where updates form one, and the references."""
    columns: list[Column] = []
    if any(e.trial for e in evaluations):
        columns.append(("whole<br>trial", _trial_cell, ""))
    named = (name for e in evaluations if not e.trial for name in e.references)
    for name in dict.fromkeys(("oracle", "multi-task", "optimum", *named)):
        if any(math.isfinite(reference_value(e, name)) for e in evaluations):
            columns.append((escape(name), _reference_cell(name), ""))
    return columns


def _stages_shown(evaluations: list[Evaluation], last: int) -> list[int]:
    """The first stages and the last; of long trials, which have their sum, fewer."""
    if any(e.by_episode for e in evaluations):
        return few_of(last + 1, MOST_EPISODES)
    most = 1 if any(e.trial for e in evaluations) else 3
    return sorted({*range(min(last, most) + 1), last}) if evaluations else []


def _tasks_cell(group: Group, e: Evaluation | None) -> str:
    return tasks_phrase(e).replace(" tasks", "") if e else MISSING


def _seeds(group: Group, e: Evaluation | None) -> str:
    return str(e.num_seeds if e else len(group.runs))


def _stage_cell(stage: int) -> Callable[[Group, Evaluation | None], str]:
    def cell(group: Group, e: Evaluation | None) -> str:
        found = [s for s in e.stages if s.stage == stage] if e else []
        if not e or not found:
            return MISSING
        places = decimals([s.score for s in e.stages])
        return _with_interval((found[0].score, found[0].low, found[0].high), places)

    return cell


def _gain_cell(group: Group, e: Evaluation | None) -> str:
    if not e or len(e.stages) < 2:
        return MISSING
    return number(e.gain, decimals([s.score for s in e.stages]), sign=True)


def _success_cell(group: Group, e: Evaluation | None) -> str:
    return MISSING if not e or e.success_rate is None else f"{100 * e.success_rate:.0f} %"


def _trial_cell(group: Group, e: Evaluation | None) -> str:
    return number(e.trial[0]) if e and e.trial else MISSING


def _reference_cell(name: str) -> Callable[[Group, Evaluation | None], str]:
    def cell(group: Group, e: Evaluation | None) -> str:
        value = reference_value(e, name) if e else math.nan
        alike = [s.score for s in e.stages] if e and not e.trial else [value]
        return number(value, decimals(alike))

    return cell


def _average(values: list[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else math.nan
