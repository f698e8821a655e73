"""Where numbers go: ``metrics.jsonl`` and TensorBoard events in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from precocial.runs.rows import read_rows
from precocial.signals import held
from precocial.types import Metrics


class Tracker:
    """Appends one row per iteration; opened at iteration k it forgets rows from k on."""

    def __init__(self, folder: Path, iteration: int) -> None:
        path = folder / "metrics.jsonl"
        kept = [row for row in read_rows(path) if row["iteration"] < iteration]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(path)
        self.file = path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(folder), purge_step=iteration)

    @held()
    def log(self, iteration: int, env_steps: int, metrics: Metrics) -> None:
        """One row; TensorBoard's x axis is the iteration."""
        row = {"iteration": iteration, "env_steps": env_steps} | metrics
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for key, value in metrics.items():
            self.board.add_scalar(key, value, iteration)

    @held()
    def close(self) -> None:
        """Flush both."""
        self.file.close()
        self.board.close()
