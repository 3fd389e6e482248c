"""Each proven cell agrees with docs/support.json; `make support` writes it instead (the environment variable names the file)."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from kexport.converter.support_page import GUARDED, row_of
from kexport.runtime.contract.manifest import Manifest

WRITE_TO = "KEXPORT_SUPPORT_DATA"
COMMITTED = Path(__file__).parents[2] / "docs" / "support.json"
ROUNDING = 20  # logit differences are rounding: they move with the machine, not by more than this
BOUND = 1e-4


def check_cell(variant: str, family: str, manifest: Manifest) -> None:
    """The cell's row is the committed one, figures of rounding aside; or it is written."""
    row = row_of(variant, family, manifest)
    assert 0 <= row["logit_share"] <= BOUND
    assert row["fused"] == row["fusable"], f"{variant} on {row['target']} has layers that could be fused: {row['forms']}"
    if os.environ.get(WRITE_TO):
        _write(Path(os.environ[WRITE_TO]), row)
        return
    committed = next((one for one in rows_of(COMMITTED) if (one["variant"], one["target"]) == (variant, row["target"])), None)
    assert committed is not None, f"docs/support.json knows no {variant} on {row['target']}: `make support` writes it"
    assert _guarded(row) == _guarded(committed)
    assert row["logit_share"] <= max(ROUNDING * committed["logit_share"], BOUND / ROUNDING)
    assert (row["tokens_compared"], row["tokens_equal"]) == (committed["tokens_compared"], committed["tokens_equal"])


def _guarded(row: dict[str, Any]) -> dict[str, Any]:
    """What a run must give again; numbers in warnings are measured, and move."""
    return {key: row[key] for key in GUARDED} | {"warnings": [re.sub(r"[\d.]+(e[-+]\d+)?", "#", warning) for warning in row["warnings"]]}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a data file, none where it does not exist."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def _write(path: Path, row: dict[str, Any]) -> None:
    others = [one for one in rows_of(path) if (one["variant"], one["target"]) != (row["variant"], row["target"])]
    rows = sorted([*others, row], key=lambda one: (one["family"], one["variant"], one["target"]))
    path.write_text("[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in rows) + "\n]\n", encoding="utf-8")
