"""Reading `metrics.jsonl`; for those who must not load torch as for those who do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TAIL = 2**16
"""Bytes in which the last row surely lies."""


def read_rows(path: Path) -> list[dict[str, float]]:
    """Whole rows of a ``metrics.jsonl``; what a kill cut off is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if numbers := _numbers(row):
                rows.append(numbers)
    return rows


def last_row(path: Path) -> dict[str, float]:
    """The last row of a ``metrics.jsonl``, however long that is; empty where there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            line = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
        return _numbers(json.loads(line))
    except (OSError, ValueError):
        return {}


def _numbers(row: Any) -> dict[str, float]:
    """What a row says in numbers; empty where this is no row."""
    items = row.items() if isinstance(row, dict) else ()
    numbers = {k: v for k, v in items if isinstance(v, int | float)}
    return numbers if {"iteration", "env_steps"} <= numbers.keys() else {}
