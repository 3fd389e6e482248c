"""Zero-padded heads for cache attention whose head size GroupQueryAttention refuses (not a multiple of 8, or keys and values that differ).

Zeros at the end of every head change neither a dot product nor, after the rotation of the first numbers, anything else; the scale is an
attribute and stays. Where a head comes straight from a linear layer its weight is padded when it is written (`Weight.pad`), and so are
the rows of the output projection; elsewhere the zeros are joined on by a Concat and cut off by a Slice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from kexport.graphs.dims import Dim, Shape
from kexport.graphs.ir import Graph, Node, Slot
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import KEY, QUERY, VALUE
from kexport.targets.onnx.attention_gqa import HEAD_MULTIPLE

HEADS_AXIS, SIZE_AXIS = 2, 3


def pad_heads(graph: Graph) -> Graph:
    """A copy of `graph` with padded heads where they are needed; `graph` itself where they are not."""
    slots = {name: _padded_size(slot) for name, slot in graph.slots.items() if _needs_padding(graph, name, slot)}
    if not slots:
        return graph
    graph = graph.copy()
    for name, size in slots.items():
        old = graph.slots[name]
        graph.slots[name] = Slot(old.kind, old.num_key_value_heads, size, size, old.dtype)
    for node in graph.of_op("attention"):
        slot = attribute(node, "slot")
        if slot in slots:
            _Padding(graph, node, slots[str(slot)]).apply()
    _drop_dead_nodes(graph)
    return graph


def _padded_size(slot: Slot) -> int:
    return -(-max(slot.head_dim, slot.value_head_dim) // HEAD_MULTIPLE) * HEAD_MULTIPLE


def _needs_padding(graph: Graph, name: str, slot: Slot) -> bool:
    plain = any(attribute(node, "slot") == name for node in graph.of_op("cache_write", "cache_read"))
    odd = slot.head_dim % HEAD_MULTIPLE != 0 or slot.head_dim != slot.value_head_dim
    return slot.kind == "self" and odd and not plain


@dataclass(slots=True)
class _Padding:
    """Pads one attention node of `graph` to heads of `size` numbers."""

    graph: Graph
    node: Node
    size: int
    producers: dict[str, Node] = field(init=False)

    def __post_init__(self) -> None:
        self.producers = self.graph.producers()

    def apply(self) -> None:
        """Replace the node by one over padded heads."""
        graph, node = self.graph, self.node
        value_dim = int(graph.type_of(node.output).shape[SIZE_AXIS])
        inputs = [self._padded(name) if index in (QUERY, KEY, VALUE) and name else name for index, name in enumerate(node.inputs)]
        output = graph.add_node("attention", inputs, layer=node.layer, before=node, **_attributes(node))
        self._replace_output(output, value_dim)
        graph.nodes.remove(node)

    # ---- inputs

    def _padded(self, name: str) -> str:
        """`name` [batch, sequence, heads, dim] with its heads padded to `size`."""
        if self.graph.type_of(name).shape[SIZE_AXIS] == self.size:
            return name
        return self._through_weights(name) or self._joined(name)

    def _joined(self, name: str) -> str:
        type_ = self.graph.type_of(name)
        missing = self.size - int(type_.shape[SIZE_AXIS])
        zero = self.graph.add_constant(np.zeros((1, 1, 1, missing), type_.dtype))
        zeros = self.graph.add_node("broadcast_to", [zero], before=self.node, shape=(*type_.shape[:SIZE_AXIS], missing))
        return self.graph.add_node("concat", [name, zeros], before=self.node, axis=SIZE_AXIS)

    def _through_weights(self, name: str) -> str | None:
        """Follow rope, reshape and split back to a linear layer and pad its weight; None where something else is on the way."""
        node = self.producers.get(name)
        if node is None:
            return None
        if node.op == "rope":
            inner = self._through_weights(node.input(0))
            return inner and self.graph.add_node("rope", [inner, *node.inputs[1:]], layer=node.layer, before=self.node, **_attributes(node))
        if node.op != "reshape":
            return None
        shape = self.graph.type_of(name).shape
        flat = self._flat_source(node.input(0), int(shape[SIZE_AXIS]))
        return flat and self.graph.add_node("reshape", [flat], before=self.node, shape=(*shape[:SIZE_AXIS], self.size))

    def _flat_source(self, name: str, dim: int) -> str | None:
        """`name` [batch, sequence, heads * dim], from a linear layer or a part of one, with every head padded."""
        node = self.producers.get(name)
        if node is not None and node.op == "linear":
            return self._padded_linear(node, dim)
        source = self.producers.get(node.input(0)) if node is not None and node.op == "split" else None
        if node is None or source is None or source.op != "linear" or not self._all_heads_of(node, dim):
            return None
        linear = self._padded_linear(source, dim)
        return linear and self._padded_split(node, linear, dim)[node.outputs.index(name)]

    def _all_heads_of(self, split: Node, dim: int) -> bool:
        """Whether every part of a split is read as heads of `dim` numbers."""
        readers = self.graph.readers()
        ends = [reader for output in split.outputs for reader in readers.get(output, [])]
        return all(reader.op == "reshape" and self.graph.type_of(reader.output).shape[-1] == dim for reader in ends)

    def _padded_split(self, node: Node, source: str, dim: int) -> tuple[str, ...]:
        outputs = tuple(f"{name}.padded{self.size}" for name in node.outputs)
        if outputs[0] not in self.graph.types:
            sizes = tuple(int(part) // dim * self.size for part in attribute(node, "sizes"))
            split = Node("split", (source,), outputs, {"axis": attribute(node, "axis"), "sizes": sizes}, node.layer)
            shape = self.graph.type_of(source).shape
            for output, part in zip(outputs, sizes, strict=True):
                self.graph.types[output] = type(self.graph.type_of(source))(self.graph.type_of(source).dtype, (*shape[:-1], part))
            self.graph.nodes.insert(self.graph.nodes.index(self.node), split)
        return outputs

    def _padded_linear(self, node: Node, dim: int) -> str | None:
        name = f"{node.output}.padded{self.size}"
        if name in self.graph.types:
            return name
        weight, bias = self._padded_static(node.input(1), dim), self._padded_static(node.input(2), dim)
        if weight is None or bias is None:
            return None
        return self.graph.add_node("linear", [node.input(0), weight, bias], layer=node.layer, before=self.node, output=name)

    def _padded_static(self, name: str, dim: int) -> str | None:
        """A weight or constant whose last axis is heads of `dim`, padded; `""` stays, None where it is computed."""
        return name if not name else self._pad_axis(name, -1, dim)

    def _pad_axis(self, name: str, axis: int, dim: int) -> str | None:
        shape = self.graph.type_of(name).shape
        axis %= len(shape)
        sizes = tuple(int(size) for size in shape)
        if sizes[axis] % dim:
            return None
        heads = sizes[axis] // dim
        apart = (*sizes[:axis], heads, dim, *sizes[axis + 1 :])
        padding = tuple((0, self.size - dim if index == axis + 1 else 0) for index in range(len(apart)))
        together = (*sizes[:axis], heads * self.size, *sizes[axis + 1 :])
        if name in self.graph.weights:
            return self.graph.add_weight(self.graph.weights[name].reshape(apart).pad(padding).reshape(together))
        if name in self.graph.constants:
            return self.graph.add_constant(np.pad(self.graph.constants[name].reshape(apart), padding).reshape(together))
        return None

    # ---- output

    def _replace_output(self, output: str, value_dim: int) -> None:
        readers = self.graph.readers().get(self.node.output, [])
        if (
            len(readers) != 1
            or self.node.output in self.graph.outputs.values()
            or not self._through_projection(readers[0], output, value_dim)
        ):
            cut = self.graph.add_node("slice", [output], before=self.node, axis=SIZE_AXIS, start=0, stop=value_dim)
            self.graph.replace_uses(self.node.output, cut)

    def _through_projection(self, reader: Node, output: str, value_dim: int) -> bool:
        """attention -> reshape -> linear: pad the rows of the projection's weight instead of cutting the heads."""
        heads: Dim = self.graph.type_of(output).shape[HEADS_AXIS]
        linears = self.graph.readers().get(reader.output, [])
        flat: Shape = (*self.graph.type_of(output).shape[:HEADS_AXIS], int(heads) * value_dim)
        if reader.op != "reshape" or self.graph.type_of(reader.output).shape != flat or len(linears) != 1:
            return False
        linear = linears[0]
        if linear.op != "linear" or reader.output in self.graph.outputs.values() or linear.input(0) != reader.output:
            return False
        weight = self._pad_axis(linear.input(1), 0, value_dim)
        if weight is None:
            return False
        merged = self.graph.add_node("reshape", [output], before=linear, shape=(*flat[:-1], int(heads) * self.size))
        projected = self.graph.add_node("linear", [merged, weight, *linear.inputs[2:]], layer=linear.layer, before=linear)
        self.graph.replace_uses(linear.output, projected)
        return True


def _attributes(node: Node) -> dict[str, Any]:
    return dict(node.attrs)


def _drop_dead_nodes(graph: Graph) -> None:
    needed = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        writes = node.op == "cache_write" or (node.op == "attention" and bool(attribute(node, "write")))
        if writes or any(output in needed for output in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    graph.nodes = kept[::-1]
