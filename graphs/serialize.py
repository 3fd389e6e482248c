"""Graph <-> canonical JSON: equal graphs give equal bytes, weights stay references.

    text = dumps(graph)
    graph = loads(text)

    {"constants": {name: {"dtype", "shape", "values" or "base64"}},  small finite ones as numbers, others as little-endian bytes
     "inputs": [[name, dtype, shape]], "outputs": [[name, value]], "slots": [[name, {...}]],       in the graph's order
     "states": [[name, {...}]],                                         where there are any; they are inputs and outputs, too
     "name", "nodes": [{"op", "inputs", "outputs", "attrs", "layer"}], "version": 1,
     "weights": {value name: expression}}                             {"kind": "parameter", ...} under transforms

Shapes hold sizes and dim names. Types of computed values are not stored: the op table infers them again, so that a file cannot
contradict it. Reading verifies the graph; whatever is wrong with the text is an `InvalidInputError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import numpy as np
from kexport.graphs.arrays_json import ArrayRecord, array_record, record_array
from kexport.graphs.dims import product
from kexport.graphs.ir import Attribute, Graph, Node, Slot, State
from kexport.graphs.ops import infer_types
from kexport.graphs.verify import verify
from kexport.graphs.weights_json import expression, weight_of
from kexport.runtime.contract.dtypes import element_type
from kexport.runtime.contract.errors import InternalError, InvalidInputError, KexportError

VERSION = 1
SPREAD_LEVELS = 2  # nesting down to which a document is written one item a line


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strict about unknown keys."""


class SlotRecord(Record, frozen=True):
    """A cache slot."""

    kind: Literal["self", "cross"]
    num_key_value_heads: int
    head_dim: int
    value_head_dim: int
    dtype: str


class StateRecord(Record, frozen=True):
    """A state."""

    kind: Literal["convolution", "recurrent"]
    shape: tuple[int, ...]
    dtype: str


class NodeRecord(Record, frozen=True):
    """A node."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any] = {}
    layer: str = ""


class GraphRecord(Record, frozen=True):
    """The document."""

    version: int
    name: str
    inputs: tuple[tuple[str, str, tuple[int | str, ...]], ...]
    outputs: tuple[tuple[str, str], ...]
    slots: tuple[tuple[str, SlotRecord], ...]
    nodes: tuple[NodeRecord, ...]
    constants: dict[str, ArrayRecord]
    weights: dict[str, dict[str, Any]]
    states: tuple[tuple[str, StateRecord], ...] = ()


def document(graph: Graph) -> dict[str, Any]:
    """The graph as JSON values.

    Raises:
        InternalError: an attribute that is no JSON scalar or tuple of them.
    """
    states = [[name, msgspec.to_builtins(StateRecord(state.kind, state.shape, state.dtype))] for name, state in graph.states.items()]
    return {
        "version": VERSION,
        "name": graph.name,
        "inputs": [[name, type_.dtype, list(type_.shape)] for name, type_ in graph.inputs.items()],
        "outputs": [[output, value] for output, value in graph.outputs.items()],
        "slots": [[name, msgspec.to_builtins(SlotRecord(*_slot_fields(slot)))] for name, slot in graph.slots.items()],
        "nodes": [_node_document(node) for node in graph.nodes],
        "constants": {name: array_record(array) for name, array in graph.constants.items()},
        "weights": {name: expression(weight) for name, weight in graph.weights.items()},
        **({"states": states} if states else {}),
    }


def graph_of(value: Any) -> Graph:
    """The graph of a document, verified.

    Raises:
        InvalidInputError: it is no such document, or the graph in it breaks the grammar.
    """
    try:
        record = msgspec.convert(value, GraphRecord)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _invalid(str(error)) from error
    if record.version != VERSION:
        raise _invalid(f"version {record.version}, this kexport reads version {VERSION}")
    try:
        graph = _build(record)
        verify(graph)
    except KexportError as error:
        raise _invalid(error.message) from error
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError, RecursionError) as error:
        # An op's rule that meets an attribute of the wrong kind: `axis` as text, a negative shape.
        raise _invalid(f"a node's attributes or inputs are of the wrong kind ({type(error).__name__}: {error})") from error
    return graph


def dumps(graph: Graph) -> str:
    """Canonical JSON text, ASCII, ending in a newline: byte-identical for equal graphs."""
    return canonical(document(graph))


def loads(text: str | bytes) -> Graph:
    """The graph of `dumps`.

    Raises:
        InvalidInputError: as `graph_of`, or the text is no JSON.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"no JSON: {error}") from error
    return graph_of(value)


def canonical(value: Any, levels: int = SPREAD_LEVELS) -> str:
    """JSON with sorted keys and one item a line in the outer `levels`, so that differences read well.

    Raises:
        InternalError: a value JSON cannot hold, infinity and NaN included.
    """
    try:
        return _spread(value, levels, "") + "\n"
    except (TypeError, ValueError) as error:
        raise InternalError("KX909", f"cannot be written as JSON: {error}") from error


def _spread(value: Any, levels: int, margin: str) -> str:
    if not levels or not isinstance(value, dict | list) or not value:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    inner = margin + " "
    if isinstance(value, dict):
        items: Iterable[str] = (f"{json.dumps(key)}: {_spread(value[key], levels - 1, inner)}" for key in sorted(value))
    else:
        items = (_spread(item, levels - 1, inner) for item in value)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(items) + f"\n{margin}{closing}"


def _slot_fields(slot: Slot) -> tuple[Any, ...]:
    return slot.kind, slot.num_key_value_heads, slot.head_dim, slot.value_head_dim, slot.dtype


def _node_document(node: Node) -> dict[str, Any]:
    result: dict[str, Any] = {"op": node.op, "inputs": list(node.inputs), "outputs": list(node.outputs)}
    if node.attrs:
        result["attrs"] = {name: _plain(node, name, value) for name, value in node.attrs.items()}
    if node.layer:
        result["layer"] = node.layer
    return result


def _plain(node: Node, name: str, value: Attribute) -> Any:
    """Tuples as lists; exactly Python's own scalars, so that equal graphs cannot differ by a numpy type."""
    if isinstance(value, tuple):
        return [_plain(node, name, item) for item in value]
    if type(value) in (bool, int, str, type(None)) or (type(value) is float and np.isfinite(value)):
        return value
    raise InternalError("KX909", f"attribute `{name}` of `{node.op}` is {value!r}, which the graph's file cannot hold")


def _attribute(value: Any) -> Attribute:
    """Lists as tuples.

    Raises:
        ValueError: a JSON object, or a number beyond float64.
    """
    if isinstance(value, list | tuple):
        return tuple(_attribute(item) for item in value)
    if isinstance(value, dict) or (isinstance(value, float) and not np.isfinite(value)):
        raise ValueError(f"{value!r} is no attribute")
    scalar: Attribute = value
    return scalar


def _dim(dim: int | str) -> int | str:
    """The dim.

    Raises:
        ValueError: a negative size, or a product that is not in canonical form.
    """
    canonical_form = all(dim.split("*")) and product([dim]) == dim if isinstance(dim, str) else dim >= 0
    if not canonical_form:
        raise ValueError(f"{dim!r} is no dim")
    return dim


def _build(record: GraphRecord) -> Graph:
    graph = Graph(record.name)
    for name, dtype, shape in record.inputs:
        graph.add_input(name, element_type(dtype).name, tuple(_dim(dim) for dim in shape))
    for name, slot in record.slots:
        graph.slots[name] = Slot(slot.kind, slot.num_key_value_heads, slot.head_dim, slot.value_head_dim, slot.dtype)
    graph.states = {name: State(state.kind, state.shape, state.dtype) for name, state in record.states}
    for name, array in record.constants.items():
        graph.add_constant(record_array(array), name)
    for name, tree in record.weights.items():
        weight = weight_of(tree)
        if graph.add_weight(weight) != name:
            raise ValueError(f"weight `{name}` is {weight.label}")
    if len({*graph.inputs, *graph.constants, *graph.weights}) != len(record.inputs) + len(record.constants) + len(record.weights):
        raise ValueError("two inputs, constants or weights share a name")
    if len(graph.slots) != len(record.slots) or len(graph.states) != len(record.states) or len(dict(record.outputs)) != len(record.outputs):
        raise ValueError("two slots, states or outputs share a name")
    for item in record.nodes:
        attrs = {name: _attribute(value) for name, value in item.attrs.items()}
        node = Node(item.op, item.inputs, item.outputs, attrs, item.layer)
        for name, type_ in zip(node.outputs, infer_types(graph, node), strict=True):
            if name in graph.types:
                raise ValueError(f"value `{name}` is produced twice")
            graph.types[name] = type_
        graph.nodes.append(node)
    graph.outputs = dict(record.outputs)
    return graph


def _invalid(why: str) -> InvalidInputError:
    return InvalidInputError(
        "KX470", f"this is no graph that kexport wrote: {why}", hint="write it again with kexport.graphs.serialize.dumps"
    )
