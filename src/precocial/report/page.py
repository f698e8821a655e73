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
from precocial.report.runs import REFERENCES, Evaluation, Group, read_groups, settings
from precocial.report.words import MISSING, count, decimals, duration, listed, number, plural
from precocial.statistics import bootstrap_interval

MOST_ANIMATION_BYTES = 12_000_000
"""A larger animation is named, not embedded."""


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
        *(_environment(env, of, charts) for env, of in _by_environment(groups).items()),
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
        places = decimals([first.iqm, last.iqm])
        where = f" on {group.env}" if len(_by_environment(groups)) > 1 else ""
        after = f"after {plural(last.stage, e.unit)}" if last.stage else "without adapting"
        big = number(first.iqm, places)
        if last.stage:
            arrow = '<span class="arrow" aria-label="becomes">→</span>'
            big = f"{big} {arrow} {number(last.iqm, places)}"
        cards.append(
            f'<div class="card finding" style="--c: var(--s{group.colour % figures.NUM_COLOURS})">'
            f'<p class="name">{escape(group.label + where)}</p>'
            f'<p class="big">{big}</p>'
            f'<p class="small">return {after}, {figures.tasks_phrase(e)}, '
            f"{plural(e.num_seeds, 'seed')}</p></div>"
        )
    return f'<section class="findings" aria-label="Results">{"".join(cards)}</section>'


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
        gains = e.per_task[:, -1] - e.per_task[:, 0]
        if bootstrap_interval(gains[None])[0] <= 0:
            found.append("no gain from adapting beyond what chance among the tasks explains.")
        best = max(e.stages, key=lambda s: s.iqm)
        if best.iqm > e.stages[-1].high:
            when = f"after {plural(best.stage, e.unit)}" if best.stage else "before adapting"
            found.append(f"the return is best {when} and falls from there.")
        blind = figures.reference_value(e, "multi-task")
        if e.stages[-1].low <= blind:
            found.append(f"no better than the task-blind multi-task policy ({number(blind)}).")
    if e.num_seeds == 1:
        found.append("one seed only, so its intervals say nothing about other seeds.")
    elif e.num_seeds != len(group.runs):
        found.append(
            f"the evaluation covers {plural(e.num_seeds, 'seed')}, the runs given are "
            f"{len(group.runs)}."
        )
    return found


Column = tuple[str, Callable[[Group, Evaluation | None], str], str]
"""Header, cell, class."""


def _tables(groups: Sequence[Group]) -> str:
    """One table per stage unit; groups without an evaluation stand in the first."""
    rows: dict[str, list[tuple[Group, Evaluation | None]]] = {}
    for group in groups:
        for e in group.evaluations:
            rows.setdefault(e.unit, []).append((group, e))
    first = next(iter(rows), "update")
    rows.setdefault(first, []).extend((group, None) for group in groups if not group.evaluations)
    return "\n".join(_table(unit, members) for unit, members in rows.items())


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
        columns.append((header, _stage_cell(stage), "strong" if stage == last else ""))
    if last:
        columns.append(("gain", _gain_cell, ""))
    if any(e.trial_mean is not None for e in evaluations):
        columns.append(("whole<br>trial", _trial_cell, ""))
    if any(e.success_rate is not None for e in evaluations):
        columns.append(("success", _success_cell, ""))
    named = (name for e in evaluations for name in e.references)
    for name in dict.fromkeys(("oracle", "multi-task", "optimum", *named)):
        if any(math.isfinite(figures.reference_value(e, name)) for e in evaluations):
            columns.append((escape(name), _reference_cell(name), ""))
    head = "".join(f'<th scope="col" class="{css}">{title}</th>' for title, _, css in columns)
    body = []
    for group, e in rows:
        dot = f'<span class="dot" style="--c: var(--s{group.colour % figures.NUM_COLOURS})"></span>'
        cells = "".join(f'<td class="{css}">{cell(group, e)}</td>' for _, cell, css in columns)
        body.append(f'<tr><th scope="row" class="text">{dot}{escape(group.label)}</th>{cells}</tr>')
    where = f" on {phrases.pop()}" if len(phrases) == 1 else ""
    return (
        f'<div class="card table"><p class="small">Return{where}: interquartile mean, and its '
        "95 % bootstrap interval below.</p>\n"
        '<div class="scroll" tabindex="0"><table aria-label="Results">'
        f'<thead><tr><th scope="col" class="text">algorithm</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></div>"
    )


def _stages_shown(evaluations: list[Evaluation], last: int) -> list[int]:
    """The first stages and the last; of long trials, which have their sum, fewer."""
    most = 1 if any(e.trial_mean is not None for e in evaluations) else 3
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
        places = decimals([s.iqm for s in e.stages])
        iqm, low, high = (number(v, places) for v in (found[0].iqm, found[0].low, found[0].high))
        return f'{iqm}<span class="ci">{low} to {high}</span>'

    return cell


def _gain_cell(group: Group, e: Evaluation | None) -> str:
    if not e or len(e.stages) < 2:
        return MISSING
    return number(e.gain, decimals([s.iqm for s in e.stages]), sign=True)


def _success_cell(group: Group, e: Evaluation | None) -> str:
    return MISSING if not e or e.success_rate is None else f"{100 * e.success_rate:.0f} %"


def _trial_cell(group: Group, e: Evaluation | None) -> str:
    return MISSING if not e or e.trial_mean is None else number(e.trial_mean)


def _reference_cell(name: str) -> Callable[[Group, Evaluation | None], str]:
    def cell(group: Group, e: Evaluation | None) -> str:
        value = figures.reference_value(e, name) if e else math.nan
        alike = [s.iqm for s in e.stages] if e and e.trial_mean is None else [value]
        return number(value, decimals(alike))

    return cell


def _average(values: list[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else math.nan


# ---- charts -----------------------------------------------------------------------------------


def _environment(env: str, groups: list[Group], charts: list[figures.Chart]) -> str:
    """All charts of one task family."""
    kinds: dict[tuple[str, str, bool, str], list[tuple[Group, Evaluation]]] = {}
    for group in groups:
        for e in group.evaluations:
            kinds.setdefault(e.kind, []).append((group, e))
    parts = []
    for index, members in enumerate(kinds.values()):
        title = f", {figures.tasks_of(members)}" if index or len(kinds) > 1 else ""
        parts.append(_chart(figures.adaptation(members), charts, title))
    parts += [_animation(group) for group in groups if group.animation]
    parts += [_chart(chart, charts) for chart in figures.training(groups)]
    for members in list(kinds.values())[:1]:
        if len(members[0][1].stages) > 1:
            parts.append(_chart(figures.before_after(members), charts))
        parts += [_chart(chart, charts) for chart in figures.by_task(members)]
    return (
        f"<section><h2>{escape(env)}</h2>\n{_tables(groups)}\n"
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
        f'<figure class="card"><h3>{title}</h3>\n{legend}'
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
        dash = {"solid": "", "dash": "7 4", "dot": "2 3", "longdash": "11 4"}[key.style]
        shape = (
            f'<path d="M0 6H26" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"/>'
        )
    return f'<svg viewBox="0 0 26 12" aria-hidden="true">{shape}</svg>'


def _animation(group: Group) -> str:
    """A GIF from the run folder, inside the page."""
    assert group.animation is not None
    path = group.animation
    if path.stat().st_size > MOST_ANIMATION_BYTES:
        content = f"<p>Too large to embed: <code>{escape(str(path))}</code></p>"
    else:
        data = base64.b64encode(path.read_bytes()).decode()
        alt = f"Animation: {group.label} on one {group.env} task before and after adapting"
        content = f'<img src="data:image/gif;base64,{data}" alt="{escape(alt)}">'
    return (
        f'<figure class="card"><h3>Watch it adapt: {escape(group.label)}</h3>{content}'
        f"<figcaption>From <code>{escape(path.name)}</code> in the run folder.</figcaption>"
        "</figure>"
    )


# ---- reading and reproducing ------------------------------------------------------------------


def _reading(groups: Sequence[Group]) -> str:
    evaluations = [e for g in groups for e in g.evaluations]
    references = {k for e in evaluations for k in (*e.references, *e.reference_curves)}
    references |= {g.algo for g in groups}
    words = {
        "return": "Sum of rewards over an episode, not discounted; for each task the mean over the "
        "first whole episode of all its parallel episodes.",
        "before adapting": "The meta-trained policy on a task it knows nothing about.",
    }
    if any(e.unit == "update" for e in evaluations):
        words["after k updates"] = (
            "The policy after k learning steps, each from fresh episodes of that task alone."
        )
    if any(e.unit == "episode" for e in evaluations):
        words["after k episodes"] = "The agent in its next episode of that task, remembering k."
    words["gain"] = "Return after the last stage less return before adapting."
    words["interquartile mean"] = (
        "Mean of the middle half of all (seed, task) returns; a few lucky or failed ones do not "
        "decide it."
    )
    words["95 % interval"] = (
        "Percentile bootstrap of the interquartile mean, drawing seeds and tasks again; with one "
        "seed, tasks only."
    )
    if any(e.trial_mean is not None for e in evaluations):
        words["whole trial"] = "Sum over all stages of a trial, mean over tasks."
    meanings = {
        "oracle": "A policy that is told the task; what adapting could reach at best.",
        "multi-task": "One policy trained on all tasks and blind to which one it faces; what can "
        "be had without adapting.",
        "scratch": "An untrained policy, adapted in the same way.",
        "optimum": "The best expected return that the family itself knows of, of a whole trial "
        "where stages form one; a mean over tasks.",
    }
    words |= {k: v for k, v in meanings.items() if k in references}
    if any(e.split == "shifted" for e in evaluations):
        words["shifted tasks"] = "Tasks beyond the range that training drew from."
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in words.items())
    return f'<h2>How to read this</h2>\n<div class="card"><dl>{items}</dl></div>'


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
