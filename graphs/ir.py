"""The graph: typed values, nodes in execution order, weights as references, cache slots as data.

    graph.inputs      name -> TensorType      token_ids [batch, sequence] int32, positions [batch, sequence] int32, ...
    graph.nodes       Node(op, inputs, outputs, attrs): the op's meaning is its entry in `kexport.graphs.ops`
    graph.constants   value name -> array     small, part of the graph
    graph.weights     value name -> Weight    references, never bytes
    graph.slots       slot name -> Slot       one KV cache each; attention names the slot it reads and writes
    graph.states      state name -> State     what a call hands to the next beside KV caches: the input and the output of that name
    graph.outputs     output name -> value name

A value is a name with a type; it is produced once. Attributes are JSON scalars and tuples of them; arrays are constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from kexport.graphs.dims import BATCH, Shape
from kexport.graphs.weights import Weight
from kexport.runtime.contract.errors import InternalError
from numpy.typing import NDArray

Attribute = bool | int | float | str | None | tuple["Attribute", ...]
ABSENT = ""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Dtype name and shape; sizes are fixed or named."""

    dtype: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(slots=True)
class Node:
    """One op. `inputs` are value names, `""` where an optional one is absent. `layer` is the original's layer path, for messages."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Attribute] = field(default_factory=dict)
    layer: str = ""

    @property
    def output(self) -> str:
        """The only (or first) output."""
        return self.outputs[0]

    def input(self, index: int) -> str:
        """Input `index`, `""` where absent or beyond the last one given."""
        return self.inputs[index] if index < len(self.inputs) else ABSENT


@dataclass(frozen=True, slots=True)
class Slot:
    """One KV cache: [batch, total, num_key_value_heads, head_dim] keys and the same with value_head_dim values, whatever a target's layout."""

    kind: Literal["self", "cross"]
    num_key_value_heads: int
    head_dim: int
    value_head_dim: int
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class State:
    """A fixed-size state of every row: the graph input of its name is [batch, *shape] before the call, the graph output of that name after it.

    It starts as zeros and takes every token of a call: it knows no padding, cannot be rewound, and must be reordered with the caches.
    """

    kind: Literal["convolution", "recurrent"]
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(slots=True)
class Graph:
    """A graph; build it with the `add_*` methods, then `kexport.graphs.verify.verify` it."""

    name: str
    inputs: dict[str, TensorType] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)

    # ---- building

    def add_input(self, name: str, dtype: str, shape: Shape) -> str:
        """Declare a graph input."""
        self.inputs[name] = self.types[name] = TensorType(dtype, shape)
        return name

    def add_state(self, name: str, state: State) -> str:
        """Declare a state; returns its value before the call. The output of the same name is the caller's to set."""
        self.states[name] = state
        return self.add_input(name, state.dtype, (BATCH, *state.shape))

    def add_constant(self, array: Any, name: str = "") -> str:
        """Add a constant; equal constants share one value unless named."""
        array = np.asarray(array)
        if not name:
            for known, other in self.constants.items():
                if other.dtype == array.dtype and other.shape == array.shape and other.tobytes() == array.tobytes():
                    return known
            name = self.fresh_name("constant")
        self.constants[name] = array
        self.types[name] = TensorType(array.dtype.name, array.shape)
        return name

    def add_weight(self, weight: Weight) -> str:
        """Add a weight reference; the same weight is added once.

        Raises:
            InternalError: another weight has the same label.
        """
        name = f"weight:{weight.label}"
        if self.weights.get(name, weight) != weight:
            raise InternalError("KX902", f"two different weights are called {weight.label}")
        self.weights[name] = weight
        self.types[name] = TensorType(weight.dtype, weight.shape)
        return name

    def add_node(self, op: str, inputs: Iterable[str], *, layer: str = "", before: Node | None = None, output: str = "", **attrs: Attribute) -> str:
        """Add a one-output node at the end, or in front of `before`; its type comes from the op's rule. Returns the output's name."""
        return self._insert(Node(op, tuple(inputs), (output or self.fresh_name(op),), dict(attrs), layer), before).output

    def add_nodes(self, op: str, inputs: Iterable[str], count: int, *, layer: str = "", before: Node | None = None, **attrs: Attribute) -> tuple[str, ...]:
        """`add_node` for an op with `count` outputs; returns their names."""
        stem = self.fresh_name(op)
        return self._insert(Node(op, tuple(inputs), tuple(f"{stem}.{index}" for index in range(count)), dict(attrs), layer), before).outputs

    def _insert(self, node: Node, before: Node | None) -> Node:
        from kexport.graphs.ops import infer_types

        for name, type_ in zip(node.outputs, infer_types(self, node), strict=True):
            self.types[name] = type_
        self.nodes.insert(self.nodes.index(before) if before is not None else len(self.nodes), node)
        return node

    def fresh_name(self, stem: str) -> str:
        """A value name not used yet, stable between two equal builds."""
        number = len(self.types)
        while f"{stem}_{number}" in self.types:
            number += 1
        return f"{stem}_{number}"

    # ---- looking

    def producers(self) -> dict[str, Node]:
        """Value name -> the node that makes it."""
        return {output: node for node in self.nodes for output in node.outputs}

    def readers(self) -> dict[str, list[Node]]:
        """Value name -> the nodes that read it (graph outputs do not count)."""
        result: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                result.setdefault(name, []).append(node)
        return result

    def of_op(self, *ops: str) -> Iterator[Node]:
        """The nodes with one of these ops, in order; safe against edits while iterating."""
        return (node for node in list(self.nodes) if node.op in ops)

    def is_static(self, name: str) -> bool:
        """Whether the value is a constant or a weight."""
        return name in self.constants or name in self.weights

    def type_of(self, name: str) -> TensorType:
        """The type of value `name`.

        Raises:
            InternalError: no such value.
        """
        if name not in self.types:
            raise InternalError("KX903", f"graph `{self.name}` has no value `{name}`")
        return self.types[name]

    # ---- editing

    def replace_uses(self, old: str, new: str) -> None:
        """Let every reader of `old`, graph outputs included, read `new`."""
        for node in self.nodes:
            if old in node.inputs:
                node.inputs = tuple(new if name == old else name for name in node.inputs)
        for output, name in self.outputs.items():
            if name == old:
                self.outputs[output] = new

    def copy(self) -> Graph:
        """An independent copy; weights and constants are shared, they are immutable."""
        nodes = [Node(n.op, n.inputs, n.outputs, dict(n.attrs), n.layer) for n in self.nodes]
        return Graph(
            self.name, dict(self.inputs), dict(self.outputs), nodes, dict(self.types), dict(self.constants), dict(self.weights),
            dict(self.slots), dict(self.states),
        )  # fmt: skip
