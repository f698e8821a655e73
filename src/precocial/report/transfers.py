"""What beginning from a source brought, as `precocial transfer` measured it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from precocial.report.runs import Group
from precocial.report.words import MISSING, count, number, plural
from precocial.transferring.measure import ROWS


def transfer_tables(groups: Sequence[Group]) -> str:
    """A table for each group that lies in the folder of a transfer."""
    homes = [
        run.folder.parent.parent / "transfer.json"
        for group in groups
        if group.from_source
        for run in group.runs[:1]
    ]
    return "\n".join(_table(path) for path in dict.fromkeys(homes) if path.is_file())


def _table(path: Path) -> str:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sides = [side for side in ("transfer", "scratch") if side in found]
        body = [
            f'<tr><th scope="row" class="text">{words}</th>'
            + "".join(f"<td>{_cell(found[side].get(key))}</td>" for side in sides)
            + (f'<td class="strong">{_cell(found.get(gain))}</td>' if len(sides) > 1 else "")
            + "</tr>"
            for words, key, gain in ROWS
            if key in found["transfer"]
        ]
        heads = ["from a source", "from scratch"][: len(sides)] + ["gain"] * (len(sides) - 1)
        head = "".join(f'<th scope="col">{words}</th>' for words in heads)
        words = f"{plural(found['seeds'], 'seed')}, {count(found['budget'])} steps each. "
        if found["threshold"] is not None:
            late = ", ".join(f"{found[side]['censored']} {side}" for side in sides)
            words += (
                f"Threshold {number(found['threshold'])}, reached with the first of two "
                f"evaluations in a row; never reached, and counted with all steps: {late}. "
            )
        if found.get("transfer_ratio") is not None:
            words += f"Transfer ratio {found['transfer_ratio']:+.2f} of scratch's area. "
        if found.get("forgetting"):
            before, after = (number(found["forgetting"][k]) for k in ("source", "after"))
            words += f"On the source's own task {before} before and {after} after. "
    except (ValueError, KeyError, TypeError):
        return f"<p>{escape(str(path))} is unreadable; run the transfer again</p>"
    return (
        '<div class="card table"><p class="small">What the source brought: mean over seeds, and '
        f"its 95 % bootstrap interval below. {escape(words)}</p>\n"
        '<div class="scroll" tabindex="0"><table aria-label="Transfer">'
        f'<thead><tr><th scope="col" class="text"></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></div>"
    )


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return MISSING
    interval = figure["ci95"]
    below = "" if interval is None else "<br><small>{} to {}</small>".format(*map(number, interval))
    return number(figure["mean"]) + below
