"""The file that an environment of one's own was written in, as it was when a run was trained."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def source_file(env: str) -> dict[str, str] | None:
    """Where the imported module of ``module:Class`` lies, and its SHA-256.

    None of what has no source file of its own: a Gymnasium id, or a module that is not loaded.
    """
    module, colon, _ = env.partition(":")
    place = getattr(sys.modules.get(module), "__file__", None) if colon else None
    if place is None or not Path(place).is_file():
        return None
    path = Path(place).resolve()
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def warn_if_changed(env: str, trained: dict[str, str] | None) -> None:
    """Say on stderr that a run goes on with another source file than it was trained with."""
    now = source_file(env)
    if trained and now and now["sha256"] != trained["sha256"]:
        what = "has changed since" if now["file"] == trained["file"] else "is another file than"
        print(
            f"precocial: {now['file']} {what} the one that {env} was trained with "
            f"({trained['file']}); results may be those of another environment",
            file=sys.stderr,
        )
