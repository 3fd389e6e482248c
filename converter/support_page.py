"""docs/support.md: what the tests of families found, rendered from the data that they wrote (docs/support.json). No cell is written by hand.

python -m kexport.converter.support_page docs/support.json docs/support.md
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kexport import targets
from kexport.converter.refusals import REFUSALS
from kexport.runtime.contract.manifest import Fusion, Manifest

Row = dict[str, Any]
GUARDED = ("verdict", "layers", "fusable", "fused", "forms", "experts", "runtimes", "warnings")  # what a run must give again exactly
_HEAD = """# Support

This page is rendered from [support.json](support.json), which `make support` writes: small models of every family are converted for every target, and each
written artifact gives the tokens of KerasHub's own `generate()`: greedy on a ragged batch, single rows, prompts in pieces and a full cache, seeded draws, and texts for one model
of a class. Every sampler: [samplers.md](samplers.md). A test fails where
a family of the installed KerasHub is neither here nor refused by name below, and where a run disagrees with this page.

**fused / fusable / all**: attention and recurrent layers that run as one operator of the engine over a cache in place; those whose form the target has such an
operator for; all of them. **logits**: the largest difference to the original's, in millionths of the spread of its logits at that step (the bound is 100).
**tokens**: compared and equal.
"""


def row_of(variant: str, family: str, manifest: Manifest) -> Row:
    """What a proven artifact says of itself, in the page's terms."""
    certificate = manifest.parity
    return {
        "variant": variant,
        "family": family,
        "class": manifest.source.class_name,
        "target": manifest.target,
        "verdict": certificate.verdict,
        "tokens_compared": certificate.tokens_compared,
        "tokens_equal": certificate.tokens_equal,
        "logit_share": max((case.max_logit_share for case in certificate.cases), default=0.0),
        "layers": len(manifest.fusions),
        "fusable": sum(fusion.fusable for fusion in manifest.fusions),
        "fused": sum(fusion.fused for fusion in manifest.fusions),
        "forms": _forms(manifest.fusions),
        "experts": dict(sorted(Counter(f"{one.form}{'' if one.sparse else ' (all experts are read)'}" for one in manifest.experts).items())),
        "runtimes": {runtime.name: "" if runtime.accepted else runtime.reason for runtime in manifest.runtimes},
        "warnings": list(certificate.warnings),
    }


def _forms(fusions: Iterable[Fusion]) -> dict[str, int]:
    """Form -> layers; of plain ones with the reason."""
    counts = Counter(fusion.form if fusion.fused else f"{fusion.form}: {fusion.reason}" for fusion in fusions)
    return dict(sorted(counts.items()))


def render(rows: list[Row]) -> str:
    """The page."""
    parts = [_HEAD, "## Families\n", *_families(rows), "## Layers that a target has no fused form for\n", *_tables(rows), "## Vendors' runtimes\n"]
    parts += [*_runtimes(rows), "## Mixtures of experts\n", *_experts(rows), "## Originals that contradict themselves\n", *_warnings(rows)]
    parts += ["## Refused by name\n", "| KerasHub class | it | instead |\n|---|---|---|"]
    parts += [f"| `{name}` | {refusal.what} | {refusal.hint} |" for name, refusal in sorted(REFUSALS.items())]
    return "\n".join(parts) + "\n"


def _by_target(rows: list[Row]) -> Mapping[tuple[str, str], dict[str, Row]]:
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in sorted(rows, key=lambda row: (row["family"], row["variant"], row["target"])):
        found.setdefault((row["family"], row["variant"]), {})[row["target"]] = row
    return found


def _families(rows: list[Row]) -> list[str]:
    names = targets.known()
    lines = ["| family | model | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for (family, variant), cells in _by_target(rows).items():
        shown = [_cell(cells[name]) if name in cells else "not tested" for name in names]
        lines.append(f"| {family} (`{next(iter(cells.values()))['class']}`) | {variant} | " + " | ".join(shown) + " |")
    return [*lines, ""]


def _cell(row: Row) -> str:
    tokens = f"{row['tokens_equal']}/{row['tokens_compared']}"
    return f"{row['fused']}/{row['fusable']}/{row['layers']} fused, logits {1e6 * row['logit_share']:.2g}, {tokens} tokens"


def _tables(rows: list[Row]) -> list[str]:
    lines = ["Each target's own table, by which its lowering decides; and the families above that have such layers.", ""]
    for name in targets.known():
        lines += [f"**{name}**", "", "| form | families |", "|---|---|"]
        for reason in importlib.import_module(f"kexport.targets.{name}.unfusable").TABLE:
            found = sorted({row["family"] for row in rows if row["target"] == name and any(form.endswith(reason) for form in row["forms"])})
            lines.append(f"| {reason} | {', '.join(found) or '(none of those above)'} |")
        lines.append("")
    return lines


def _runtimes(rows: list[Row]) -> list[str]:
    """Runtime -> the models it takes, and those it does not, by reason."""
    taken: dict[str, set[str]] = {}
    refused: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for runtime, reason in row["runtimes"].items():
            if reason:
                refused.setdefault((runtime, reason), set()).add(row["variant"])
            else:
                taken.setdefault(runtime, set()).add(row["variant"])
    lines = ["| runtime | runs unmodified |", "|---|---|", *(f"| {name} | {', '.join(sorted(found))} |" for name, found in sorted(taken.items())), ""]
    lines += ["| runtime | does not take, because | models |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {reason} | {', '.join(sorted(found))} |" for (name, reason), found in sorted(refused.items())), ""]


def _experts(rows: list[Row]) -> list[str]:
    lines = ["| model | target | form of its layers |", "|---|---|---|"]
    with_experts = [row for row in rows if row["experts"]]
    for row in sorted(with_experts, key=lambda row: (row["variant"], row["target"])):
        lines.append(f"| {row['variant']} | {row['target']} | " + ", ".join(f"{count} x {form}" for form, count in row["experts"].items()) + " |")
    return [*lines, ""]


def _warnings(rows: list[Row]) -> list[str]:
    found: dict[str, set[str]] = {}
    for row in rows:
        for warning in row["warnings"]:
            found.setdefault(warning, set()).add(row["variant"])
    if not found:
        return ["None of these models.", ""]
    return ["| model | what the certificate says |", "|---|---|", *(f"| {', '.join(sorted(models))} | {text} |" for text, models in sorted(found.items())), ""]


def main() -> None:
    """Render the page from its data."""
    source, page = sys.argv[1:]
    Path(page).write_text(render(json.loads(Path(source).read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
