"""What the processor is; MKL, which computes for PyTorch, is slow on those of AMD."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

AMD = CPUINFO.is_file() and "AuthenticAMD" in CPUINFO.read_text(encoding="utf-8")
