"""The numbers of the file format are those of the schema that ships with LiteRT."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema
from kexport.targets.tflite.schema import OPERATORS, OPTIONS, TENSOR_TYPES

SOURCE = Path(schema.__file__).read_text(encoding="utf-8")


def described(table: str) -> dict[str, tuple[str, int]]:
    """Field -> (kind, slot) as the generated code writes them."""
    pattern = rf"^def {table}Add(\w+)\(builder, \w+\):\s*\n\s*(?:return )?builder\.Prepend(\w+)Slot\((\d+),"
    return {name.lower(): (kind, int(slot)) for name, kind, slot in re.findall(pattern, SOURCE, re.MULTILINE)}


@pytest.mark.parametrize("form", OPERATORS)
def test_operator_codes(form: str) -> None:
    """A wrong code would be another operator."""
    assert OPERATORS[form].code == getattr(schema.BuiltinOperator, form)
    assert OPERATORS[form].options in {"", *OPTIONS}


@pytest.mark.parametrize("table", OPTIONS)
def test_option_tables(table: str) -> None:
    """The union's number, and every field's slot and kind."""
    assert OPTIONS[table].union == getattr(schema.BuiltinOptions, table)
    known = described(table)
    for name, field in OPTIONS[table].fields.items():
        kind, slot = known[name.replace("_", "")]
        assert slot == field.slot, name
        assert kind.lower() == {"ints": "uoffsettrelative"}.get(field.kind, field.kind), name


@pytest.mark.parametrize("dtype", TENSOR_TYPES)
def test_tensor_types(dtype: str) -> None:
    """Element types by number."""
    assert TENSOR_TYPES[dtype] == getattr(schema.TensorType, dtype.upper())


@pytest.mark.parametrize(
    ("table", "slots"),
    [
        ("Model", {"Version": 0, "OperatorCodes": 1, "Subgraphs": 2, "Description": 3, "Buffers": 4, "SignatureDefs": 7}),
        ("OperatorCode", {"DeprecatedBuiltinCode": 0, "Version": 2, "BuiltinCode": 3}),
        ("SubGraph", {"Tensors": 0, "Inputs": 1, "Outputs": 2, "Operators": 3, "Name": 4}),
        ("Tensor", {"Shape": 0, "Type": 1, "Buffer": 2, "Name": 3, "HasRank": 8}),
        ("Buffer", {"Data": 0, "Offset": 1, "Size": 2}),
        ("Operator", {"OpcodeIndex": 0, "Inputs": 1, "Outputs": 2, "BuiltinOptionsType": 3, "BuiltinOptions": 4}),
        ("SignatureDef", {"Inputs": 0, "Outputs": 1, "SignatureKey": 2, "SubgraphIndex": 4}),
        ("TensorMap", {"Name": 0, "TensorIndex": 1}),
    ],
)
def test_tables_of_the_model(table: str, slots: dict[str, Any]) -> None:
    """The slots that model_file.py writes."""
    known = described(table)
    assert {name: known[name.lower()][1] for name in slots} == slots
