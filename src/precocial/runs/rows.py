"""Reading `metrics.jsonl`; for those who must not load torch as for those who do."""

from __future__ import annotations

import json
from pathlib import Path


def read_rows(path: Path) -> list[dict[str, float]]:
    """Whole rows of a ``metrics.jsonl``; what a kill cut off is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if isinstance(row, dict) and {"iteration", "env_steps"} <= row.keys():
                rows.append({k: v for k, v in row.items() if isinstance(v, int | float)})
    return rows
