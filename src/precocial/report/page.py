"""One self-contained HTML page about runs: what adapting gained, how training went, with what."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from precocial import __version__
from precocial.errors import UserError
from precocial.report import figures
from precocial.report.assets import SCRIPT, STYLE
from precocial.report.runs import (
    REFERENCES,
    Estimate,
    Evaluation,
    Group,
    Kind,
    below,
    description,
    read_groups,
    settings,
)
from precocial.report.words import (
    MISSING,
    count,
    decimals,
    duration,
    few_of,
    listed,
    number,
    percent,
    plural,
)
from precocial.statistics import bootstrap_interval

MOST_EPISODES = 4
"""Columns of a table for the episodes of a trial."""
KNOWN_METHODS = {
    "random": "Actions drawn uniformly.",
    "greedy": "Always the arm that has paid best so far.",
    "UCB1": "The arm of the highest upper confidence bound.",
    "Thompson": "Pulls the best arm of a bandit drawn anew from the exact posterior every time.",
    "Gittins": "The arm of the highest Gittins index for the pulls that are left; close to the "
    "optimum.",
    "best arm": "Knows which arm is best.",
    "PSRL": "Posterior sampling: plans each episode for an MDP drawn from the exact posterior.",
    "value iteration": "Knows the MDP and plans in it.",
    "posterior sampling": "Acts in each episode as if a task drawn from the exact posterior were "
    "the true one.",
    "best known search": "Visits the places where the goal may be in the best order known, and "
    "goes straight to it once it is found.",
    "known goal": "Knows the goal and goes straight to it.",
    "shortest path": "Knows the goal and goes straight to it.",
    "known map": "Knows where the holes are.",
    "one-shot": "Learns all there is from the first choice.",
    "exact belief": "Acts greedily on the exact posterior.",
    "informed": "Is told the state of the world before every episode.",
}
"""What families compare with, see their ``references``."""
MOST_PICTURE_BYTES = 12_000_000
"""A larger picture is named, not embedded."""


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

    charts: list[figures.Chart] = []
    body = [
        _header(groups),
        _findings(groups),
        _warnings(groups),
        *(_section(title, of, charts) for title, of in _sections(groups)),
        _reading(groups),
        _settings(groups),
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


def _by_environment(groups: Sequence[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.env, []).append(group)
    return found


def _sections(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Groups by environment; trials of episodes also by the options that make them other tasks."""
    found = []
    for env, members in _by_environment(groups).items():
        families: dict[str, list[Group]] = {}
        for group in members:
            families.setdefault(json.dumps(group.family, default=str), []).append(group)
        if len(families) == 1 or all(group.unit != "episode" for group in members):
            found.append((env, members))
            continue
        every = [alike[0].family for alike in families.values()]
        differing = [k for k in every[0] if any(f.get(k) != every[0][k] for f in every)]
        for alike in families.values():
            options = (f"{k} {_plain(alike[0].family.get(k))}" for k in differing)
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


# ---- what came out ----------------------------------------------------------------------------


def _findings(groups: Sequence[Group]) -> str:
    """A card per group: return before and after adapting."""
    cards = []
    for group in groups:
        if not group.evaluations:
            continue
        e = group.evaluations[0]
        first, last = e.stages[0], e.stages[-1]
        places = decimals([first.score, last.score])
        where = f" on {group.env}" if len(_by_environment(groups)) > 1 else ""
        big = number(first.score, places)
        if last.stage:
            arrow = '<span class="arrow" aria-label="becomes">→</span>'
            big = f"{big} {arrow} {number(last.score, places)}"
        cards.append(
            f'<div class="card finding" style="--c: var(--s{group.colour % figures.NUM_COLOURS})">'
            f'<p class="name">{escape(group.label + where)}</p>'
            f'<p class="big">{big}</p>'
            f'<p class="small">{_outcome(e)}{figures.tasks_phrase(e)}, '
            f"{plural(e.num_seeds, 'seed')}</p></div>"
        )
    return f'<section class="findings" aria-label="Results">{"".join(cards)}</section>'


def _outcome(e: Evaluation) -> str:
    """What the big numbers of a card are."""
    last = e.stages[-1]
    if not e.by_episode:
        after = f"after {plural(last.stage, e.unit)}" if last.stage else "without adapting"
        return f"return {after}, "
    words = "mean return"
    words += f", first and last of {last.stage + 1} episodes" if last.stage else " of an episode"
    if e.trial:
        words += f"; whole trial {number(e.trial[0])}" if last.stage else ""
        optimum = e.references.get("optimum", 0.0)
        words += f", {percent(e.trial[0] / optimum)} of the optimum" if optimum > 0 else ""
    if error := e.model_error:
        words += f"; model error {number(error.unadapted[0])}"
        changed = f" → {number(error.adapted[0])} by adapting"
        words += changed if error.adapts else ", does not adapt"
    if e.stages[0].success is not None and last.success is not None:
        first = f"{percent(e.stages[0].success)} → " if last.stage else ""
        words += f"; success {first}{percent(last.success)}"
    return f"{words}; "


def _warnings(groups: Sequence[Group]) -> str:
    """What to know before believing the numbers; one line for all groups that share a doubt."""
    subjects: dict[str, list[str]] = {}
    for group in groups:
        for text in _group_warnings(group):
            subjects.setdefault(text, []).append(f"<b>{escape(group.label)}</b> on {group.env}")
    finite = dict.fromkeys(g.env for g in groups for e in g.evaluations if e.finite_family)
    for env in finite:
        text = (
            "train and test tasks are the same (a finite family), so the curves show adapting, "
            "not generalising to new tasks."
        )
        subjects.setdefault(text, []).append(f"<b>{escape(env)}</b>")
    lines = "".join(f"<li>{listed(names)}: {text}</li>" for text, names in subjects.items())
    return f'<ul class="notes" aria-label="Warnings">{lines}</ul>' if lines else ""


def _group_warnings(group: Group) -> list[str]:
    """Clauses of HTML about one group."""
    items = []
    if not group.evaluations:
        items.append(f"not evaluated yet; run <code>precocial eval {escape(group.folder)}</code>.")
    else:
        items += _doubts(group, group.evaluations[0])
    if all(not run.rows for run in group.runs) and group.algo != "scratch":
        items.append("no training curve, <code>metrics.jsonl</code> is missing or empty.")
    for run in group.runs:
        if where := _unfinished(run.config, run.rows):
            items.append(
                f"seed {run.seed} stands at {where}; continue with "
                f"<code>precocial train --resume {escape(str(run.folder))}</code>."
            )
    skipped = sum(bool(row.get("loss/skipped")) for run in group.runs for row in run.rows)
    if skipped:
        items.append(f"{plural(skipped, 'iteration')} skipped, whose numbers were not finite.")
    return items


def _unfinished(config: dict[str, Any], rows: list[dict[str, float]]) -> str:
    """``iteration 40 of 100`` where a run stopped before its end."""
    run = config.get("run") or {}
    total, limit = run.get("iterations") or 0, run.get("env_steps") or 0
    done = int(rows[-1].get("iteration", 0)) + 1 if rows else 0
    by_steps = bool(limit and rows and rows[-1]["env_steps"] >= limit)
    return f"iteration {done} of {total}" if 0 < done < total and not by_steps else ""


def _doubts(group: Group, e: Evaluation) -> list[str]:
    """What should keep a reader from trusting or liking the numbers."""
    found = []
    if len(e.stages) > 1 and group.algo not in REFERENCES:
        gains, tasks = figures.gains(e)
        interval = bootstrap_interval(gains, tasks, trim=not e.by_episode)
        if interval and interval[0] <= 0:
            among = "seeds" if tasks.fixed else "tasks"
            found.append(f"no gain from adapting beyond what chance among the {among} explains.")
        elif not interval and gains.mean() <= 0:
            found.append("no gain from adapting.")
        if when := _best_before_the_end(e):
            found.append(f"the return is best {when} and falls from there.")
    if group.algo not in REFERENCES and (len(e.stages) > 1 or e.by_episode):
        found += _no_better(e)
    error = e.model_error
    if error and error.adapts and error.has_intervals and error.gap <= 0:
        overlap = "the intervals of the model's error, unadapted and adapted, overlap."
        found.append("adapting raises the model's error." if error.gap else overlap)
    if e.outdated and not e.has_intervals:
        again = f"<code>precocial eval {escape(group.folder)}</code>"
        found.append(f"the file's intervals were too narrow and are left out; run {again} again.")
    if e.num_seeds == 1 and e.tasks.fixed:
        found.append("one seed on all tasks that there are, so nothing is known of other seeds.")
    elif e.num_seeds == 1:
        found.append("one seed only, so its intervals say nothing about other seeds.")
    elif e.num_seeds != len(group.runs):
        found.append(
            f"the evaluation covers {plural(e.num_seeds, 'seed')}, the runs given are "
            f"{len(group.runs)}."
        )
    return found


def _best_before_the_end(e: Evaluation) -> str:
    """When the return is best, where that is not the end."""
    if e.by_episode:
        curve = figures.trial_curve(e)
        lows = [low for _, low, _ in curve]
        return f"around episode {lows.index(max(lows)) + 1}" if max(lows) > curve[-1][2] else ""
    best = max(e.stages, key=lambda s: s.score)
    when = f"after {plural(best.stage, e.unit)}" if best.stage else "before adapting"
    return when if best.score > e.stages[-1].high else ""


def _no_better(e: Evaluation) -> list[str]:
    """Whether a policy that cannot learn the task does as well."""
    if not e.by_episode:
        blind = figures.reference_value(e, "multi-task")
        text = f"no better than the task-blind multi-task policy ({number(blind)})."
        return [text] if _low(e) <= blind else []
    found = []
    for name, what in (
        ("random", "random actions"),
        ("multi-task", "the task-blind multi-task policy"),
        ("domain-randomization", "domain-randomization, which forgets"),
    ):
        score = e.reference_curves.get(name, [-math.inf])[-1]
        if _low(e) <= score:
            when = " in the last episode" if len(e.stages) > 1 else ""
            found.append(f"no better{when} than {what} ({number(score)}).")
    return found[:1]


def _low(e: Evaluation) -> float:
    """The lower end of the last stage's interval, or its score where there is none."""
    last = e.stages[-1]
    return last.low if e.has_intervals else last.score


Column = tuple[str, Callable[[Group, Evaluation | None], str], str]
"""Header, cell, class."""


def _tables(groups: Sequence[Group]) -> str:
    """The totals of trials, and a table per stage unit."""
    rows: dict[str, list[tuple[Group, Evaluation | None]]] = {}
    for group in groups:
        for e in group.evaluations:
            rows.setdefault(e.unit, []).append((group, e))
        if not group.evaluations:
            rows.setdefault(group.unit, []).append((group, None))
    tables = [_table(unit, members) for unit, members in rows.items()]
    totals = [_totals(members) for members in _kinds(groups).values()]
    return "\n".join(filter(None, totals + tables))


def _kinds(groups: Sequence[Group]) -> dict[Kind, list[tuple[Group, Evaluation]]]:
    """What can share a figure."""
    kinds: dict[Kind, list[tuple[Group, Evaluation]]] = {}
    for group in groups:
        for e in group.evaluations:
            kinds.setdefault(e.kind, []).append((group, e))
    return kinds


def _first_episodes(groups: Sequence[Group]) -> list[list[tuple[Group, Evaluation]]]:
    """What can share a figure about the first episode, however many a trial has."""
    found: dict[tuple[Any, ...], dict[str, tuple[Group, Evaluation]]] = {}
    for group in groups:
        for e in group.evaluations:
            if e.recovery or e.model_error:
                found.setdefault(e.kind[:-1], {}).setdefault(group.label, (group, e))
    return [list(members.values()) for members in found.values()]


def _table(unit: str, rows: list[tuple[Group, Evaluation | None]]) -> str:
    evaluations = [e for _, e in rows if e]
    phrases = {figures.tasks_phrase(e) for e in evaluations}
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
        body.append(f"<tr>{_row_head(group)}{cells}</tr>")
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
        f"<tbody>{''.join(body)}</tbody></table></div>{_model_words(rows)}</div>"
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


def _model_words(rows: list[tuple[Group, Evaluation | None]]) -> str:
    """What a model's error is, and what adapting did to that of each method."""
    having = [(group, e) for group, e in rows if e and e.model_error]
    if not having:
        return ""
    several = len({figures.tasks_phrase(e) for _, e in having}) > 1
    items = []
    for group, e in having:
        name = group.label + (f" on {figures.tasks_phrase(e)}" if several else "")
        items.append(f"<li><b>{escape(name)}</b>: {escape(_error_words(e))}</li>")
    apart = (
        " Methods meet different transitions, so errors of different rows do not compare; "
        "<code>precocial eval RUN --reference OTHER</code> judges both on the same ones."
    )
    return (
        '<p class="small">Model error: how far off the model\'s prediction of the next state is, '
        "root mean square, in standard deviations of the state's change over a step: 0 is perfect, "
        "1 is about as bad as always predicting the average change. Measured on what the method "
        "met itself, once at least 16 transitions of the same world have been seen: with the model "
        "as it starts an episode (unadapted) and, on the same transitions, as it has adapted by "
        "then. Adapting gains something where the adapted error is lower and the intervals lie "
        "apart; it matters most where the error is below that of a model that never adapts, since "
        f"a model made for adapting may be a poor one before.{apart if len(having) > 1 else ''}</p>"
        f'<ul class="small">{"".join(items)}</ul>'
    )


def _error_words(e: Evaluation) -> str:
    """Whether adapting lowered the error, and how other models do on the same transitions."""
    error = e.model_error
    assert error
    before, after = error.unadapted, error.adapted
    if error.adapts:
        verb = "lowered" if after[0] < before[0] else "raised"
        share = percent(abs(after[0] / before[0] - 1)) if before[0] > 0 else MISSING
        text = f"adapting {verb} the error by {share}, from {number(before[0])} to "
        text += number(after[0])
        if error.has_intervals:
            apart = "lie apart" if error.gap else "overlap, so that may be chance"
            text += f"; these intervals {apart}"
        if len(error.seeds) > 1:
            text += f"; lower in {sum(b < a for a, b in error.seeds)} of {len(error.seeds)} seeds"
    else:
        text = f"does not adapt; its error is {number(before[0])}"
    for name, other in e.reference_errors.items():
        theirs = other.adapted
        how = "more" if theirs[0] > after[0] else "less" if theirs[0] < after[0] else "as much"
        if error.has_intervals and other.has_intervals:
            clear = below(theirs, after) or below(after, theirs)
            how += ", intervals apart" if clear else ", intervals overlap"
        what = "" if other.adapts else ", which does not adapt,"
        text += f"; on the same transitions {name}{what} errs by {number(theirs[0])}, {how}"
    return f"{text}."


def _row_head(group: Group) -> str:
    dot = f'<span class="dot" style="--c: var(--s{group.colour % figures.NUM_COLOURS})"></span>'
    return f'<th scope="row" class="text">{dot}{escape(group.label)}</th>'


def _trial_columns(evaluations: list[Evaluation]) -> list[Column]:
    """The total of a trial where updates form one, and the references."""
    columns: list[Column] = []
    if any(e.trial for e in evaluations):
        columns.append(("whole<br>trial", _trial_cell, ""))
    named = (name for e in evaluations if not e.trial for name in e.references)
    for name in dict.fromkeys(("oracle", "multi-task", "optimum", *named)):
        if any(math.isfinite(figures.reference_value(e, name)) for e in evaluations):
            columns.append((escape(name), _reference_cell(name), ""))
    return columns


def _totals(members: figures.Members) -> str:
    """What each method and each reference scores over a whole trial."""
    trials = [(group, e, e.trial) for group, e in members if e.trial]
    references = figures.trial_references(members)
    if not trials or not (trials[0][1].by_episode or any(r.curve for r in references)):
        return ""
    optimum = next((r.total for r in references if r.name == "optimum"), 0.0)
    num, by_episode = len(trials[0][1].stages), trials[0][1].by_episode
    if num == 1 and not references:
        return ""  # all of it is in the table of results
    places = decimals([mean for *_, (mean, _, _) in trials])
    rows = [
        _totals_row(
            _row_head(group), mean,
            f"{number(low, places)} to {number(high, places)}" if math.isfinite(low) else MISSING,
            str(e.num_seeds), optimum, num, places,
        )
        for group, e, (mean, low, high) in trials
    ]  # fmt: skip
    if references:
        width = 4 + (optimum > 0) + (num > 1)
        rows.append(f'<tr><td colspan="{width}" class="text small">on the same tasks:</td></tr>')
    for r in references:
        drawn = r.curve and num > 1
        key = _swatch(figures.Key(r.name, r.colour, r.style, r.name)) if drawn else "<svg></svg>"
        head = f'<th scope="row" class="text reference">{key}{escape(r.name)}</th>'
        rows.append(_totals_row(head, r.total, "", "", optimum, num, places))
    share = '<th scope="col">share of<br>optimum</th>' if optimum > 0 else ""
    stage, stages = ("episode", "its episodes") if by_episode else ("stage", "all its stages")
    per = f'<th scope="col">per {stage}</th>' if num > 1 else ""
    what = f"Whole trial: sum of the returns of {stages} ({num})" if num > 1 else "Return"
    return (
        f'<div class="card table"><p class="small">{what}, mean over '
        f"{figures.tasks_of(members)}.</p>\n"
        '<div class="scroll" tabindex="0"><table class="totals" aria-label="Trial totals">'
        '<thead><tr><th scope="col" class="text">method</th>'
        f'<th scope="col">{"total" if num > 1 else "return"}</th>'
        f'<th scope="col">95 % interval</th>{share}{per}'
        f'<th scope="col">seeds</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div></div>'
    )


def _totals_row(
    head: str, total: float, interval: str, seeds: str, optimum: float, num: int, places: int
) -> str:
    share = f"<td>{percent(total / optimum)}</td>" if optimum > 0 else ""
    per = f"<td>{number(total / num)}</td>" if num > 1 else ""
    return (
        f'<tr>{head}<td class="strong">{number(total, places)}</td><td>{interval}</td>{share}'
        f"{per}<td>{seeds}</td></tr>"
    )


def _stages_shown(evaluations: list[Evaluation], last: int) -> list[int]:
    """The first stages and the last; of long trials, which have their sum, fewer."""
    if any(e.by_episode for e in evaluations):
        return few_of(last + 1, MOST_EPISODES)
    most = 1 if any(e.trial for e in evaluations) else 3
    return sorted({*range(min(last, most) + 1), last}) if evaluations else []


def _tasks_cell(group: Group, e: Evaluation | None) -> str:
    return figures.tasks_phrase(e).replace(" tasks", "") if e else MISSING


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
        value = figures.reference_value(e, name) if e else math.nan
        alike = [s.score for s in e.stages] if e and not e.trial else [value]
        return number(value, decimals(alike))

    return cell


def _average(values: list[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else math.nan


# ---- charts -----------------------------------------------------------------------------------


def _section(title: str, groups: list[Group], charts: list[figures.Chart]) -> str:
    """All tables and charts of one task family."""
    kinds = _kinds(groups)
    parts = []
    for members in kinds.values():
        e = members[0][1]
        more = f", {figures.tasks_of(members)}" if len(kinds) > 1 else ""
        if all(len(other.stages) == 1 for _, other in members):
            continue  # a point is no curve; the table has it
        if e.by_episode:
            more += f", {plural(len(e.stages), 'episode')}" if len(kinds) > 1 else ""
            parts.append(_chart(figures.by_episode(members), charts, more))
            success = figures.success(members)
            parts += [_chart(success, charts, more)] if success else []
        else:
            parts.append(_chart(figures.adaptation(members), charts, more))
    alike = _first_episodes(groups)
    for members in alike:
        more = f", {figures.tasks_of(members)}" if len(alike) > 1 else ""
        found = (figures.recovery(members), figures.model_error(members))
        parts += [_chart(chart, charts, more) for chart in found if chart]
    parts += [_picture(group, path) for group in groups for path in group.pictures]
    units: dict[str, list[Group]] = {}
    for group in groups:
        units.setdefault(group.unit, []).append(group)
    for same in units.values():
        more = f": {listed(g.label for g in same)}" if len(units) > 1 else ""
        parts += [_chart(chart, charts, more) for chart in figures.training(same)]
    for members in list(kinds.values())[:1]:
        if len(members[0][1].stages) > 1 and figures.is_spread_out(members):
            parts.append(_chart(figures.before_after(members), charts))
        parts += [_chart(chart, charts) for chart in figures.by_task(members)]
    return (
        f"<section><h2>{escape(title)}</h2>\n{_tables(groups)}\n"
        f'<div class="charts">{"".join(parts)}</div></section>'
        "<noscript><p>The charts need JavaScript; the table above does not.</p></noscript>"
    )


def _chart(chart: figures.Chart, charts: list[figures.Chart], more: str = "") -> str:
    index = len(charts)
    charts.append(chart)
    keys = "".join(
        f'<li><button type="button" aria-pressed="true" data-plot="{index}" '
        f'data-group="{escape(key.group)}">{_swatch(key)}{escape(key.label)}</button></li>'
        for key in chart.keys
    )
    legend = f'<ul class="keys" aria-label="Show or hide">{keys}</ul>\n' if keys else ""
    title, caption = escape(chart.title + more), escape(chart.caption)
    return (
        f'<figure class="card{" wide" if chart.wide else ""}"><h3>{title}</h3>\n{legend}'
        f'<div class="plot" id="plot-{index}" role="img" aria-label="{title}. {caption}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _swatch(key: figures.Key) -> str:
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


def _picture(group: Group, path: Path) -> str:
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


# ---- reading and reproducing ------------------------------------------------------------------


def _reading(groups: Sequence[Group]) -> str:
    evaluations = [e for g in groups for e in g.evaluations]
    references = {k for e in evaluations for k in (*e.references, *e.reference_curves)}
    references |= {g.algo for g in groups}
    units = {g.unit for g in groups}
    words: dict[str, str] = {}
    if "update" in units:
        words |= {
            "return": "Sum of rewards over an episode, not discounted; for each task the mean over "
            "the first whole episode of all its parallel episodes.",
            "before adapting": "The meta-trained policy on a task it knows nothing about.",
            "after k updates": "The policy after k learning steps, each from fresh episodes of "
            "that task alone.",
            "gain": "Return after the last stage less return before adapting.",
            "interquartile mean": "Mean of the middle half of all (seed, task) returns; a few "
            "lucky or failed ones do not decide it.",
            "95 % interval": "Percentile bootstrap of the interquartile mean: seeds are drawn "
            "again, and tasks once for all of them; with one seed, tasks only. Tasks that are all "
            "there are stay, so that a single seed has no interval. Over three seeds it is too "
            "narrow where seeds differ most.",
        }
    if "episode" in units:
        episodes = [e for e in evaluations if e.by_episode]
        single = bool(episodes) and all(len(e.stages) == 1 for e in episodes)
        words |= _words_of_trials(alone=len(units) == 1, single=single)
    elif any(e.trial for e in evaluations):
        words["whole trial"] = "Sum over all stages of a trial, mean over tasks."
    if any(e.recovery for e in evaluations):
        words["the change"] = (
            "The step of an episode at which the world becomes another without a word; what the "
            "method knew until then is wrong from there."
        )
    if any(e.model_error for e in evaluations):
        words |= {
            "model error": "Root mean square error of the predicted next state, in standard "
            "deviations of the state's change over a step.",
            "unadapted, adapted": "The model as it starts an episode, and as the last transitions "
            "of the episode have changed it.",
        }
    meanings = {
        "oracle": "A policy that is told the task; what adapting could reach at best.",
        "multi-task": "One policy trained on all tasks and blind to which one it faces; what can "
        "be had without adapting.",
        "scratch": "An untrained policy, adapted in the same way.",
        "domain-randomization": "One policy trained on all tasks that forgets everything at the "
        "end of an episode; what can be had without adapting.",
        "belief-oracle": "A policy that is given the exact posterior over tasks instead of a "
        "memory.",
        "optimum": "The best expected return that the family itself knows of, of a whole trial "
        "where stages form one; a mean over tasks.",
    }
    words |= {k: v for k, v in (meanings | KNOWN_METHODS).items() if k in references}
    if any(e.split == "shifted" for e in evaluations):
        words["shifted tasks"] = "Tasks beyond the range that training drew from."
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in words.items())
    return f'<h2>How to read this</h2>\n<div class="card"><dl>{items}</dl></div>'


def _words_of_trials(*, alone: bool, single: bool) -> dict[str, str]:
    """What is meant where a stage is an episode.

    Args:
        alone: And nowhere an update.
        single: And a trial is one episode everywhere.
    """
    words = {
        "trial": "Several episodes on one task without a break. The agent starts it knowing "
        "nothing of the task and remembers what it did and saw; where it learns by a memory, "
        "nothing in its network changes.",
        "episode k": "The k-th episode of a trial: what the agent has learned in k - 1 episodes.",
        "whole trial": "Sum of the returns of all episodes of a trial, so exploring costs what it "
        "costs; mean over tasks.",
    }
    if single:
        words = {
            "an episode": "Its task is new to the agent, which adapts while it acts: what it does "
            "at a step rests on what it has seen until then."
        }
    if alone:
        words["return"] = (
            "Sum of rewards over an episode, not discounted; for each task the mean over its "
            f"parallel {'episodes' if single else 'trials'}."
        )
        if not single:
            words["gain"] = "Mean return of the last episode less that of the first."
        words["95 % interval"] = (
            "Of the mean, over tasks and seeds; with one seed, over tasks only. Bootstrap"
            + (
                "; normal approximation where seeds were evaluated one by one."
                if single
                else " for totals, normal approximation for single episodes."
            )
        )
    else:
        words["mean and interval of an episode"] = (
            "Where a stage is an episode, returns are plain means, since they may be 0 or 1; the "
            "interval is that of the mean."
        )
    return words


def _settings(groups: Sequence[Group]) -> str:
    parts = ["<h2>Settings and commands</h2>"]
    for group in groups:
        config = group.runs[0].config
        made = config.get("precocial") or {}
        commit = made.get("commit") or "unknown"
        facts = [
            ("trained with", f"precocial {made.get('version', '?')}, commit {commit}"),
            ("seeds", ", ".join(str(run.seed) for run in group.runs)),
            ("machine", str(config.get("machine", "unknown"))),
        ]  # fmt: skip
        commands = [_train_command(group)]
        commands += [_eval_command(group, e) for e in group.evaluations]
        rows = "".join(
            f"<li><code>{escape(k)}</code><code>{escape(_plain(v))}</code></li>"
            for k, v in _all_settings(config).items()
        )
        ignored = "".join(f'<p class="small">Not shown: {escape(s)}</p>' for s in group.ignored)
        parts.append(
            f'<details class="card"><summary>{escape(group.label)} on {escape(group.env)}</summary>'
            f"<p>To do it again (flags that were given besides show among the settings):</p>"
            f"<pre>{escape(chr(10).join(commands))}</pre>"
            f'<p class="small">{escape("; ".join(f"{k}: {v}" for k, v in facts))}</p>{ignored}'
            f'<ul class="settings">{rows}</ul></details>'
        )
    return "\n".join(parts)


def _all_settings(config: dict[str, Any]) -> dict[str, Any]:
    run = {f"run.{k}": v for k, v in (config.get("run") or {}).items() if k != "seed"}
    return run | settings(config)


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _train_command(group: Group) -> str:
    seeds = [run.seed for run in group.runs]
    parts = [f"precocial train {group.algo} --env {group.env}"]
    if group.preset != "default":
        parts.append(f"--preset {group.preset}")
    consecutive = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    if consecutive:
        parts.append(f"--seed {seeds[0]}" + (f" --seeds {len(seeds)}" if len(seeds) > 1 else ""))
        return " ".join(parts)
    return "\n".join(" ".join([*parts, f"--seed {seed}"]) for seed in seeds)


def _eval_command(group: Group, e: Evaluation) -> str:
    stages = e.stages[-1].stage
    many = f"--updates {stages}" if e.unit == "update" else f"--episodes {stages + 1}"
    extra = (" --greedy" if e.greedy else "") + (f" --seed {e.eval_seed}" if e.eval_seed else "")
    extra += f" --checkpoint {e.checkpoint}" if e.checkpoint != "last" else ""
    size = f"--tasks {e.num_tasks}" + (f" --lanes {e.lanes}" if e.lanes else "")
    return f"precocial eval {group.folder} --split {e.split} {size} {many}{extra}"
