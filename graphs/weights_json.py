"""Weight expressions in JSON: a tree with a named parameter at every leaf.

    {"kind": "concatenated", "axis": 1, "of": [{"kind": "parameter", "name": "q.kernel", "dtype": "float32", "shape": [32, 32]}, ...]}

A transform is read back through the method that makes it, which checks shapes again. A new kind of weight is one more `Kind` below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kexport.graphs.weights import Casted, Concatenated, Padded, Parameter, Reshaped, Shifted, Sliced, Transposed, Weight, concatenate
from kexport.runtime.contract.dtypes import element_type
from kexport.runtime.contract.errors import InternalError, KexportError

DEEPEST = 64  # transforms within transforms; kexport writes fewer than ten


@dataclass(frozen=True, slots=True)
class Kind:
    """How one class of weights is written and read. `read` gets the tree and the operands already read."""

    weight: type[Weight]
    write: Callable[[Any], dict[str, Any]]
    read: Callable[[dict[str, Any], tuple[Weight, ...]], Weight]


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(size) is not int or size < 0 for size in value):
        raise ValueError(f"{value!r} is no list of sizes")
    return tuple(value)


def _parameter(tree: dict[str, Any], operands: tuple[Weight, ...]) -> Weight:
    name, dtype = tree["name"], tree["dtype"]
    if not isinstance(name, str) or not name or not isinstance(dtype, str) or operands:
        raise ValueError(f"{tree!r} is no parameter")
    return Parameter(_sizes(tree["shape"]), _known(dtype), name)


def _known(dtype: str) -> str:
    try:
        return element_type(dtype).name
    except KexportError as error:
        raise ValueError(error.message) from error


def _pairs(value: Any) -> tuple[tuple[int, int], ...]:
    pairs = [_sizes(pair) for pair in value]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{value!r} is no list of paddings")
    return tuple((before, after) for before, after in pairs)


def _permutation(tree: dict[str, Any], of: Weight) -> tuple[int, ...]:
    permutation = _sizes(tree["permutation"])
    if sorted(permutation) != list(range(len(of.shape))):
        raise ValueError(f"{permutation} is no order of the axes of {of.label}")
    return permutation


def _axis(tree: dict[str, Any], of: Weight) -> int:
    (axis,) = _sizes([tree["axis"]])
    if axis >= len(of.shape):
        raise ValueError(f"{of.label} has no axis {axis}")
    return axis


def _sliced(tree: dict[str, Any], of: Weight) -> Weight:
    start, stop, step = _sizes([tree["start"], tree["stop"], tree["step"]])
    axis = _axis(tree, of)
    if not 0 <= start < stop <= of.shape[axis] or step < 1:
        raise ValueError(f"axis {axis} of {of.label} has no places {start}:{stop}:{step}")
    return of.slice(axis, start, stop, step)


KINDS: dict[str, Kind] = {
    "parameter": Kind(Parameter, lambda w: {"name": w.name, "dtype": w.dtype, "shape": list(w.shape)}, _parameter),
    "transposed": Kind(
        Transposed,
        lambda w: {"permutation": list(w.permutation)},
        lambda tree, operands: operands[0].transpose(_permutation(tree, operands[0])),
    ),
    "reshaped": Kind(Reshaped, lambda w: {"shape": list(w.shape)}, lambda tree, operands: operands[0].reshape(_sizes(tree["shape"]))),
    "casted": Kind(Casted, lambda w: {"dtype": w.dtype}, lambda tree, operands: operands[0].cast(_known(tree["dtype"]))),
    "shifted": Kind(Shifted, lambda w: {"offset": w.offset}, lambda tree, operands: operands[0].plus(float(tree["offset"]))),
    "sliced": Kind(
        Sliced,
        lambda w: {"axis": w.axis, "start": w.start, "stop": w.stop, "step": w.step},
        lambda tree, operands: _sliced(tree, operands[0]),
    ),
    "padded": Kind(
        Padded,
        lambda w: {"before_after": [list(pair) for pair in w.before_after]},
        lambda tree, operands: operands[0].pad(_pairs(tree["before_after"])),
    ),
    "concatenated": Kind(Concatenated, lambda w: {"axis": w.axis}, lambda tree, operands: concatenate(operands, _axis(tree, operands[0]))),
}
_NAMES = {kind.weight: name for name, kind in KINDS.items()}


def expression(weight: Weight) -> dict[str, Any]:
    """The weight as a tree of JSON values.

    Raises:
        InternalError: a class of weights that is not in the table.
    """
    name = _NAMES.get(type(weight))
    if name is None:
        raise InternalError("KX909", f"weight {weight.label}: {type(weight).__name__} has no form in the graph's file")
    tree = {"kind": name, **KINDS[name].write(weight)}
    if operands := _operands(weight):
        tree["of"] = [expression(operand) for operand in operands]
    return tree


def weight_of(tree: Any, depth: int = 0) -> Weight:
    """The weight of a tree.

    Raises:
        ValueError: unknown kind, missing fields, or shapes that do not fit.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("kind"), str) or tree["kind"] not in KINDS or depth > DEEPEST:
        raise ValueError(f"no weight expression: {str(tree)[:80]}")
    kind = KINDS[tree["kind"]]
    operands = tuple(weight_of(operand, depth + 1) for operand in tree.get("of", []))
    if not operands and kind.weight is not Parameter:
        raise ValueError(f"{tree['kind']} of nothing")
    weight = kind.read(tree, operands)
    if expression(weight) != tree:
        raise ValueError(f"{weight.label} is not in its shortest form, or holds unknown keys")
    return weight


def _operands(weight: Weight) -> tuple[Weight, ...]:
    if isinstance(weight, Concatenated):
        return weight.parts
    of = getattr(weight, "of", None)
    return (of,) if isinstance(of, Weight) else ()
