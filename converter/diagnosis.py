"""What `kexport doctor` finds out about this machine: Python, extras and their versions, processor, memory, disk, known-bad combinations.

The extras are those of kexport's own package metadata. Nothing that is looked for is imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kexport.converter.cpu import cpu_features, usable_threads
from kexport.converter.versions import untested_version
from kexport.runtime.contract.version import __version__

DISTRIBUTION = "kexport"
_MEMORY_INFO = Path("/proc/meminfo")
_KIBIBYTE = 1024
# `onnxruntime>=1.22; extra == "onnx"`, `kexport[onnx]; extra == "convert"`
_REQUIREMENT = re.compile(
    r"^(?P<name>[\w.-]+)(\[(?P<extras>[\w,\s-]+)\])?[^;>]*(>=(?P<least>[\d.]+))?[^;]*(;.*extra == ['\"](?P<extra>\w+)['\"])?"
)


@dataclass(frozen=True)
class Package:
    """One package that an extra needs: the version found ("" = not installed) and the least that will do ("" = any)."""

    name: str
    found: str
    least: str

    @property
    def is_fine(self) -> bool:
        """Whether it is there, and new enough."""
        return bool(self.found) and _numbers(self.found) >= _numbers(self.least)


@dataclass(frozen=True)
class Extra:
    """One extra, with every package it brings."""

    name: str
    packages: tuple[Package, ...]

    @property
    def is_installed(self) -> bool:
        """Whether all of it is there."""
        return all(package.is_fine for package in self.packages)

    @property
    def install_line(self) -> str:
        """How to get it."""
        return f'pip install "{DISTRIBUTION}[{self.name}]"'


@dataclass(frozen=True)
class Diagnosis:
    """All of it. Bytes; 0 where the system does not say. `problems`: combinations known not to work, each with its way out.
    `notes`: what is no fault, and worth knowing."""

    kexport: str
    python: str
    system: str
    cpu: tuple[str, ...]
    threads: int
    memory_available: int
    disk_free: int
    extras: tuple[Extra, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


Versions = Mapping[str, str]


def _two_onnxruntimes(versions: Versions) -> str:
    other = [name for name in ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino") if name in versions]
    if "onnxruntime" in versions and other:
        return f"onnxruntime and {other[0]} are both installed and overwrite each other's files: uninstall both, then install one"
    return ""


def _old_keras(versions: Versions) -> str:
    if os.environ.get("TF_USE_LEGACY_KERAS", "0") not in ("", "0"):
        return "TF_USE_LEGACY_KERAS is set: TensorFlow then uses Keras 2, KerasHub needs Keras 3: unset it"
    return ""


KNOWN_BAD: tuple[Callable[[Versions], str], ...] = (_two_onnxruntimes, _old_keras)


def diagnose(directory: Path) -> Diagnosis:
    """Look at this installation and this machine; `directory` tells which disk."""
    versions = {str(found.metadata["Name"]).lower().replace("_", "-"): found.version for found in importlib.metadata.distributions()}
    problems = [complaint for check in KNOWN_BAD if (complaint := check(versions))]
    extras = tuple(_extras(_requirements(), versions))
    problems += [] if extras else [f"{DISTRIBUTION} runs from a folder and is not installed: pip install . in its repository"]
    problems += [_too_old(package, extra) for extra in extras for package in extra.packages if package.found and not package.is_fine]
    return Diagnosis(
        kexport=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_features(),
        threads=usable_threads(),
        memory_available=_memory_available(),
        disk_free=shutil.disk_usage(directory).free,
        extras=extras,
        problems=tuple(dict.fromkeys(problems)),
        notes=tuple(filter(None, [untested_version()])),
    )


def _requirements() -> list[str]:
    """The requirements of the installed package; none where it runs from a folder."""
    try:
        return importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _too_old(package: Package, extra: Extra) -> str:
    return f"{package.name} {package.found} is older than {package.least}: {extra.install_line} --upgrade"


def _extras(requirements: Iterable[str], versions: Versions) -> Iterable[Extra]:
    """The extras of the package metadata; those inside each other are unfolded."""
    direct: dict[str, list[re.Match[str]]] = {}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is not None and match["extra"]:
            direct.setdefault(match["extra"], []).append(match)
    for name in direct:
        unfolded = dict.fromkeys(_unfold(name, direct))
        yield Extra(name, tuple(Package(package, versions.get(package.lower(), ""), least) for package, least in unfolded))


def _unfold(extra: str, direct: Mapping[str, list[re.Match[str]]]) -> Iterable[tuple[str, str]]:
    """(package, least version) of an extra and of those that it names in `kexport[...]`."""
    for match in direct.get(extra, []):
        if match["name"] != DISTRIBUTION:
            yield match["name"].replace("_", "-"), match["least"] or ""
            continue
        for inner in (match["extras"] or "").split(","):
            yield from _unfold(inner.strip(), direct)


def _numbers(version: str) -> tuple[int, ...]:
    """`1.22.1rc1` -> (1, 22, 1): enough for lower bounds."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _memory_available() -> int:
    if not _MEMORY_INFO.exists():
        return 0
    for line in _MEMORY_INFO.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * _KIBIBYTE
    return 0
