"""Pages made from code are those of this code."""

from __future__ import annotations

import json
from pathlib import Path

from kexport.graphs.ops import OPS
from kexport.graphs.ops_page import page
from kexport.runtime.contract.manifest import FORMAT_VERSION, Manifest
from kexport.runtime.contract.schema import schema_text

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_ops_is_current() -> None:
    """Write it again with `python -m kexport.graphs.ops_page docs/ops.md`."""
    assert (DOCS / "ops.md").read_text(encoding="utf-8") == page()


def test_every_op_stands_on_the_page() -> None:
    """With its summary, intrinsics and plain ops apart."""
    intrinsics, _, plain = page().partition("## Plain ops")
    for spec in OPS.values():
        place, other = (intrinsics, plain) if spec.intrinsic else (plain, intrinsics)
        assert f"| `{spec.name}` |" in place and f"| `{spec.name}` |" not in other


def test_the_manifests_schema_is_current() -> None:
    """Write it again with `python -m kexport.runtime.contract.schema docs/kexport.schema.json`."""
    assert (DOCS / "kexport.schema.json").read_text(encoding="utf-8") == schema_text()


def test_the_schema_is_as_strict_as_the_reader() -> None:
    """Unknown keys are refused in every record, and every field of the manifest is described."""
    schema = json.loads(schema_text())
    records = schema["$defs"]
    assert str(FORMAT_VERSION) in schema["title"]
    assert set(records["Manifest"]["properties"]) == set(Manifest.__struct_fields__)
    assert all(record["additionalProperties"] is False for record in records.values())
