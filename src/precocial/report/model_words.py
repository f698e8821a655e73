"""Words below a table: what a model's error is, and what adapting did to it."""

from __future__ import annotations

from html import escape

from precocial.report.evaluations import Evaluation, below
from precocial.report.figures.chart import tasks_phrase
from precocial.report.runs import Group
from precocial.report.words import MISSING, number, percent


def model_words(rows: list[tuple[Group, Evaluation | None]]) -> str:
    """What a model's error is, and what adapting did to that of each method."""
    having = [(group, e) for group, e in rows if e and e.model_error]
    if not having:
        return ""
    several = len({tasks_phrase(e) for _, e in having}) > 1
    items = []
    for group, e in having:
        name = group.label + (f" on {tasks_phrase(e)}" if several else "")
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
