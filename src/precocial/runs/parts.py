"""State that only grows: files of a run folder that are written once, each with its checksum.

A checkpoint names the parts it stands on. A part that holds rows which were undone is written again
under another name, so that the checkpoint before can still be read until the new one is whole.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from precocial.runs import checkpoint
from precocial.types import Growing


class Parts:
    """The rows of a ``Growing``, in files ``FIRST-END.safetensors`` of a folder."""

    def __init__(self, folder: Path, grown: Growing) -> None:
        self.folder, self.grown = folder, grown
        self.first, self.ends = 0, list[int]()
        """Number of the first row of the first part, and of the first row after each."""
        self.stale = True  # whether files may lie there that nothing stands on

    def load(self, first: int, ends: list[int], device: str) -> None:
        """Read the parts from row ``first`` on, which end after so many rows.

        Raises:
            UserError: one is missing or damaged.
        """
        self.first, self.ends = first, list(ends)
        for end, path in zip(self.ends, self.paths(), strict=True):
            rows = checkpoint.load(path, device)
            missing = end - len(self.grown) - len(next(iter(rows.values())))
            if missing:  # rows that were dropped before they were saved
                self.grown.skip(len(self.grown) + missing)
            self.grown.extend(rows)

    def save(self) -> tuple[int, list[int]]:
        """Write the rows that no part holds yet; where the parts begin and end.

        Parts of rows that are not asked for any more are left behind.
        """
        while self.ends and self.ends[-1] > len(self.grown):
            self.ends.pop()
            self.stale = True
        start = self.ends[-1] if self.ends else self.first
        if len(self.grown) > start:
            self.ends.append(len(self.grown))
            try:
                checkpoint.save(self.path(start, self.ends[-1]), self.grown.rows(start))
            except BaseException:
                self.ends.pop()
                raise
        while len(self.ends) > 1 and self.ends[0] <= self.grown.oldest:
            self.first = self.ends.pop(0)
            self.stale = True
        return self.first, list(self.ends)

    def tidy(self) -> None:
        """Remove what no checkpoint stands on any more, where there may be such."""
        if self.stale:
            for path in {*self.folder.glob("*.safetensors")} - {*self.paths()}:
                path.unlink(missing_ok=True)
            self.stale = False

    def paths(self) -> list[Path]:
        """The files, first rows first."""
        return [self.path(*rows) for rows in pairwise([self.first, *self.ends])]

    def path(self, start: int, end: int) -> Path:
        """The file of these rows."""
        return self.folder / f"{start}-{end}.safetensors"
