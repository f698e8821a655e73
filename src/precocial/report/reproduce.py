"""Settings of each group, and the commands that make it again."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from precocial.report.evaluations import Evaluation
from precocial.report.runs import Group, settings
from precocial.report.words import plain


def reproduction(groups: Sequence[Group]) -> str:
    """``Settings and commands``, a fold for each group."""
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
            f"<li><code>{escape(k)}</code><code>{escape(plain(v))}</code></li>"
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
