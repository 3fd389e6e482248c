"""What the figures depend on: the machine and the libraries. No host name, no path."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kexport.converter.cpu import CPU_INFO, cpu_features, usable_threads

LIBRARIES = (
    "kexport", "onnxruntime", "onnxruntime-genai", "openvino", "openvino-genai", "ai-edge-litert", "litert-lm", "tensorflow", "keras", "keras-hub",
    "numpy",
)  # fmt: skip
LAST_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Machine:
    """Facts of the machine; empty or 0 where the system does not say. `load_average`: of the last minute, before the first round."""

    processor: str
    features: tuple[str, ...]
    usable_threads: int
    last_cache: str
    memory_mb: int
    system: str
    python: str
    load_average: float
    libraries: dict[str, str]


def this_machine() -> Machine:
    """The facts of the machine that runs this."""
    return Machine(
        processor=_processor(),
        features=cpu_features(),
        usable_threads=usable_threads(),
        last_cache=LAST_CACHE.read_text(encoding="ascii").strip() if LAST_CACHE.exists() else "",
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MEGABYTE,
        system=platform.system(),
        python=platform.python_version(),
        load_average=round(os.getloadavg()[0], 2),
        libraries={name: found for name in LIBRARIES if (found := _version(name))},
    )


def _processor() -> str:
    if not CPU_INFO.exists():
        return platform.processor()
    lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
