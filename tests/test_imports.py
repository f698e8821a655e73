"""Imports point one way; the report needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "precocial"
LAYERS = [
    ["errors", "checks", "types", "seeding", "rows", "statistics"],
    ["ops"],
    ["nets", "envs"],
    ["rollout", "replay", "tracker", "checkpoint"],
    ["algos"],
    ["evaluation", "presets", "progress"],
    ["training"],
    ["library"],
    ["report", "watch", "flags"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def test_imports_point_one_way():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        own = path.relative_to(SOURCE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.ImportFrom) and node.module):
                continue
            parts = node.module.split(".")
            if parts[0] == "precocial" and len(parts) > 1 and own != "__init__":
                other = parts[1]
                if own == "ops" and other == "types":
                    continue
                if RANK[other] > RANK[own]:
                    wrong.append(f"{path.relative_to(SOURCE)} imports {node.module}")
    assert wrong == []


def test_listing_and_reporting_load_no_torch():
    code = (
        "import sys, precocial, precocial.report, precocial.envs; "
        "sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
