"""Graph ops that are one ONNX operator with the same inputs, as one table."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.targets.onnx.builder import Builder
from kexport.targets.onnx.lowering import Argument, Case, lowers

FLOATS = {
    "sqrt": "Sqrt", "log": "Log",
}  # fmt: skip
UNARY = {
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "sigmoid": "Sigmoid",
    "softplus": "Softplus", "relu": "Relu", "erf": "Erf",
}  # fmt: skip
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "max": "Max", "min": "Min", "matmul": "MatMul"}
COMPARE = {"lt": "Less", "le": "LessOrEqual", "eq": "Equal"}
LOGICAL = {"and": "And", "or": "Or", "not": "Not"}
OTHER = {"where": "Where"}
PLAIN = FLOATS | UNARY | BINARY | COMPARE | LOGICAL | OTHER

_ROWS, _COLUMNS, _DEPTH = 3, 4, 5
_SHAPE = (2, _ROWS, _COLUMNS)


def _arguments(op: str) -> list[Argument]:
    if op in FLOATS:
        return [Argument(_SHAPE, values="positive")]
    if op in UNARY:
        return [Argument(_SHAPE)]
    if op == "matmul":
        return [Argument(_SHAPE), Argument((_COLUMNS, _DEPTH))]
    if op == "pow":
        return [Argument(_SHAPE, values="positive"), Argument((_COLUMNS,))]
    if op in BINARY or op in COMPARE:
        return [Argument(_SHAPE), Argument((_ROWS, 1), values="positive")]
    if op == "not":
        return [Argument(_SHAPE, "bool", values="bool")]
    if op in LOGICAL:
        return [Argument(_SHAPE, "bool", values="bool"), Argument((_COLUMNS,), "bool", values="bool")]
    return [Argument(_SHAPE, "bool", values="bool"), Argument(_SHAPE), Argument((1,))]


def _lower(node: Node, b: Builder) -> None:
    type_ = b.type_of(node.output)
    b.set(node.output, b.op(PLAIN[node.op], [b.value(name) for name in node.inputs], type_.dtype, type_.shape))


for _op, _operator in PLAIN.items():
    _cases = [Case(f"{_op} is {_operator}", _arguments(_op), expect=(_operator,))]
    if _op in ("add", "sub", "mul", "max", "min", *COMPARE):
        _integers = [Argument(_SHAPE, "int32", values="ids", limit=_DEPTH), Argument((_COLUMNS,), "int32", values="ids", limit=_DEPTH)]
        _cases.append(Case(f"{_op} of integers", _integers, expect=(_operator,)))
    lowers(_op, cases=_cases)(_lower)
