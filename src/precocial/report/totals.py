"""The table of what each method and each reference scores over a whole trial."""

from __future__ import annotations

import math
from html import escape

from precocial.report.figures.chart import Key, Members, tasks_of
from precocial.report.figures.trials import trial_references
from precocial.report.markup import row_head, swatch
from precocial.report.words import MISSING, decimals, number, percent


def trial_totals(members: Members) -> str:
    """What each method and each reference scores over a whole trial."""
    trials = [(group, e, e.trial) for group, e in members if e.trial]
    references = trial_references(members)
    if not trials or not (trials[0][1].by_episode or any(r.curve for r in references)):
        return ""
    optimum = next((r.total for r in references if r.name == "optimum"), 0.0)
    num, by_episode = len(trials[0][1].stages), trials[0][1].by_episode
    if num == 1 and not references:
        return ""  # all of it is in the table of results
    places = decimals([mean for *_, (mean, _, _) in trials])
    rows = [
        _totals_row(
            row_head(group), mean,
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
        key = swatch(Key(r.name, r.colour, r.style, r.name)) if drawn else "<svg></svg>"
        head = f'<th scope="row" class="text reference">{key}{escape(r.name)}</th>'
        rows.append(_totals_row(head, r.total, "", "", optimum, num, places))
    share = '<th scope="col">share of<br>optimum</th>' if optimum > 0 else ""
    stage, stages = ("episode", "its episodes") if by_episode else ("stage", "all its stages")
    per = f'<th scope="col">per {stage}</th>' if num > 1 else ""
    what = f"Whole trial: sum of the returns of {stages} ({num})" if num > 1 else "Return"
    return (
        f'<div class="card table"><p class="small">{what}, mean over '
        f"{tasks_of(members)}.</p>\n"
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
