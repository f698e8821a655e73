"""A progress bar on a terminal, plain lines elsewhere; on stderr, so that stdout stays clean."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from precocial.types import Metrics

PLAIN_EVERY_S = 10.0


class Progress:
    """Shows iterations done, returns before and after adapting, environment steps per second."""

    def __init__(self, iterations: int, done: int, env_steps: int, *, quiet: bool) -> None:
        self.env_steps, self.quiet = env_steps, quiet
        self.total = env_steps or iterations
        if env_steps:  # the run ends by its steps, so these are what the bar counts
            done = 0
        self.started, self.last_line = time.perf_counter(), 0.0
        self.first_steps: int | None = None
        self.bar: Bar | None = None
        if not quiet and sys.stderr.isatty():
            self.bar = Bar(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"), console=Console(stderr=True),
            )  # fmt: skip
            self.task = self.bar.add_task("train", total=self.total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, iteration: int, env_steps: int, metrics: Metrics) -> None:
        """Report an iteration."""
        if self.quiet:
            return
        now = time.perf_counter()
        note = self.note(env_steps, metrics, now)
        done = env_steps if self.env_steps else iteration
        if self.bar:
            self.bar.update(self.task, completed=min(done, self.total), note=note)
        elif now - self.last_line > PLAIN_EVERY_S or done >= self.total:
            self.last_line = now
            unit = "step" if self.env_steps else "iteration"
            print(f"{unit} {done}/{self.total}  {note}", file=sys.stderr, flush=True)

    def note(self, env_steps: int, metrics: Metrics, now: float) -> str:
        """The numbers of a line."""
        if self.first_steps is None:  # the first iteration holds warm-up; rates start after it
            self.first_steps, self.started = env_steps, now
        rate = (env_steps - self.first_steps) / max(now - self.started, 1e-9)
        prefix = "train/episode_reward_mean"
        returns = [f"{v:.1f}" for k, v in metrics.items() if k.startswith(prefix)]
        text = f"return {' -> '.join(returns[:2] + returns[-1:] if len(returns) > 3 else returns)}"
        return text + (f"  {rate / 1000:.0f}k steps/s" if rate else "")
