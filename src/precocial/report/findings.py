"""What came out, in a line per group, and what should keep a reader from believing it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from precocial.algos import ALGOS
from precocial.report.evaluations import REFERENCES, Evaluation
from precocial.report.figures.chart import NUM_COLOURS, reference_value, tasks_phrase
from precocial.report.figures.tasks import gains
from precocial.report.figures.trials import trial_curve
from precocial.report.runs import Group, by_environment
from precocial.report.words import (
    decimals,
    listed,
    number,
    percent,
    plural,
)
from precocial.statistics import bootstrap_interval
from precocial.transferring.measure import curve_of


def finding_cards(groups: Sequence[Group]) -> str:
    """A card per group: return before and after adapting."""
    cards = []
    for group in groups:
        if not group.evaluations:
            continue
        e = group.evaluations[0]
        first, last = e.stages[0], e.stages[-1]
        places = decimals([first.score, last.score])
        where = f" on {group.env}" if len(by_environment(groups)) > 1 else ""
        big = number(first.score, places)
        if last.stage:
            arrow = '<span class="arrow" aria-label="becomes">→</span>'
            big = f"{big} {arrow} {number(last.score, places)}"
        cards.append(
            f'<div class="card finding" style="--c: var(--s{group.colour % NUM_COLOURS})">'
            f'<p class="name">{escape(group.label + where)}</p>'
            f'<p class="big">{big}</p>'
            f'<p class="small">{_outcome(e)}{tasks_phrase(e)}, '
            f"{plural(e.num_seeds, 'seed')}</p></div>"
        )
    return f'<section class="findings" aria-label="Results">{"".join(cards)}</section>'


def _outcome(e: Evaluation) -> str:
    """What the big numbers of a card are."""
    last = e.stages[-1]
    if not e.by_episode:
        after = f"after {plural(last.stage, e.unit)}" if last.stage else "without adapting"
        return f"return {after}{_success(e)}, "
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
    return f"{words}{_success(e)}; "


def _success(e: Evaluation) -> str:
    """Of the first stage and the last."""
    first, last = e.stages[0], e.stages[-1]
    if first.success is None or last.success is None:
        return ""
    before = f"{percent(first.success)} → " if last.stage else ""
    return f"; success {before}{percent(last.success)}"


def warning_list(groups: Sequence[Group]) -> str:
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
    if all(not run.rows for run in group.runs) and ALGOS[group.algo].trains:
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
    """``iteration 40 of 100``, or steps where they end it, if a run stopped before its end."""
    run = config.get("run") or {}
    total, limit = run.get("iterations") or 0, run.get("env_steps") or 0
    done = int(rows[-1].get("iteration", 0)) + 1 if rows else 0
    steps = int(rows[-1]["env_steps"]) if rows else 0
    last, wanted = curve_of(rows).returns[-2:], run.get("stop_at")
    reached = wanted is not None and len(last) == 2 and bool((last >= wanted).all())
    if not 0 < done < total or (limit and steps >= limit) or reached:
        return ""
    return f"step {steps} of {limit}" if limit else f"iteration {done} of {total}"


def _doubts(group: Group, e: Evaluation) -> list[str]:
    """What should keep a reader from trusting or liking the numbers."""
    found = []
    if len(e.stages) > 1 and group.algo not in REFERENCES:
        gain, tasks = gains(e)
        interval = bootstrap_interval(gain, tasks, trim=not e.by_episode)
        if interval and interval[0] <= 0:
            among = "seeds" if tasks.fixed else "tasks"
            found.append(f"no gain from adapting beyond what chance among the {among} explains.")
        elif not interval and gain.mean() <= 0:
            found.append("no gain from adapting.")
        if when := _best_before_the_end(e):
            found.append(f"the return is best {when} and falls from there.")
    if group.algo not in REFERENCES and (len(e.stages) > 1 or e.by_episode):
        found += _no_better(e)
    hits = [s.success for s in e.stages if s.success is not None]
    same = len(hits) == len(e.stages) and np.allclose(hits, e.per_task.mean(0), atol=1e-6)
    if not e.by_episode and same and any(hits):
        found.append(
            "the return is 1 for a success and 0 else, of which the interquartile mean says "
            "little; read success."
        )
    error = e.model_error
    if error and error.adapts and error.has_intervals and error.gap <= 0:
        overlap = "the intervals of the model's error, unadapted and adapted, overlap."
        found.append("adapting raises the model's error." if error.gap else overlap)
    if e.outdated and not e.has_intervals:
        again = f"<code>precocial eval {escape(group.folder)}</code>"
        found.append(f"the file's intervals were wrong and are left out; run {again} again.")
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
        curve = trial_curve(e)
        lows = [low for _, low, _ in curve]
        return f"around episode {lows.index(max(lows)) + 1}" if max(lows) > curve[-1][2] else ""
    best = max(e.stages, key=lambda s: s.score)
    when = f"after {plural(best.stage, e.unit)}" if best.stage else "before adapting"
    return when if best.score > e.stages[-1].high else ""


def _no_better(e: Evaluation) -> list[str]:
    """Whether a policy that cannot learn the task does as well."""
    if not e.by_episode:
        blind = reference_value(e, "multi-task")
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
