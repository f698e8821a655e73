"""Many runs, so many at once: each a process of its own on an ordinary run folder.

The processes are told nothing but their folder and tell nothing but their metrics: what is shown is
read from the files that every run writes. So there is nothing to lose. A run that is killed, or all
of them with this process, goes on from its checkpoint when it is started again, and one that fails
is named when the others have ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from precocial.runs.folder import create_folder, read_plan
from precocial.runs.plan import Plan
from precocial.runs.progress import Board
from precocial.runs.rows import last_row
from precocial.types import UserError

LOOK_EVERY_S = 0.2
TAIL = 2**14
"""Bytes of what a run says that are read when it has ended: an environment may print every step."""
LINES = 20


def prepare(runs: Sequence[tuple[Plan, Path]]) -> list[Path]:
    """Make the folders that are missing; those that are there go on.

    Raises:
        UserError: a folder holds another run. Then none was made.
    """
    for p, folder in runs:
        if folder.exists() and read_plan(folder) != p:
            raise UserError(
                f"{folder} is a run with other settings; choose another folder, or remove it"
            )
    for p, folder in runs:
        if not folder.exists():
            create_folder(p, folder, overwrite=False)
    return [folder for _, folder in runs]


def run_all(
    folders: Sequence[Path], *, jobs: int, iterations: int | None = None, quiet: bool = False
) -> dict[Path, str]:
    """Train the runs in ``folders`` from where they stand to their ends.

    Args:
        folders: Run folders, started in this order.
        jobs: How many at once.
        iterations: Go on to so many outer iterations instead of those of their settings.
        quiet: No progress output.

    Returns:
        What stopped the runs that failed, by folder; nothing if all reached their ends.

    Raises:
        UserError: a folder that is no run, before any is started.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after all that were under way have saved.
    """
    plans = {folder: read_plan(folder) for folder in folders}
    names = _names(folders)
    waiting, active, failures = list(folders), dict[Path, Job](), dict[Path, str]()
    board = Board(len(folders), quiet=quiet)
    with board.on_screen():
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    folder = waiting.pop(0)
                    run = plans[folder].run
                    board.begin(names[folder], iterations or run.iterations, run.env_steps)
                    active[folder] = Job.start(folder, iterations)
                time.sleep(LOOK_EVERY_S)
                rows = {names[f]: last_row(f / "metrics.jsonl") for f in active}
                board.show({name: row for name, row in rows.items() if row})
                for folder in [f for f, job in active.items() if job.process.poll() is not None]:
                    error, words = active.pop(folder).ended()
                    if error:
                        failures[folder] = error
                    board.end(names[folder], words, "failed" if error else "done")
        finally:
            for job in active.values():  # on the way out: they save and end
                job.process.terminate()
            for job in active.values():
                job.ended()
    return failures


@dataclass
class Job:
    """One run under way."""

    process: subprocess.Popen[bytes]
    said: IO[bytes]
    """What it writes to stderr."""

    @classmethod
    def start(cls, folder: Path, iterations: int | None) -> Job:
        """Nothing is written to its stdin; where that is closed we are gone, and the run ends.

        It finds the modules that we find: none in the current folder but by our path (``-P``).
        """
        words = ["-P", "-m", "precocial.cli", "job", str(folder.absolute())]
        words += ["--iterations", str(iterations)] if iterations else []
        said = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=said, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        return cls(process, said)

    def ended(self) -> tuple[str, list[str]]:
        """Wait for its end: what stopped it, if anything did, and the last that it said else."""
        code = self.process.wait()
        assert self.process.stdin
        self.process.stdin.close()
        self.said.seek(max(0, self.said.seek(0, os.SEEK_END) - TAIL))
        lines = self.said.read().decode(errors="replace").splitlines()[-LINES:]
        self.said.close()
        if code == 0:
            return "", lines
        if code < 0 or not lines:
            return f"ended by signal {-code}" if code < 0 else f"exit code {code}", lines
        return lines[-1].removeprefix("precocial: "), lines[:-1]


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Short names: where all lie in one folder, without it."""
    one = len({folder.parent for folder in folders}) == 1
    return {folder: folder.name if one else str(folder) for folder in folders}
