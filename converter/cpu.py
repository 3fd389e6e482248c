"""What this machine's processor can do, as far as numbers depend on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# Instruction sets that change which kernels, and so which rounding, a runtime uses.
TELLING = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "asimd", "asimddp", "i8mm", "bf16", "sve")
CPU_INFO = Path("/proc/cpuinfo")


def cpu_features() -> tuple[str, ...]:
    """The machine's architecture and the instruction sets of `TELLING` it has; only the architecture where the system does not say."""
    found: set[str] = set()
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                found.update(value.split())
                break
    return (platform.machine(), *(name for name in TELLING if name in found))


def usable_threads() -> int:
    """How many of the machine's threads this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
