"""Imports point one way; listing and the report need no torch."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "precocial"
LAYERS = [
    [
        "errors",
        "checks",
        "processor",
        "signals",
        "threads",
        "types",
        "seeding",
        "statistics",
        "flags",
    ],
    ["ops"],
    ["nets", "envs", "bridges"],
    ["rollout", "replay", "task_replay"],
    ["algos"],
    ["presets"],
    ["runs"],
    ["evaluation"],
    ["training"],
    ["stacking"],
    ["transferring"],
    ["report", "watching", "agent"],
    ["exporting"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ROOMS = [f"algos.{branch}" for branch in ("gradient", "memory", "model")]
ROOMS += [f"envs.{kind}" for kind in ("classic", "grid", "control", "mujoco", "own")]
ROOMS += ["report", "watching", "agent"]
"""Neighbours that know nothing of each other."""


def imports():
    """Pairs of a module and one that it imports, without the package's name."""
    for path in SOURCE.rglob("*.py"):
        own = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                package, _, other = node.module.partition(".")
                if package == "precocial" and other and own != "__init__":
                    yield own, other


def test_imports_point_one_way():
    pairs = set(imports())
    assert {"runs.plan", "algos.model.grbal"} <= {own for own, _ in pairs}
    wrong = [p for p in pairs if RANK[p[1].split(".")[0]] > RANK[p[0].split(".")[0]]]
    assert wrong == []


def test_neighbours_know_nothing_of_each_other():
    def room(module):
        return next((r for r in ROOMS if f"{module}.".startswith(f"{r}.")), None)

    crossing = [
        (own, other)
        for own, other in imports()
        if room(own) and room(other) and room(own) != room(other)
    ]
    assert crossing == []


def test_listing_and_reporting_load_no_torch():
    code = (
        "import sys, precocial, precocial.report, precocial.envs, precocial.presets; "
        "sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
