"""Graph ops that are one ONNX operator with the same inputs, as one table."""

from __future__ import annotations

from dataclasses import dataclass

from kexport.graphs.ir import Node
from kexport.targets.onnx.builder import Builder
from kexport.targets.onnx.lowering import Argument, Case, lowers

_ROWS, _COLUMNS, _DEPTH = 3, 4, 5
_SHAPE = (2, _ROWS, _COLUMNS)
_X = Argument(_SHAPE)
_POSITIVE = Argument(_SHAPE, values="positive")
_FLAGS = Argument(_SHAPE, "bool", values="bool")
_COLUMN = Argument((_ROWS, 1), values="positive")
_INTEGERS = (
    Argument(_SHAPE, "int32", values="ids", limit=_DEPTH),
    Argument((_COLUMNS,), "int32", values="ids", limit=_DEPTH),
)


@dataclass(frozen=True, slots=True)
class Group:
    """Ops of one kind: graph op -> operator, the arguments they are tested with, and those of a second case, if any."""

    operators: dict[str, str]
    arguments: tuple[Argument, ...]
    more: tuple[Argument, ...] = ()


GROUPS = (
    Group({"sqrt": "Sqrt", "log": "Log"}, (_POSITIVE,)),
    Group({"neg": "Neg", "abs": "Abs", "exp": "Exp", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "erf": "Erf", "relu": "Relu"}, (_X,)),
    Group({"sigmoid": "Sigmoid", "softplus": "Softplus"}, (_X,)),
    Group({"add": "Add", "sub": "Sub", "mul": "Mul", "max": "Max", "min": "Min"}, (_X, _COLUMN), _INTEGERS),
    Group({"div": "Div"}, (_X, _COLUMN)),
    Group({"pow": "Pow"}, (_POSITIVE, Argument((_COLUMNS,)))),
    Group({"lt": "Less", "le": "LessOrEqual", "eq": "Equal"}, (_X, _COLUMN), _INTEGERS),
    Group({"and": "And", "or": "Or"}, (_FLAGS, Argument((_COLUMNS,), "bool", values="bool"))),
    Group({"not": "Not"}, (_FLAGS,)),
    Group({"where": "Where"}, (_FLAGS, _X, Argument((1,)))),
    Group({"matmul": "MatMul"}, (_X, Argument((_COLUMNS, _DEPTH)))),
)
PLAIN = {op: operator for group in GROUPS for op, operator in group.operators.items()}


def _lower(node: Node, b: Builder) -> None:
    type_ = b.type_of(node.output)
    b.set(node.output, b.op(PLAIN[node.op], [b.value(name) for name in node.inputs], type_.dtype, type_.shape))


for _group in GROUPS:
    for _op, _operator in _group.operators.items():
        _cases = [Case(f"{_op} is {_operator}", _group.arguments, expect=(_operator,))]
        if _group.more:
            _cases.append(Case(f"{_op} of integers", _group.more, expect=(_operator,)))
        lowers(_op, cases=_cases)(_lower)
