"""Pages made from code are those of this code."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from kexport import targets
from kexport.converter.families import FAMILIES
from kexport.converter.support_page import render
from kexport.graphs.ops import OPS
from kexport.graphs.ops_page import page
from kexport.runtime.contract.manifest import FORMAT_VERSION, Manifest
from kexport.runtime.contract.schema import schema_text

from tests.zoo import ZOO

DOCS = Path(__file__).parents[2] / "docs"
SEEDS = ("bart", "bloom", "gemma", "gemma2", "mistral")  # of tests/parity/test_matrix.py


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


def test_the_page_of_support_is_what_its_data_render_to() -> None:
    """Write both with `make support`: the data come from the tests of families, the page from the data."""
    rows = json.loads((DOCS / "support.json").read_text(encoding="utf-8"))
    assert render(rows) == (DOCS / "support.md").read_text(encoding="utf-8")


def test_every_model_of_the_tests_is_on_the_page_with_every_target() -> None:
    """No cell is missing, none is left over, and everything that a target can fuse is fused."""
    rows = json.loads((DOCS / "support.json").read_text(encoding="utf-8"))
    expected = {*ZOO, *(f"{family} (seed)" for family in SEEDS)}
    assert {(row["variant"], row["target"]) for row in rows} == {(variant, target) for variant in expected for target in targets.known()}
    assert {row["family"] for row in rows} == {family.name for family in FAMILIES}
    assert all(row["fused"] == row["fusable"] and row["tokens_equal"] == row["tokens_compared"] > 0 and row["verdict"] == "proven" for row in rows)


def test_no_reason_stands_outside_a_targets_table() -> None:
    """A layer that is not fused says a line of its target's table: there is no other excuse."""
    rows = json.loads((DOCS / "support.json").read_text(encoding="utf-8"))
    for row in rows:
        table = importlib.import_module(f"kexport.targets.{row['target']}.unfusable").TABLE
        plain = sum(count for form, count in row["forms"].items() if any(form.endswith(reason) for reason in table))
        assert plain == row["layers"] - row["fused"], row
