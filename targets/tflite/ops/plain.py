"""Ops that are one TFLite operator of the same form: a table."""

from __future__ import annotations

from collections.abc import Sequence

from kexport.graphs.ir import Node
from kexport.targets.tflite.builder import Builder
from kexport.targets.tflite.lowering import Argument, Case, Lower, lowers

UNARY = {
    "neg": "NEG",
    "abs": "ABS",
    "sqrt": "SQRT",
    "rsqrt": "RSQRT",
    "exp": "EXP",
    "log": "LOG",
    "sin": "SIN",
    "cos": "COS",
    "tanh": "TANH",
    "sigmoid": "LOGISTIC",
    "relu": "RELU",
    "not": "LOGICAL_NOT",
}
BINARY = {
    "add": "ADD",
    "sub": "SUB",
    "mul": "MUL",
    "div": "DIV",
    "pow": "POW",
    "max": "MAXIMUM",
    "min": "MINIMUM",
    "lt": "LESS",
    "le": "LESS_EQUAL",
    "eq": "EQUAL",
    "and": "LOGICAL_AND",
    "or": "LOGICAL_OR",
}
POSITIVE_ONLY = {"sqrt", "rsqrt", "log"}
ON_BOOL = {"not", "and", "or"}
BROADCAST = ((1, 2, 3), (2, 1))


def _unary(form: str) -> Lower:
    def lower(node: Node, b: Builder) -> None:
        b.set(node.output, b.unary(form, b.value(node.input(0))))

    return lower


def _binary(form: str) -> Lower:
    def lower(node: Node, b: Builder) -> None:
        left, right = (b.value(name) for name in node.inputs)
        b.set(node.output, b.binary(form, left, right, b.type_of(node.output).dtype))

    return lower


def _arguments(op: str, shapes: Sequence[tuple[int, ...]]) -> list[Argument]:
    if op in ON_BOOL:
        return [Argument(shape, "bool", values="bool") for shape in shapes]
    positive = op in POSITIVE_ONLY | {"div", "pow"}
    return [Argument(shape, values="positive" if positive else "normal") for shape in shapes]


for _op, _form in UNARY.items():
    lowers(_op, cases=[Case("three axes", _arguments(_op, [(1, 2, 3)]), expect=(_form,))])(_unary(_form))
for _op, _form in BINARY.items():
    _cases = [Case("broadcast", _arguments(_op, BROADCAST), expect=(_form,))]
    if _op not in ON_BOOL | {"pow"}:
        _integers = [Argument(shape, "int32", values="positive", limit=7) for shape in BROADCAST]
        _cases.append(Case("integers", _integers, expect=(_form,)))
    lowers(_op, cases=_cases)(_binary(_form))
