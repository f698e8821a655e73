"""A progress bar on a terminal, plain lines elsewhere; on stderr, so that stdout stays clean."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

PLAIN_EVERY_S = 10.0


class Line:
    """What there is to say of one run: how far it is, returns, environment steps per second.

    Args:
        iterations: All that the run is to have.
        env_steps: All that it is to have, where these end it; else 0.
    """

    def __init__(self, iterations: int, env_steps: int) -> None:
        self.by_steps = bool(env_steps)
        self.total = env_steps or iterations
        self.started = time.perf_counter()
        self.first_steps: int | None = None

    def done(self, iteration: int, env_steps: int) -> int:
        """Of the total."""
        return min(self.total, env_steps if self.by_steps else iteration)

    def note(self, env_steps: int, metrics: Mapping[str, float]) -> str:
        """Returns of an iteration, and the rate."""
        now = time.perf_counter()
        if self.first_steps is None:  # the first iteration holds warm-up; rates start after it
            self.first_steps, self.started = env_steps, now
        rate = (env_steps - self.first_steps) / max(now - self.started, 1e-9)
        prefix = "train/episode_reward_mean"
        returns = [f"{v:.1f}" for k, v in metrics.items() if k.startswith(prefix)]
        text = f"return {' -> '.join(returns[:2] + returns[-1:] if len(returns) > 3 else returns)}"
        return text + (f"  {rate / 1000:.0f}k steps/s" if rate else "")

    def plain(self, done: int, note: str) -> str:
        """For where there is no bar."""
        return f"{'step' if self.by_steps else 'iteration'} {done}/{self.total}  {note}"


def bars(first: str) -> Bars | None:
    """Bars on a terminal, after the column ``first``; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    return Bars(
        TextColumn(first), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"), console=Console(stderr=True),
    )  # fmt: skip


class Display:
    """Something with bars."""

    shown: Bars | None = None

    @contextmanager
    def on_screen(self) -> Iterator[None]:
        """Have the bars on the screen."""
        if self.shown is None:
            yield
        else:
            with self.shown:
                yield


class Progress(Display):
    """Of one run."""

    def __init__(self, iterations: int, done: int, env_steps: int, *, quiet: bool) -> None:
        self.line, self.quiet, self.last_line = Line(iterations, env_steps), quiet, 0.0
        self.shown = None if quiet else bars("training")
        if self.shown:
            done = 0 if env_steps else done
            self.task = self.shown.add_task("", total=self.line.total, completed=done, note="")

    def show(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Report an iteration."""
        if self.quiet:
            return
        done, note = self.line.done(iteration, env_steps), self.line.note(env_steps, metrics)
        now = time.perf_counter()
        if self.shown:
            self.shown.update(self.task, completed=done, note=note)
        elif now - self.last_line > PLAIN_EVERY_S or done >= self.line.total:
            self.last_line = now
            print(self.line.plain(done, note), file=sys.stderr, flush=True)


class Board(Display):
    """Of many runs: how many have ended, and a line for each that is under way."""

    def __init__(self, runs: int, *, quiet: bool) -> None:
        self.runs, self.quiet, self.ended, self.last_line = runs, quiet, 0, 0.0
        self.tasks: dict[str, TaskID] = {}
        self.lines: dict[str, Line] = {}
        self.shown = None if quiet else bars("{task.description}")
        if self.shown:
            self.all = self.shown.add_task("runs", total=runs, note="")

    def begin(self, name: str, iterations: int, env_steps: int) -> None:
        """A run is under way."""
        line = self.lines[name] = Line(iterations, env_steps)
        if self.shown:
            self.tasks[name] = self.shown.add_task(name, total=line.total, note="starting")

    def show(self, latest: Mapping[str, Mapping[str, float]]) -> None:
        """The latest row of metrics of each run under way, by name; none yet for some."""
        now = time.perf_counter()
        plain = not self.quiet and not self.shown and now - self.last_line > PLAIN_EVERY_S
        if plain:
            self.last_line = now
        for name, row in latest.items():
            line, steps = self.lines[name], int(row["env_steps"])
            done, note = line.done(int(row["iteration"]) + 1, steps), line.note(steps, row)
            if self.shown:
                self.shown.update(self.tasks[name], completed=done, note=note)
            elif plain:
                self.tell(f"{name}: {line.plain(done, note)}")

    def end(self, name: str, words: Iterable[str], how: str) -> None:
        """A run has ended, and had said something else before."""
        self.ended += 1
        del self.lines[name]
        if self.shown:
            self.shown.update(self.all, completed=self.ended)
            self.shown.remove_task(self.tasks.pop(name))
        if not self.quiet:
            words = [*words, f"{how}, {self.ended} of {self.runs} runs"]
        for line in words:
            self.tell(f"{name}: {line}")

    def tell(self, line: str) -> None:
        """A line that stays, above the bars."""
        if self.shown:
            self.shown.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)
